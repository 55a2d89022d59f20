"""Cuts bytes where their content says so, as stores of large files do to keep equal parts once. Knows no file format.

A gear hash over 32 bytes stands in for that of any such store: what it gives are shares, not what a server would bill.
"""

from __future__ import annotations

import hashlib

import numpy as np

LEAST, MEAN, MOST = 2**14, 2**16, 2**18
"""Bytes of a chunk; only a last one may be smaller."""
WINDOW = 32
_BLOCK = 2**22
_GEAR = np.random.default_rng(0).integers(0, 2**32, 256, dtype=np.uint32)
_BELOW = np.uint32(2**32 // (MEAN - LEAST))


def chunk_ends(data: bytes) -> list[int]:
    """Where the chunks of some bytes end."""
    ends, start = [], 0
    for cut in [*_cuts(np.frombuffer(data, dtype=np.uint8)).tolist(), len(data)]:
        while cut - start > MOST:
            start += MOST
            ends.append(start)
        if cut - start >= LEAST or start < cut == len(data):
            start = cut
            ends.append(start)
    return ends


def chunks(data: bytes) -> dict[bytes, int]:
    """Size of each different chunk of some bytes, by its digest."""
    ends, view = chunk_ends(data), memoryview(data)
    return {
        hashlib.blake2b(view[start:end], digest_size=16).digest(): end - start
        for start, end in zip([0, *ends[:-1]], ends)
    }


def _cuts(values: np.ndarray) -> np.ndarray:
    """Ends of all windows whose hash is low."""
    found = []
    for start in range(0, len(values), _BLOCK):
        before = min(start, WINDOW - 1)
        hashes = _GEAR[values[start - before : start + _BLOCK]]
        for width in (1, 2, 4, 8, 16):
            shifted = hashes[:-width] << np.uint32(width)
            hashes[width:] += shifted
        found.append(np.flatnonzero(hashes[before:] < _BELOW) + start + 1)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

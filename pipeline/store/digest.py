"""Digest of rows: equal for equal rows, however they are chunked, batched or encoded."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class RowDigest:
    """Takes rows in order, some at a time; one running hash for each part of a column: nulls, lengths, values."""

    def __init__(self, schema: pa.Schema):
        self._schema = pa.schema([field.remove_metadata() for field in schema])
        self._parts: defaultdict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        """The next rows, in the columns of the schema."""
        self._rows += rows.num_rows
        for name, column in zip(self._schema.names, rows.columns, strict=True):
            for chunk in column.chunks:
                self._take(name, chunk)

    def hexdigest(self) -> str:
        """Of what was added so far."""
        whole = hashlib.sha256(f"{self._schema}\n{self._rows}\n".encode())
        for part in sorted(self._parts):
            whole.update(f"{part}\n".encode() + self._parts[part].digest())
        return whole.hexdigest()

    def _take(self, name: str, column: pa.Array) -> None:
        if len(column) == 0:
            return
        self._parts[f"{name} null"].update(column.is_null().cast(pa.uint8()).to_numpy())
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = pc.list_value_length(column).fill_null(0).cast(pa.int64())
            self._parts[f"{name} length"].update(lengths.to_numpy())
            self._take(f"{name}[]", column.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            filled = pc.fill_null(column.cast(pa.large_string()), "")
            ends = np.frombuffer(filled.buffers()[1], np.int64, len(filled) + 1, filled.offset * 8)
            self._parts[f"{name} length"].update(np.diff(ends))
            self._parts[name].update(memoryview(filled.buffers()[2] or b"")[ends[0] : ends[-1]])
        elif not pa.types.is_null(kind):
            plain = pa.uint8() if pa.types.is_boolean(kind) else pa.int64() if pa.types.is_timestamp(kind) else kind
            values = column.cast(plain).fill_null(0).to_numpy(zero_copy_only=False)
            self._parts[name].update(np.ascontiguousarray(values))


def content_digest(rows: pa.Table) -> str:
    """Hex digest of a table's rows."""
    digest = RowDigest(rows.schema)
    digest.add(rows)
    return digest.hexdigest()

"""Draws what a policy writes: token ids that repeat themselves as text does, their log-probabilities, their spelling.

Ids: words by a law of Zipf and Mandelbrot, a part of them in phrases from a stock that all tasks share, and runs of
either that come back soon after. The constants were fitted to what the tokens of documentation and code take (32k byte
pairs, spread over a vocabulary of 151,936), in bytes each; in brackets what a million drawn here take. Entropy of order
0: 1.22 (1.25). As Parquet in pages of 1 MiB: int32 under zstd 3 1.34 (1.33), under zstd 12 1.21 (1.24), by dictionary
1.41 (1.44), by byte-stream split 1.66 (1.67), by differences 2.19 (2.30). In pages of 64 to 256 KiB under zstd 3 they
take 1.52 where two real samples took 1.10 (Python) and 1.20 (documentation): near by, they repeat less than real text.

Log-probabilities: a share of the tokens is all but certain, over many orders of magnitude; the others are exponential.
Every bit of the mantissa is drawn. Byte-stream split under zstd 3 in pages of 1 MiB they take the 3.46 bytes that are
known of such values. Their sign and exponent hold 3.1 bits, their mantissas all 23; in 7,898 tokens that a model of 135
million parameters drew at temperature 1 it was 2.7 bits, and all 23 too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VOCABULARY, WORDS = 151_936, 32_768
"""Token ids that a current model has, and how many of them occur."""
EXPONENT, SHIFT = 1.1, 5.0
"""Of the words' law: chances fall with (rank + SHIFT) ** -EXPONENT."""
PHRASES, PHRASE_TOKENS, PHRASE_SHARE = 60_000, 3.5, 0.35
"""Phrases of the stock, whose chances fall with the rank; their mean length; how many of the units are phrases."""
RUN_UNITS, RUN_SHARE, REACH = 4, 0.45, 1_500
"""Units of a run, and how many runs come back; at most, the units between. Most come back much sooner."""
LIKELY = 0.7
"""Share of tokens that the policy was all but sure of."""
SURE, SURE_SPREAD, UNSURE = -6.0, 2.0, 1.5
"""Mean and standard deviation of the logarithm of their surprise, in nats; mean surprise of the others."""
QUANTILES = 2**20


class Stock(NamedTuple):
    """What texts are made of. A unit is a word or a phrase; the first WORDS units are the words.

    words:    `[QUANTILES]` int32, words as often as they occur.
    phrases:  `[QUANTILES]` int32, phrases likewise.
    content:  `[C]` int32, the words of all units, one unit after the other.
    offsets:  `[U + 1]` int32, where each unit begins in it.
    ids:      `[WORDS]` int32, the token id of each word.
    spelling: `[WORDS]` strings, the blank before each included; rarer words are longer.
    """

    words: np.ndarray
    phrases: np.ndarray
    content: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    spelling: pa.Array


@lru_cache(maxsize=2)
def stock(seed: int) -> Stock:
    """The stock of a seed."""
    random = np.random.default_rng([seed, WORDS])
    words = _by_chance((np.arange(1, WORDS + 1) + SHIFT) ** -EXPONENT)
    lengths = np.concatenate((np.ones(WORDS, np.int64), 1 + random.geometric(1 / (PHRASE_TOKENS - 1), PHRASES)))
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    inside = words[random.integers(0, QUANTILES, offsets[-1] - WORDS)]
    letters = (1 + np.log2(np.arange(1, WORDS + 1)) / 3).astype(int)
    spelt = random.integers(ord("a"), ord("z") + 1, letters.sum(), dtype=np.uint8).tobytes().decode()
    ends = np.cumsum(letters)
    return Stock(
        words=words,
        phrases=WORDS + _by_chance(1.0 / np.arange(1, PHRASES + 1)),
        content=np.concatenate((np.arange(WORDS, dtype=np.int32), inside)),
        offsets=offsets,
        ids=random.permutation(VOCABULARY)[:WORDS].astype(np.int32),
        spelling=pa.array([f" {spelt[end - size : end]}" for end, size in zip(ends.tolist(), letters.tolist())]),
    )


def draw_words(random: np.random.Generator, of: Stock, count: int) -> np.ndarray:
    """`[count]` int32 words of running text."""
    mean = PHRASE_SHARE * PHRASE_TOKENS + 1 - PHRASE_SHARE
    texts, total = [], 0
    while total < count:
        units = _draw_units(random, of, int((count - total) / mean * 1.01) + 64)
        starts, lengths = of.offsets[units], of.offsets[units + 1] - of.offsets[units]
        ends = np.cumsum(lengths, dtype=np.int32)
        places = np.repeat(starts - (ends - lengths), lengths)
        places += np.arange(ends[-1], dtype=np.int32)
        texts.append(of.content[places])
        total += int(ends[-1])
    return np.concatenate(texts)[:count]


def draw_logprobs(random: np.random.Generator, count: int) -> np.ndarray:
    """`[count]` float32, nats, below 0 but for underflow."""
    surprise = random.standard_exponential(count, dtype=np.float32) * np.float32(UNSURE)
    sure = np.flatnonzero(random.random(count, dtype=np.float32) < LIKELY)
    spread = random.standard_normal(len(sure), dtype=np.float32) * np.float32(SURE_SPREAD)
    surprise[sure] = np.exp(spread + np.float32(SURE))
    return -surprise


def spell(of: Stock, words: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """`[N]` texts, each of the words from one offset to the next."""
    spelt = of.spelling.take(pa.array(words))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), spelt), "")


def _draw_units(random: np.random.Generator, of: Stock, count: int) -> np.ndarray:
    """`[count]` int32 units: words and phrases, of which runs come back."""
    places = random.integers(0, QUANTILES, count, dtype=np.int32)
    units = np.where(random.random(count, dtype=np.float32) < PHRASE_SHARE, of.phrases[places], of.words[places])
    run = np.cumsum(random.random(count, dtype=np.float32) < 1 / RUN_UNITS, dtype=np.int32)
    runs = int(run[-1]) + 1
    back = 1 + (random.random(runs) ** 3 * REACH).astype(np.int32)
    back[random.random(runs) >= RUN_SHARE] = 0
    source = np.arange(count, dtype=np.int32) - back[run]
    return units[np.maximum(source, 0)]


def _by_chance(weights: np.ndarray) -> np.ndarray:
    """`[QUANTILES]` int32: indices of the weights, each as often as its weight."""
    chances = np.cumsum(weights)
    return np.searchsorted(chances / chances[-1], (np.arange(QUANTILES) + 0.5) / QUANTILES).astype(np.int32)

"""Where a macro action of a response begins: by count, at random, by perplexity or by parse.

Does not know what is done with macro actions, and does not parse: it takes the spans a parser found.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from pipeline.credit.ragged import Ragged, rows_of
from pipeline.errors import BadConfig

RANDOM_LENGTHS = (1, 2, 3, 5, 10)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Macros(NamedTuple):
    """`B` macro actions of `M` responses.

    boundaries: `[B]` int64, the token each begins at, from 0 within its response.
    offsets: `[M + 1]` int64, where the macro actions of each response begin.
    lengths: `[B]` int64, tokens of each.
    """

    boundaries: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


class Spans(NamedTuple):
    """`P` nodes of the constituency trees of the sentences of `M` responses, in tokens of the policy.

    response: `[P]` int, row of the response. start: `[P]` int, first token, from 0 within it. size: `[P]` int, tokens.
    parent: `[P]` int, row of the node above; -1 for a whole sentence.
    """

    response: np.ndarray
    start: np.ndarray
    size: np.ndarray
    parent: np.ndarray


def close(openings: Ragged, lengths: np.ndarray, *, drop_repeated: bool = True) -> Macros:
    """Add the first token and the last one, which is always a macro action of its own, to what a rule opens.

    Args:
        openings: tokens at which a rule begins a macro action, a row a response, in any order. The first token need not
            be among them.
        lengths: `[M]` int, tokens of each response. One without tokens has no macro action, one of a token has one.
        drop_repeated: False keeps a boundary that the rule opened twice, or the closing one where the rule opened it
            already: a macro action of length 0.
    """
    count, width = len(lengths), int(np.max(lengths, initial=0)) + 1
    some = np.flatnonzero(lengths > 0) * width
    opened = rows_of(openings.offsets) * width + openings.values.astype(np.int64)
    opened = np.concatenate((np.setdiff1d(some, opened), opened))
    closing = some + lengths[lengths > 0] - 1
    if not drop_repeated:
        keys = np.sort(np.concatenate((opened, closing[lengths[lengths > 0] > 1])))
    else:
        keys = np.union1d(opened, closing)
    row, boundaries = keys // width, keys % width
    offsets = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=count))))
    tokens = np.concatenate(([0], np.cumsum(lengths)))
    return Macros(boundaries, offsets, np.diff(tokens[row] + boundaries, append=tokens[-1]))


def every(lengths: np.ndarray, ngram: int) -> Ragged:
    """A macro action after every `ngram` tokens.

    Raises:
        BadConfig: `ngram` is less than 1.
    """
    if ngram < 1:
        raise BadConfig(f"ma_rlhf ngram {ngram} is less than 1", remedy="use 5, or 1 for single tokens")
    counts = -(-lengths // ngram)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return Ragged((np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)) * ngram, offsets)


def at_random(lengths: np.ndarray, keys: np.ndarray, *, repeat_times: int, seed: int) -> Ragged:
    """Lengths from a shuffled list in which each of `RANDOM_LENGTHS` occurs some times; what is left is one more.

    Args:
        lengths: `[M]` int, tokens of each response.
        keys: `[M]` int64, a number of each response. The same number and seed give the same shuffle in any batch.
        repeat_times: how often each length occurs.
        seed: of all shuffles.
    """
    listed = np.repeat(RANDOM_LENGTHS, repeat_times)
    drawn = _mix(
        _mix(keys.astype(np.uint64) + np.uint64(seed % 2**64))[:, None] + np.arange(len(listed), dtype=np.uint64)
    )
    ends = np.cumsum(listed[np.argsort(drawn, axis=1, kind="stable")], axis=1)
    inside = ends < lengths[:, None]
    return Ragged(ends[inside], np.concatenate(([0], np.cumsum(inside.sum(axis=1)))))


def at_rises(perplexities: Ragged) -> Ragged:
    """At the first token, and at every one whose follower is more perplexing to the reference than it is itself.

    The first token is opened twice where that is so of it.

    Args:
        perplexities: of each token, a row a response; its negative log-probability will do. NaN never rises.
    """
    values, row = perplexities.values, rows_of(perplexities.offsets)
    rises = np.zeros(len(values), dtype=bool)
    rises[:-1] = (values[1:] > values[:-1]) & (row[1:] == row[:-1])
    starts = perplexities.offsets[:-1]
    places = np.sort(np.concatenate((starts[np.diff(perplexities.offsets) > 0], np.flatnonzero(rises))))
    counts = np.bincount(row[places], minlength=len(starts))
    return Ragged(places - starts[row[places]], np.concatenate(([0], np.cumsum(counts))))


def at_spans(spans: Spans, lengths: np.ndarray, *, cutoff: int) -> Ragged:
    """One macro action a constituent of fewer than `cutoff` tokens, found depth first; a single token joins the one
    before it.

    Args:
        spans: of all responses; parents before children.
        lengths: `[M]` int, tokens of each response. One whose sentences have not as many falls back to single tokens.
        cutoff: tokens from which a constituent is taken apart.
    """
    whole = spans.parent < 0
    parsed = np.bincount(spans.response[whole], spans.size[whole], minlength=len(lengths))
    lost = parsed != lengths
    above = np.where(whole, cutoff, spans.size[spans.parent])
    opens = (above >= cutoff) & (spans.size > 1) & (spans.size < cutoff) & ~lost[spans.response]
    single = every(np.where(lost, lengths, 0), 1)
    row = np.concatenate((spans.response[opens], rows_of(single.offsets)))
    places = np.concatenate((spans.start[opens], single.values))
    order = np.argsort(row, kind="stable")
    return Ragged(places[order], np.concatenate(([0], np.cumsum(np.bincount(row, minlength=len(lengths))))))


def split_sentences(text: str) -> list[str]:
    """The sentences to parse: text is cut at a full stop, exclamation or question mark before blanks, and at lines."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]


def _mix(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64: numbers near to each other become numbers that are not."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))

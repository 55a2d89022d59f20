"""Which steps were taken from the same state: the very same, or one whose text is much alike.

Does not know rewards. States of different tasks are never the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

NO_STATE = -1
_COLUMNS = 256


def same_state(states: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Number steps by task and state, in the order of each number's first step.

    Args:
        states: `[P]` int64, code of the state; NO_STATE where none is known, which is nobody else's.
        tasks: `[P]` int, code of the task.

    Returns:
        `[P]` int64, from 0.
    """
    order = np.lexsort((states, tasks))
    state, task = states[order], tasks[order]
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (state[1:] != state[:-1]) | (task[1:] != task[:-1]) | (state[1:] == NO_STATE)
    firsts = order[opens]
    number = np.empty(len(firsts), dtype=np.int64)
    number[np.argsort(firsts)] = np.arange(len(firsts))
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = number[np.cumsum(opens) - 1]
    return groups


def alike_state(texts: Sequence[str | None], tasks: np.ndarray, *, threshold: float) -> np.ndarray:
    """Number steps by task and how much the texts of their states are alike.

    A step joins the first number whose first text it resembles by at least the threshold, else opens one. The
    resemblance is `SequenceMatcher(None, text, first).ratio()` of difflib, which is not symmetric; a text is held
    against the firsts of its task alone, and only where the lengths and the letters of both allow the threshold.

    Args:
        texts: `[P]`, the state as text; None where none is known, which is nobody else's.
        tasks: `[P]` int, code of the task.
        threshold: in (0, 1).

    Returns:
        `[P]` int64, from 0, in the order of each number's first step.
    """
    codes: dict[str, int] = {}
    states = np.array([NO_STATE if text is None else codes.setdefault(text, len(codes)) for text in texts], np.int64)
    same = same_state(states, tasks)  # a text that stood before goes where it went then
    first = np.unique(same, return_index=True)[1]
    leader = np.arange(len(first))
    known = np.flatnonzero(states[first] != NO_STATE)
    by_task = known[np.argsort(tasks[first[known]], kind="stable")]
    for members in np.split(by_task, np.flatnonzero(np.diff(tasks[first[by_task]])) + 1):
        leader[members] = members[_leaders([texts[row] for row in first[members]], threshold)]
    return np.unique(leader[same], return_inverse=True)[1]


def _leaders(texts: list[str], threshold: float) -> np.ndarray:
    """`[U]`: place of the text each distinct text of a task goes with; its own where it goes with none before."""
    lengths, letters = np.array([len(text) for text in texts], np.int64), _letters(texts)
    leaders, found = np.arange(len(texts)), np.zeros(len(texts), np.int64)
    matchers: dict[int, SequenceMatcher] = {}
    count = 0
    for place, text in enumerate(texts):
        near = found[:count]
        near = near[_ratio(np.minimum(lengths[place], lengths[near]), lengths[place] + lengths[near]) >= threshold]
        shared = np.minimum(letters[place], letters[near]).sum(axis=1)
        near = near[_ratio(shared, lengths[place] + lengths[near]) >= threshold]
        for leader in near.tolist():
            matcher = matchers.get(leader) or matchers.setdefault(leader, SequenceMatcher(None, "", texts[leader]))
            matcher.set_seq1(text)
            if matcher.ratio() >= threshold:
                leaders[place] = leader
                break
        else:
            found[count] = place
            count += 1
    return leaders


def _ratio(matches: np.ndarray, total: np.ndarray) -> np.ndarray:
    """As difflib reckons it from the number of matching letters and the letters of both texts."""
    return np.divide(2.0 * matches, total, out=np.ones(len(total)), where=total > 0)


def _letters(texts: list[str]) -> np.ndarray:
    """`[U, A]` int32: how often each letter stands in a text. Letters beyond `_COLUMNS` share columns, which can only
    raise what two texts have in common."""
    flat = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = np.unique(flat, return_inverse=True)[1] % _COLUMNS
    width = int(codes.max()) + 1 if len(codes) else 1
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    return np.bincount(rows * width + codes, minlength=len(texts) * width).reshape(-1, width).astype(np.int32)

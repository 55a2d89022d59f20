"""What critics are trained to: returns of the steps along judged contexts, and who follows whom in a pack.

numpy and polars alone. Knows no critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.builders.packing import Pack, spans
from pipeline.credit.ragged import suffix_sums
from pipeline.credit.tables import parent_rows
from trainers.scores.contexts import Contexts


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """`P` steps of the contexts that end in a leaf and whose rewards are known, context after context.

    of_entry: `[E]` int64, which step an entry of the contexts is; -1: none.
    last:     `[P]` bool, nothing is said after it.
    rewards:  `[P]` float64, paid with the step.
    returns:  `[P]` float64, discounted sum of the rewards from it on.
    """

    of_entry: np.ndarray
    last: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray


class TokenLesson(NamedTuple):
    """Of a pack. before: `[u]` int64, tokens after which something is said. returns: `[u]` float64, mean over the
    contexts in which it is. weights: `[u]` float64, how many these are."""

    before: np.ndarray
    returns: np.ndarray
    weights: np.ndarray


class UtteranceLesson(NamedTuple):
    """Of a pack, `u` steps. before, end, following: `[u]` int64, the token before the step, its last, and the one
    before the next step; following is -1 where nothing is said after it. rewards, weights: `[u]` float64."""

    before: np.ndarray
    end: np.ndarray
    following: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray
    weights: np.ndarray


def steps_of(
    nodes: pl.DataFrame, contexts: Contexts, wanted: np.ndarray, verdicts: np.ndarray | None, *, gamma: float
) -> Steps:
    """The steps of contexts with their returns.

    Args:
        nodes: `parent`, `tree` and `node`, and `step_reward` where there are no verdicts; the rows of `contexts`.
        contexts: of them.
        wanted: `[N]` bool, the steps.
        verdicts: `[N]` float64 in [0, 1], paid with the last step; NaN: none, and the context is left out. None: the
            environment's rewards count.
        gamma: discount a step.
    """
    rewarded = np.zeros(len(nodes)) if verdicts is not None else nodes["step_reward"].fill_null(0.0).to_numpy()
    parent, inner = parent_rows(nodes), np.zeros(len(nodes), bool)
    inner[parent[parent >= 0]] = True
    ends = ~inner[contexts.leaves]
    if verdicts is not None:
        ends &= ~np.isnan(verdicts[contexts.leaves])
    row = np.repeat(np.arange(len(contexts.leaves)), np.diff(contexts.offsets))
    entries = np.flatnonzero(wanted[contexts.nodes] & contexts.own & ends[row])
    of_entry = np.full(len(contexts.nodes), -1, np.int64)
    of_entry[entries] = np.arange(len(entries))
    row = row[entries]
    last = np.append(row[1:] != row[:-1], True)[: len(row)]
    rewards = rewarded[contexts.nodes[entries]].astype(np.float64)
    if verdicts is not None:
        rewards[last] = verdicts[contexts.leaves[row[last]]]
    offsets = np.concatenate(([0], np.flatnonzero(last) + 1))
    return Steps(of_entry, last, rewards, suffix_sums(rewards, offsets, discount=gamma))


def token_lesson(pack: Pack, contexts: Contexts, steps: Steps) -> TokenLesson:
    """What values before the tokens of a pack are trained to; all tokens of a step have its return."""
    entries, begins = contexts.entries_of(pack)
    step = steps.of_entry[entries]
    kept = step >= 0
    counts = np.diff(contexts.tokens)[contexts.nodes[entries[kept]]]
    before = pack.parent[pack.index[spans(begins[kept], counts)]].astype(np.int64)
    returns = np.repeat(steps.returns[step[kept]], counts)
    states, where = np.unique(before[before >= 0], return_inverse=True)
    return TokenLesson(states, *_means(returns[before >= 0], where, len(states)))


def utterance_lesson(pack: Pack, contexts: Contexts, steps: Steps) -> UtteranceLesson:
    """The steps of a pack, each once with each that follows it; weights say in how many contexts."""
    entries, begins = contexts.entries_of(pack)
    step = steps.of_entry[entries]
    kept = step >= 0
    step, begins = step[kept], begins[kept]
    counts = np.diff(contexts.tokens)[contexts.nodes[entries[kept]]]
    before = pack.parent[pack.index[begins]].astype(np.int64)
    following = np.where(steps.last[step], -1, np.append(before[1:], -1)[: len(before)])
    rows = np.stack((before, pack.index[begins + counts - 1].astype(np.int64), following, step))
    rows = rows[:, before >= 0]
    # contexts that share a step and what it earned are one row
    keys = np.concatenate((rows[:3], np.unique(steps.rewards[rows[3]], return_inverse=True)[1][None]))
    _, first, where = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    found = rows[:, first]
    earned = _means(steps.returns[rows[3]], where.reshape(-1), len(first))
    return UtteranceLesson(*found[:3], steps.rewards[found[3]], *earned)


def _means(values: np.ndarray, where: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`[count]`: mean of the values of each place, and how many it has."""
    weights = np.bincount(where, minlength=count).astype(np.float64)
    return np.bincount(where, values, minlength=count) / np.maximum(weights, 1), weights

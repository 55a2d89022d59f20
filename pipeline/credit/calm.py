"""CALM: a step that achieves a subgoal ends an option and is paid for it, beside what the environment pays.

Does not know who says what a step achieved, nor how the subgoals came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import rows_of, suffix_sums
from pipeline.credit.scored import Lists, read_scores
from pipeline.credit.spoken import chosen, lay_steps, roots, spoken

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class CalmParams:
    """Parameters of CALM.

    bonus: pay for a subgoal, reward units.
    once: a subgoal pays once in a trajectory; else every time it is said to be achieved.
    ordered: only the next subgoal that is not yet achieved counts, and so none pays again.
    gamma: discount by step.
    """

    bonus: float = 1.0
    once: bool = True
    ordered: bool = False
    gamma: float = 0.99


DEFAULTS = CalmParams()


class CalmCredit(NamedTuple):
    """Of `P` steps of `M` trajectories, of which `E` achievements were told.

    counted: `[E]` bool, the achievement counts.
    subgoal_reward: `[P]` float64, bonus times the achievements that count.
    shaped_reward: `[P]` float64, with the environment's reward.
    shaped_return: `[P]` float64, discounted sum of the shaped rewards from the step on.
    option: `[P]` int64, earlier steps of the trajectory with an achievement that counts.
    achieved: `[M]` int64, distinct subgoals that count.
    """

    counted: np.ndarray
    subgoal_reward: np.ndarray
    shaped_reward: np.ndarray
    shaped_return: np.ndarray
    option: np.ndarray
    achieved: np.ndarray


class Quality(NamedTuple):
    """An annotator beside people, as a classifier of steps that achieve something; NaN where a denominator is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def subgoal_codes(achieved: Iterable[Sequence[object]], subgoals: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What steps achieved, as codes.

    Args:
        achieved: by step what the annotator listed, in its order; whatever is no text counts as unknown.
        subgoals: of the task, in order.

    Returns:
        codes: `[E]` int64, place among the distinct subgoals; `UNKNOWN` for a name that is none.
        steps: `[E]` int64, the step of each.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(subgoals))}
    listed = [
        (places.get(name, UNKNOWN) if isinstance(name, str) else UNKNOWN, step)
        for step, names in enumerate(achieved)
        for name in names
    ]
    pairs = np.array(listed, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def calm(
    rewards: np.ndarray, offsets: np.ndarray, *, codes: np.ndarray, steps: np.ndarray, params: CalmParams = DEFAULTS
) -> CalmCredit:
    """Pay steps for the subgoals they achieve.

    Args:
        rewards: `[P]` float64, the environment's by step.
        offsets: `[M + 1]` int64, where the steps of each trajectory begin.
        codes: `[E]` int, subgoals told as achieved, step after step and in a step in the order of the list; negative
            for what is no subgoal. Codes of two trajectories have nothing to do with each other.
        steps: `[E]` int, the step of each, ascending.
        params: pay and what counts.

    Returns:
        What counts is settled entry by entry: one that does not count is forgotten.

    Source: CALM (2024). Deviation: the paper judges annotators and fixes no training recipe; pay, order and discount
        are parameters.
    """
    members = rows_of(offsets)[steps]
    first_only = _in_order if params.ordered else _first
    counted = first_only(codes, members) if params.ordered or params.once else codes >= 0
    times = np.bincount(steps[counted], minlength=len(rewards))
    shaped = rewards + params.bonus * times
    paid = (times > 0).astype(np.int64)
    before = np.cumsum(paid) - paid
    starts = np.concatenate((before, [0]))[offsets[:-1]]
    distinct = np.unique(np.stack((members[counted], codes[counted])), axis=1)[0]
    return CalmCredit(
        counted=counted,
        subgoal_reward=params.bonus * times,
        shaped_reward=shaped,
        shaped_return=suffix_sums(shaped, offsets, discount=params.gamma),
        option=before - np.repeat(starts, np.diff(offsets)),
        achieved=np.bincount(distinct, minlength=len(offsets) - 1),
    )


def calm_credit(trees: Trees, params: CalmParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees for the subgoals they achieve, every path to a leaf being a trajectory.

    Needs `subgoals`, `step_reward` and `kind`. Verdicts are not looked at. What a rendered node achieved or was paid is
    left out, and so is a tree whose root has no list.

    Args:
        trees: `N` nodes.
        params: pay, what counts, and discount.

    Returns:
        value: `[N]` float64, shaped return from the step on; NaN at roots and rendered nodes.
        advantage: `[N]` float64, shaped reward of the step; 0 where the policy said nothing. Both are means over the
            trajectories through the node, NaN where the task's subgoals are unknown.

    Raises:
        BadScore: `subgoals` is not a list of texts.

    Source: as `calm`. Deviation: the trajectories annotated there share no step.
    """
    lists = read_scores(trees, "subgoals", entry=lambda one: isinstance(one, str), what="a list of texts")
    found = spoken(trees)
    found = chosen(found, lists.known(roots(trees))[found.tasks])
    steps = found.paths.nodes
    names, counts = lists.of(steps)
    told = np.repeat(np.arange(len(steps)), counts)
    credit = calm(
        trees.given["step_reward"][steps],
        found.paths.offsets,
        codes=_places(lists, names, trees=trees.tree[steps[told]], of=roots(trees)),
        steps=told,
        params=params,
    )
    return CreditColumns(
        value=lay_steps(trees, found.paths.nodes, credit.shaped_return, unsaid=np.nan),
        advantage=lay_steps(trees, found.paths.nodes, credit.shaped_reward),
    )


def _places(lists: Lists, names: np.ndarray, *, trees: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Place of names among the distinct ones of their tree's list; `UNKNOWN` for one that is not there.

    Args:
        lists: of the nodes.
        names: `[E]` int64, entries of `lists`.
        trees: `[E]` int, code of the tree of each.
        of: `[G]` int64, rows of the roots, whose lists say what there is.
    """
    known = {name: code for code, name in enumerate(dict.fromkeys(lists.items))}
    code = np.array([known[name] for name in lists.items], dtype=np.int64)
    listed, counts = lists.of(of)
    width = max(len(known), 1)
    keys, first = np.unique(np.repeat(np.arange(len(of)), counts) * width + code[listed], return_index=True)
    order = np.argsort(np.argsort(first))  # among the distinct names of all trees, one tree after the other
    place = order - np.searchsorted(keys // width, keys // width)
    at = np.minimum(np.searchsorted(keys, trees * width + code[names]), max(len(keys) - 1, 0))
    if not len(keys):
        return np.full(len(names), UNKNOWN)
    return np.where(keys[at] == trees * width + code[names], place[at], UNKNOWN)


def annotator_quality(told: np.ndarray, true: np.ndarray) -> Quality:
    """How well an annotator tells which steps achieve a subgoal.

    Args:
        told: `[P]` bool, the annotator's.
        true: `[P]` bool, people's.
    """
    both, either = int((told & true).sum()), int(told.sum()) + int(true.sum())
    return Quality(
        accuracy=_share(int((told == true).sum()), len(told)),
        precision=_share(both, int(told.sum())),
        recall=_share(both, int(true.sum())),
        f1=_share(2 * both, either),
    )


def _first(codes: np.ndarray, members: np.ndarray) -> np.ndarray:
    """`[E]` bool: the first entry of each subgoal of each trajectory."""
    first = np.zeros(len(codes), dtype=bool)
    known = np.flatnonzero(codes >= 0)
    first[known[np.unique(np.stack((members[known], codes[known])), axis=1, return_index=True)[1]]] = True
    return first


def _in_order(codes: np.ndarray, members: np.ndarray) -> np.ndarray:
    """`[E]` bool: the first entry of subgoal 0, the first of subgoal 1 after it, and so on, in each trajectory."""
    counted = np.zeros(len(codes), dtype=bool)
    last = np.full(int(members.max(initial=-1)) + 1, -1, dtype=np.int64)
    by_code = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[by_code], np.arange(int(codes.max(initial=-1)) + 2))
    for start, end in pairwise(bounds):
        entries = by_code[start:end]
        entries = entries[entries > last[members[entries]]]
        last = np.full_like(last, len(codes))  # a trajectory that lacks this subgoal gets no further
        np.minimum.at(last, members[entries], entries)
        counted[last[last < len(codes)]] = True
    return counted


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

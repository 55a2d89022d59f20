"""MatchTIR: tool calls are matched with reference calls, turns earn what theirs match, and are normalised twice.

Does not know how the references were made, and judges an answer by its words alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import CreditColumns, Trees, mean_by, ranges
from pipeline.credit.matching import UNMATCHED, greedy, optimal, transport
from pipeline.credit.normalise import lone, normalise
from pipeline.credit.ragged import last_places, row_sums, rows_of, suffix_sums
from pipeline.credit.scored import read_lists
from pipeline.credit.spoken import chosen, lay_steps, roots, spoken
from pipeline.credit.tool_calls import Call, Calls, call_columns, read_calls, similarity, take
from pipeline.errors import BadConfig, check_words

ASSIGNMENTS = ("optimal", "greedy", "soft")
"""One to one with the highest total, as the paper has it; one to one, best pair first, as the code has it; optimal
transport."""
_NOT_A_WORD = r"[[:punct:]]"


@dataclass(frozen=True, slots=True)
class MatchtirParams:
    """Parameters of MatchTIR.

    assignment: word of ASSIGNMENTS.
    turn_discount: of the rewards of later turns.
    epsilon, ddof: of the standard deviations.
    unmatched: what a call earns that `optimal` or `greedy` leaves over, where there are references.
    sinkhorn_reg: entropic regularisation of `soft`.

    Raises:
        BadConfig: no such assignment, or the regularisation is not positive.
    """

    assignment: str = "optimal"
    turn_discount: float = 0.9
    epsilon: float = 1e-6
    ddof: int = 1
    unmatched: float = 0.0
    sinkhorn_reg: float = 0.1

    def __post_init__(self) -> None:
        check_words(self, of="matchtir", assignment=ASSIGNMENTS)
        if not self.sinkhorn_reg > 0:
            raise BadConfig(f"matchtir sinkhorn_reg {self.sinkhorn_reg} is not positive", remedy="the paper has 0.1")


DEFAULTS = MatchtirParams()


class TurnRewards(NamedTuple):
    """turn: `[P]` float64 in [0, 1] unless `unmatched` says otherwise. call: `[C]` float64, 0 for calls of an answer
    turn. matched: `[C]` int64, place among the task's references; -1: none, or soft."""

    turn: np.ndarray
    call: np.ndarray
    matched: np.ndarray


class TurnAdvantages(NamedTuple):
    """trajectory_reward: `[M]`. advantage: `[P]`, standard deviations. degenerate: `[P]` bool, the only trajectory of
    its task, or the only one with a turn at that position, so that a reward stands as it is."""

    trajectory_reward: np.ndarray
    advantage: np.ndarray
    degenerate: np.ndarray


def turn_rewards(
    calls: Calls,
    call_turns: np.ndarray,
    *,
    offsets: np.ndarray,
    tasks: np.ndarray,
    references: Calls,
    reference_offsets: np.ndarray,
    answer_scores: np.ndarray,
    params: MatchtirParams = DEFAULTS,
) -> TurnRewards:
    """Reward every turn by the mean of what its calls earn, an answer turn by its answer.

    The calls of all turns of a trajectory but those with an answer are matched with the references of its task, anew
    for each trajectory. A matched call earns its similarity; under `soft` a call earns its similarities weighted by
    the plan, so all of a trajectory earn at most 1.

    Args:
        calls: `C` calls, trajectory after trajectory, turn after turn.
        call_turns: `[C]` int64, turn of each.
        offsets: `[M + 1]` int64, where each trajectory begins among the `P` turns.
        tasks: `[M]` int, code of the task.
        references: calls of the tasks, in the codes of `calls`.
        reference_offsets: `[tasks + 1]` int64, where each task begins among them.
        answer_scores: `[P]` float64, of the turns with an answer, by `answer_f1`; NaN for a turn without.
        params: see there.

    Source: MatchTIR (2026); `greedy` is its code's. Deviations: those of `similarity` and `optimal`.
    """
    answered = ~np.isnan(answer_scores)
    counted = np.flatnonzero(~answered[call_turns])
    trajectory = rows_of(offsets)[call_turns[counted]]
    task = tasks[trajectory]
    wanted = np.diff(reference_offsets)[task]
    scores = similarity(
        calls, np.repeat(counted, wanted), references, ranges(reference_offsets[task], wanted)
    )  # all pairs of a trajectory in turn, one call after the other

    earned, matched = np.zeros(len(calls.name)), np.full(len(calls.name), UNMATCHED, dtype=np.int64)
    made = np.bincount(trajectory, minlength=len(tasks))
    shapes = np.column_stack((made, np.diff(reference_offsets)[tasks])).reshape(-1, 2)
    earned[counted], matched[counted] = _matched(scores, shapes, params)
    by_turn = np.nan_to_num(mean_by(call_turns[counted], earned[counted], len(answered)))
    return TurnRewards(np.where(answered, answer_scores, by_turn), earned, matched)


def turn_advantages(
    rewards: np.ndarray, offsets: np.ndarray, *, tasks: np.ndarray, params: MatchtirParams = DEFAULTS
) -> TurnAdvantages:
    """The mean of a trajectory's advantage in its group and of the turn's among those at the same position.

    Args:
        rewards: `[P]` float64, of the turns, no NaN.
        offsets: `[M + 1]` int64, where each trajectory begins.
        tasks: `[M]` int, code of the task from 0.
        params: see there.

    Source: MatchTIR (2026). Deviation: equal rewards give exactly 0.
    """
    forms = {"form": "mean_std_norm", "eps": params.epsilon, "ddof": params.ddof}
    count = int(tasks.max()) + 1 if len(tasks) else 0
    total = row_sums(rewards, offsets)
    of_trajectory = normalise(total, tasks, count=count, **forms)

    members = rows_of(offsets)
    position = np.arange(len(rewards)) - offsets[members]
    pools, pool = np.unique(tasks[members] * (position.max(initial=0) + 1) + position, return_inverse=True)
    returns = suffix_sums(rewards, offsets, discount=params.turn_discount)
    of_turn = normalise(returns, pool, count=len(pools), **forms)
    return TurnAdvantages(
        trajectory_reward=total,
        advantage=(of_trajectory[members] + of_turn) / 2.0,
        degenerate=lone(tasks, count=count)[members] | lone(pool, count=len(pools)),
    )


def answer_f1(answers: pl.Series, references: pl.Series) -> np.ndarray:
    """How many words answers share with their references.

    Words are what is left in lower case between spaces and ASCII punctuation; each counts once.

    Args:
        answers, references: `[P]` strings; null: none.

    Returns:
        `[P]` float64 in [0, 1], F1; 0 where either has no word, NaN where there is no answer.
    """
    words = pl.all().fill_null("").str.to_lowercase().str.replace_all(_NOT_A_WORD, " ").str.extract_all(r"\S+")
    table = pl.DataFrame({"answer": answers.cast(pl.String), "reference": references.cast(pl.String)})
    shared = pl.col("answer").list.set_intersection("reference").list.len()
    total = pl.col("answer").list.n_unique() + pl.col("reference").list.n_unique()
    both = (pl.col("answer").list.len() > 0) & (pl.col("reference").list.len() > 0)
    f1 = table.select(words).select(pl.when(both).then(2.0 * shared / total).otherwise(0.0))
    return np.where(answers.is_null().to_numpy(), np.nan, f1.to_series().to_numpy())


def matchtir_credit(trees: Trees, params: MatchtirParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees by their tool calls; every path to a judged leaf is a trajectory of the tree's group.

    Needs `tool_calls`, `reference_calls` on roots, and `kind`. A step that the policy said is a turn. The last one is
    the answer, scored by the verdict, unless it makes calls: then the run stopped without one. Of what a model called,
    a text that cannot be read is one call that matches nothing. A tree whose root has no list takes no part.

    Args:
        trees: `N` nodes.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the trajectories through the node; 0 where the policy said nothing, NaN
            where no judged leaf is below or the references are unknown.

    Raises:
        BadScore: `reference_calls` is no list of calls.

    Source: as `turn_rewards` and `turn_advantages`. Deviation: a verdict stands for the answer's F1.
    """
    said = read_lists(trees.given["tool_calls"], _said, name="tool_calls", what="calls")
    wanted = read_lists(trees.given["reference_calls"], _wanted, name="reference_calls", what="a list of named calls")
    calls, references = call_columns(said.items, wanted.items)
    found = spoken(trees, judged=True)
    found = chosen(found, wanted.known(roots(trees))[found.tasks])
    offsets = found.paths.offsets
    made, counts = said.of(found.paths.nodes)
    members, last = last_places(offsets)
    answered = counts[last] == 0
    scores = np.full(len(counts), np.nan)
    scores[last[answered]] = trees.reward[found.ends[members[answered]]]
    listed, references_of = wanted.of(roots(trees))
    rewards = turn_rewards(
        take(calls, made),
        np.repeat(np.arange(len(counts)), counts),
        offsets=offsets,
        tasks=found.tasks,
        references=take(references, listed),
        reference_offsets=np.concatenate(([0], np.cumsum(references_of))),
        answer_scores=scores,
        params=params,
    )
    advantages = turn_advantages(rewards.turn, offsets, tasks=found.tasks, params=params)
    return CreditColumns(advantage=lay_steps(trees, found.paths.nodes, advantages.advantage))


def _said(text: str) -> list[Call]:
    """The calls of a model; one without a name where they cannot be read."""
    found = read_calls(text)
    return [Call(None, None)] if found is None else found


def _wanted(text: str) -> list[Call] | None:
    """The calls of a reference; None where they are none."""
    found = read_calls(text)
    return found if found is not None and all(isinstance(call.name, str) for call in found) else None


class _Matched(NamedTuple):
    """earned: float64, matched: int64, of the calls of some trajectories, one after the other."""

    earned: np.ndarray
    matched: np.ndarray


def _matched(scores: np.ndarray, shapes: np.ndarray, params: MatchtirParams) -> _Matched:
    """What the calls of trajectories earn; trajectories whose scores are the same are matched once.

    Args:
        scores: `[sum(m * n)]`, trajectory after trajectory, row after row.
        shapes: `[M, 2]`, calls and references of each.
        params: which assignment.
    """
    made, wanted = shapes.T
    calls, pairs = (np.cumsum(sizes) - sizes for sizes in (made, made * wanted))
    total = int(made.sum())
    result = _Matched(np.zeros(total), np.full(total, UNMATCHED, dtype=np.int64))
    for m, n in np.unique(shapes[made * wanted > 0], axis=0).tolist():
        rows = np.flatnonzero((made == m) & (wanted == n))
        tables = scores[pairs[rows, None] + np.arange(m * n)]
        distinct, which = np.unique(tables, axis=0, return_inverse=True)
        of = _assigned(distinct.reshape(-1, m, n), params)
        places = calls[rows, None] + np.arange(m)
        result.earned[places], result.matched[places] = of.earned[which.ravel()], of.matched[which.ravel()]
    return result


def _assigned(tables: np.ndarray, params: MatchtirParams) -> _Matched:
    """`[B, m]` each, of `[B, m, n]` scores."""
    if params.assignment == "soft":
        plans = transport(tables, regularisation=params.sinkhorn_reg)
        return _Matched((plans * tables).sum(axis=2), np.full(tables.shape[:2], UNMATCHED))
    match = optimal if params.assignment == "optimal" else greedy
    matched = np.stack([match(table) for table in tables])
    of_match = np.take_along_axis(tables, np.maximum(matched, 0)[:, :, None], axis=2)[:, :, 0]
    return _Matched(np.where(matched == UNMATCHED, params.unmatched, of_match), matched)

"""MatchTIR: tool calls are matched with reference calls, turns earn what theirs match, and are normalised twice.

Does not know how the references were made, and judges an answer by its words alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import mean_by, ranges
from pipeline.credit.matching import UNMATCHED, greedy, optimal, transport
from pipeline.credit.normalise import lone, normalise
from pipeline.credit.ragged import row_sums, rows_of, suffix_sums
from pipeline.credit.tool_calls import Calls, similarity
from pipeline.errors import BadConfig

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
        if self.assignment not in ASSIGNMENTS:
            raise BadConfig(f"matchtir assignment {self.assignment!r} is not known", remedy=f"use one of {ASSIGNMENTS}")
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


class _Pattern(NamedTuple):
    """earned, matched: `[m]`, of the calls of a trajectory whose scores are these."""

    earned: np.ndarray
    matched: np.ndarray


def _matched(scores: np.ndarray, shapes: np.ndarray, params: MatchtirParams) -> _Pattern:
    """What the calls of trajectories earn; trajectories whose scores are the same are matched once.

    Args:
        scores: `[sum(m * n)]`, trajectory after trajectory, row after row.
        shapes: `[M, 2]`, calls and references of each.
        params: which assignment.
    """
    ends = np.cumsum(shapes.prod(axis=1))
    tables = [scores[end - m * n : end].reshape(m, n) for end, (m, n) in zip(ends, shapes.tolist(), strict=True)]
    keys = [(*table.shape, table.tobytes()) for table in tables]
    distinct = dict(zip(keys, tables, strict=True))
    solved = _soft(distinct, params) if params.assignment == "soft" else {}
    for key, table in distinct.items():
        if key not in solved:
            solved[key] = _assigned(table, params)
    if not keys:
        return _Pattern(np.zeros(0), np.zeros(0, np.int64))
    return _Pattern(*(np.concatenate(parts) for parts in zip(*(solved[key] for key in keys), strict=True)))


def _assigned(table: np.ndarray, params: MatchtirParams) -> _Pattern:
    m = len(table)
    if not table.size:
        return _Pattern(np.zeros(m), np.full(m, UNMATCHED))
    matched = (optimal if params.assignment == "optimal" else greedy)(table)
    earned = np.where(matched == UNMATCHED, params.unmatched, table[np.arange(m), matched])
    return _Pattern(earned, matched)


def _soft(distinct: dict[tuple, np.ndarray], params: MatchtirParams) -> dict[tuple, _Pattern]:
    """Of those with calls and references, solved together with all of their shape."""
    solved = {}
    for m, n in {key[:2] for key in distinct if key[0] and key[1]}:
        keys = [key for key in distinct if key[:2] == (m, n)]
        tables = np.stack([distinct[key] for key in keys])
        earned = (transport(tables, regularisation=params.sinkhorn_reg) * tables).sum(axis=2)
        solved |= {key: _Pattern(row, np.full(m, UNMATCHED)) for key, row in zip(keys, earned, strict=True)}
    return solved

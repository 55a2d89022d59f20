"""TP-GRPO: right and wrong thoughts, runs of steps of one label, earn beside the outcome what the group can already do.

Does not know how the labels came about: reflections found in the text, or any labeller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by, moments
from pipeline.credit.ragged import last_places, rows_of
from pipeline.errors import BadTable

LABELS = ("correct", "incorrect", "match", "mismatch")
"""Of the steps of a correct solution: right, or wrong. Of a wrong solution: adopted by its answer, or not."""


@dataclass(frozen=True, slots=True)
class TpGrpoParams:
    """Parameters of TP-GRPO.

    alpha: weight of the process reward; not published.
    std_ddof, eps: of the standard deviation of the outcomes; not published.
    threshold: verdict from which a solution is correct; of `tp_grpo_credit` alone.
    """

    alpha: float = 1.0
    std_ddof: int = 1
    eps: float = 1e-4
    threshold: float = 0.5


DEFAULTS = TpGrpoParams()


class ThoughtCredit(NamedTuple):
    """What TP-GRPO says of `S` steps of `M` solutions in `G` groups.

    accuracy: `[G]`, share of correct solutions; NaN for an empty group.
    process: `[G]`, alpha * accuracy.
    outcome: `[M]`, the outcome +1 or -1 as a group advantage, which the answer has; 0 in groups of equals and of one.
    unit_rewards: `[M]`, reward of a correct step, or of a match. An incorrect step, a mismatch, has the negative.
    thoughts: `[S]` int64, number of each step's thought within its solution, from 0.
    advantages: `[S]`, of every token of the step.
    """

    accuracy: np.ndarray
    process: np.ndarray
    outcome: np.ndarray
    unit_rewards: np.ndarray
    thoughts: np.ndarray
    advantages: np.ndarray


def tp_grpo(
    labels: np.ndarray,
    offsets: np.ndarray,
    *,
    correct: np.ndarray,
    groups: np.ndarray,
    params: TpGrpoParams = DEFAULTS,
) -> ThoughtCredit:
    """Credit the thoughts of solutions.

    In a correct solution a correct thought and the answer have the outcome's advantage, an incorrect thought that less
    alpha times the accuracy of the group. In a wrong one a matching thought and the answer have the outcome's
    advantage, a mismatching thought 0.

    Args:
        labels: `[S]` int, place in LABELS, the steps of `M` solutions, one after the other; the answer is none of them.
        offsets: `[M + 1]` int64, where each solution begins.
        correct: `[M]` bool.
        groups: `[M]` int, code of each solution's group, from 0.
        params: weight and standard deviation.

    Raises:
        BadTable: a label is not one for such a solution; names the rows.

    Source: TP-GRPO (He et al., 2025) in the closed form that its two stated properties give; there is no code.
    """
    solution = rows_of(offsets)
    fits = np.where(correct[solution], labels < 2, labels >= 2) & (labels >= 0) & (labels < len(LABELS))
    if not fits.all():
        row = int(np.argmin(fits))
        culprit = f"step {row} of solution {solution[row]}: label {labels[row]} is not for such a solution"
        raise BadTable(culprit, remedy=f"label steps of correct solutions {LABELS[:2]}, of wrong ones {LABELS[2:]}")
    count = int(groups.max(initial=-1)) + 1
    of = moments(np.where(correct, 1.0, -1.0), groups, count=count, ddof=params.std_ddof)
    outcome = drop_rounding(of.centred / (np.nan_to_num(of.std)[groups] + params.eps))
    accuracy = mean_by(groups, correct.astype(np.float64), count)
    process = params.alpha * accuracy
    against = np.where(correct, outcome - process[groups], 0.0)
    agrees = (labels == LABELS.index("correct")) | (labels == LABELS.index("match"))
    return ThoughtCredit(
        accuracy=accuracy,
        process=process,
        outcome=outcome,
        unit_rewards=np.where(correct, process[groups], outcome),
        thoughts=_runs(labels, offsets),
        advantages=np.where(agrees, outcome[solution], against[solution]),
    )


def tp_grpo_credit(trees: Trees, params: TpGrpoParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of the judged trajectories of a tree by their labels.

    The leaf is the answer. A step above it is incorrect in a correct solution where its label says wrong, and correct
    where it says right or nothing; in a wrong solution it is a match where its label says wrong, else a mismatch.
    Where several trajectories pass through a node, it has the mean of their advantages.

    Args:
        trees: `N` nodes, given `step_hard`.
        params: weight, standard deviation and threshold.

    Returns:
        advantage: `[N]` float64; 0 at roots, NaN where no judged leaf is below.

    Source: as `tp_grpo`. Deviation: a step labelled wrong stands for one that a wrong answer adopts.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    correct = trees.reward[ends] >= params.threshold
    wrong = trees.given["step_hard"][paths.nodes] == 0
    right = correct[paths.members()]
    labels = np.where(right, wrong, np.where(wrong, LABELS.index("match"), LABELS.index("mismatch")))
    found = tp_grpo(labels, paths.offsets, correct=correct, groups=trees.tree[ends], params=params)
    rows, last = last_places(paths.offsets)
    advantages = found.advantages.copy()
    advantages[last] = found.outcome[rows]
    advantage = mean_by(paths.nodes, advantages, len(trees.parent))
    return CreditColumns(advantage=np.where(trees.parent < 0, 0.0, advantage))


def _runs(labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[S]` int64: number of the run of equal labels within its row."""
    changes = np.zeros(len(labels), dtype=np.int64)
    changes[1:] = labels[1:] != labels[:-1]
    runs = np.cumsum(changes)
    return runs - runs[offsets[rows_of(offsets)]]

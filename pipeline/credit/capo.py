"""CAPO: critiques vote which steps are wrong, and the tokens of a wrong step lose a fixed penalty.

Does not know who wrote the critiques, nor how many tokens' worth a step is beyond their number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by, moments
from pipeline.credit.ragged import rows_of
from pipeline.errors import check_words

VOTES = ("intersection", "majority", "union", "greedy", "average")
"""A step is wrong that all critiques name; at least half of them; any; the first valid one, when but one was asked for;
`average` has no verdict but the share that names it."""


@dataclass(frozen=True, slots=True)
class CapoParams:
    """Parameters of CAPO.

    w_whole: reward of a right outcome.
    w_process: penalty of a wrong step.
    vote: word of VOTES. Published: intersection for models of 1 to 1.5 billion weights, majority or union for 7.
    std_ddof, eps: of the standard deviation over the tokens of a group; not published, these are conventions.

    Raises:
        BadConfig: no such vote.
    """

    w_whole: float = 2.0
    w_process: float = 1.0
    vote: str = "majority"
    std_ddof: int = 0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_words(self, of="capo", vote=VOTES)


DEFAULTS = CapoParams()
_STEPS = 2**31


class Critiques(NamedTuple):
    """`C` critiques and the `F` flags they raise.

    trajectory: `[C]` int, row of the trajectory each is about.
    valid: `[C]` bool, False for one that could not be read; it has no vote.
    flag_critique: `[F]` int, the critique that raises the flag.
    flag_step: `[F]` int, the step it names, from 0 within the trajectory. One that is not there is ignored, one named
        twice by a critique counts once.
    """

    trajectory: np.ndarray
    valid: np.ndarray
    flag_critique: np.ndarray
    flag_step: np.ndarray


class CapoCredit(NamedTuple):
    """What CAPO says of `S` steps in `G` groups.

    wrong: `[S]` float64 in [0, 1], 1 for a wrong step; the share of critiques under `average`.
    rewards: `[S]` float64, of every token of the step.
    mean, std: `[G]` float64, of the rewards over all tokens of the group; NaN without a token, and the deviation of no
        more tokens than its `ddof` is NaN too.
    advantages: `[S]` float64, standard deviations, of every token of the step; 0 in a group of equal rewards.
    """

    wrong: np.ndarray
    rewards: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    advantages: np.ndarray


def parse_critique(text: str | None) -> list[int] | None:
    """The steps a critique names: JSON with a list of whole numbers under `wrong_steps`. None: it cannot be read.

    A number too large for any trajectory is left out.
    """
    try:
        found = json.loads(text)["wrong_steps"] if text is not None else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(found, list) and all(type(step) is int for step in found)
    return [step for step in found if abs(step) < _STEPS] if whole else None


def wrong_steps(critiques: Critiques, offsets: np.ndarray, vote: str) -> np.ndarray:
    """Count the votes.

    Args:
        critiques: of all trajectories, in any order.
        offsets: `[M + 1]` int64, where the steps of each trajectory begin.
        vote: word of VOTES.

    Returns:
        `[S]` float64 in [0, 1], see `CapoCredit.wrong`. 0 throughout a trajectory without a valid critique.
    """
    count, valid = len(offsets) - 1, critiques.valid
    if vote == "greedy":
        first = np.zeros(len(valid), dtype=bool)
        rows = np.flatnonzero(valid)
        first[rows[np.unique(critiques.trajectory[rows], return_index=True)[1]]] = True
        valid = first
    about = critiques.trajectory[critiques.flag_critique]
    inside = valid[critiques.flag_critique] & (critiques.flag_step >= 0)
    inside &= critiques.flag_step < np.diff(offsets)[about]
    steps = offsets[about[inside]] + critiques.flag_step[inside]
    total = int(offsets[-1])
    once = np.unique(critiques.flag_critique[inside].astype(np.int64) * max(total, 1) + steps)
    flags = np.bincount(once % max(total, 1), minlength=total)
    voters = np.bincount(critiques.trajectory[valid], minlength=count)[rows_of(offsets)]
    match vote:
        case "average":
            return flags / np.maximum(voters, 1)
        case "majority":
            wrong = 2 * flags >= voters
        case "union":
            wrong = flags > 0
        case _:
            wrong = flags == voters
    return (wrong & (voters > 0)).astype(np.float64)


def capo(
    wrong: np.ndarray,
    offsets: np.ndarray,
    *,
    token_counts: np.ndarray,
    outcomes: np.ndarray,
    groups: np.ndarray,
    params: CapoParams = DEFAULTS,
) -> CapoCredit:
    """Reward and advantage of every token, the same for all tokens of a step.

    A token earns `w_whole * outcome - w_process * wrong`; its advantage is that less the mean over all tokens of the
    group, over their standard deviation, so long responses weigh more.

    Args:
        wrong: `[S]` float64 in [0, 1], of `wrong_steps`.
        offsets: `[M + 1]` int64, where the steps of each trajectory begin.
        token_counts: `[S]` int, tokens of each step.
        outcomes: `[M]` float64, 1 for a right answer, 0 for a wrong one.
        groups: `[M]` int, code of each trajectory's group, from 0.
        params: weights and standard deviation.

    Source: CAPO (Xie et al., 2025) by its equations; there is no code.
    """
    trajectory = rows_of(offsets)
    rewards = params.w_whole * outcomes[trajectory] - params.w_process * wrong
    count = int(groups.max(initial=-1)) + 1
    step_groups = groups[trajectory]
    of = moments(
        np.repeat(rewards, token_counts), np.repeat(step_groups, token_counts), count=count, ddof=params.std_ddof
    )
    centred = np.where(of.alike[step_groups], 0.0, rewards - of.mean[step_groups])
    advantages = drop_rounding(centred / (np.nan_to_num(of.std)[step_groups] + params.eps))
    return CapoCredit(wrong, rewards, of.mean, of.std, advantages)


def capo_credit(trees: Trees, params: CapoParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of the judged trajectories of a tree, the step labels standing for one critique.

    A step is wrong where its label says so; one without a label is not. Where several trajectories pass through a node,
    it has the mean of their advantages. With one critique all votes are the same.

    Args:
        trees: `N` nodes, given `step_hard`.
        params: weights and standard deviation.

    Returns:
        advantage: `[N]` float64, of every token of the step; 0 at roots, NaN where no judged leaf is below.

    Source: as `capo`.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    found = capo(
        (trees.given["step_hard"][paths.nodes] == 0).astype(np.float64),
        paths.offsets,
        token_counts=trees.token_counts()[paths.nodes],
        outcomes=trees.reward[ends],
        groups=trees.tree[ends],
        params=params,
    )
    advantage = mean_by(paths.nodes, found.advantages, len(trees.parent))
    return CreditColumns(advantage=np.where(trees.parent < 0, 0.0, advantage))

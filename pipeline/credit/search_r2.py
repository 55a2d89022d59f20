"""Search-R2: a right answer is worth more the more of what was retrieved for it was useful.

Does not know who judged the passages, nor how a rejected trajectory was cut and written anew.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments
from pipeline.credit.ragged import row_sums, rows_of
from pipeline.credit.scored import read_scores
from pipeline.credit.spoken import expected, lay_trajectories, spoken_of
from pipeline.credit.trajectories import trajectories
from pipeline.errors import BadConfig

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class SearchR2Params:
    """Parameters of Search-R2.

    process_weight: what full information density adds to the reward of a right answer.
    accept_threshold: tau; a trajectory of at least this discriminator score is accepted.
    epsilon, ddof: of the standard deviation of a group's rewards.

    Raises:
        BadConfig: ddof is neither 0 nor 1.
    """

    process_weight: float = 1.0
    accept_threshold: float = 0.5
    epsilon: float = 1e-6
    ddof: int = 1

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise BadConfig(f"search_r2 ddof {self.ddof!r} is not known", remedy="use 0 or 1")


DEFAULTS = SearchR2Params()


class SearchR2Credit(NamedTuple):
    """Of `M` trajectories.

    outcome: `[M]` float64, 1 right, 0 wrong. process: `[M]` float64 in [0, 1], share of passages that were useful.
    reward: `[M]` float64, `outcome * (1 + weight * process)`. advantage: `[M]` float64, standard deviations.
    """

    outcome: np.ndarray
    process: np.ndarray
    reward: np.ndarray
    advantage: np.ndarray


class Acceptance(NamedTuple):
    """Of `M` trajectories.

    scored: `[M]` bool, False where there is no score; the other two mean nothing there.
    accepted: `[M]` bool, the first version is accepted. revisions: `[M]` int64, versions written anew until one is
        accepted, or all of them.
    """

    scored: np.ndarray
    accepted: np.ndarray
    revisions: np.ndarray


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an, the, blanks squeezed."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str | None, references: Sequence[str]) -> bool:
    """Whether an answer is one of the references once all are normalised. None: there is no answer."""
    return answer is not None and normalise_answer(answer) in {normalise_answer(one) for one in references}


def search_r2(
    right: np.ndarray,
    groups: np.ndarray,
    *,
    useful: np.ndarray,
    offsets: np.ndarray,
    params: SearchR2Params = DEFAULTS,
) -> SearchR2Credit:
    """Reward and group advantage of trajectories.

    Args:
        right: `[M]` bool, the answer is an exact match; False without an answer and for an unfinished trajectory.
        groups: `[M]` int, code of each trajectory's task, from 0.
        useful: `[C]` bool, a judge's verdict on every retrieved passage, trajectory after trajectory.
        offsets: `[M + 1]` int64, where the passages of each trajectory begin.
        params: weight and normalisation.

    Returns:
        Its process is 0 where nothing was retrieved; its advantage 0 among equal rewards, and the raw reward over
        `1 + epsilon` for a lone trajectory.

    Source: Search-R2 (2026). Deviation: the paper couples outcome and information density in an equation that is
        reconstructed here as gated by the outcome; both parts are given for another coupling.
    """
    outcome = right.astype(np.float64)
    retrieved = np.diff(offsets)
    process = row_sums(useful.astype(np.float64), offsets) / np.maximum(retrieved, 1)
    reward = outcome * (1.0 + params.process_weight * process)
    of = moments(reward, groups, count=int(groups.max(initial=-1)) + 1, ddof=params.ddof)
    alone = (of.count == 1)[groups]
    std = np.where(alone, 1.0, of.std[groups])
    advantage = np.where(alone, reward, of.centred) / (std + params.epsilon)
    return SearchR2Credit(outcome, process, reward, drop_rounding(advantage))


def acceptance(scores: np.ndarray, offsets: np.ndarray, params: SearchR2Params = DEFAULTS) -> Acceptance:
    """What the refiner did with each trajectory, from the discriminator's scores.

    Args:
        scores: `[S]` float64 in [0, 1], of the first version of each trajectory and of each that replaced it.
        offsets: `[M + 1]` int64, where the scores of each trajectory begin.
        params: the threshold.
    """
    count, lengths = len(offsets) - 1, np.diff(offsets)
    place = np.arange(len(scores)) - np.repeat(offsets[:-1], lengths)
    revisions = np.maximum(lengths - 1, 0)
    passed = np.flatnonzero(scores >= params.accept_threshold)
    np.minimum.at(revisions, rows_of(offsets)[passed], place[passed])
    accepted = np.zeros(count, dtype=bool)
    accepted[rows_of(offsets)[passed[place[passed] == 0]]] = True
    return Acceptance(scored=lengths > 0, accepted=accepted, revisions=revisions)


def search_r2_credit(trees: Trees, params: SearchR2Params = DEFAULTS) -> CreditColumns:
    """Give every step of a path its trajectory's advantage among the judged leaves of the tree.

    Needs `useful`, at the step that retrieved or where its passages stand, and `kind`. An answer is right whose verdict
    is the full score.

    Args:
        trees: `N` nodes.
        params: weight and normalisation.

    Returns:
        value: `[N]` float64, mean reward of the trajectories through the node; NaN where no judged leaf is below.
        advantage: `[N]` float64, mean of theirs; 0 where the policy said nothing, NaN where no judged leaf is below.

    Raises:
        BadScore: `useful` is not a list of 0 and 1.

    Source: as `search_r2`. Deviation: the paper samples trajectories that share no step.
    """
    useful = read_scores(trees, "useful", entry=lambda one: one in (0, 1), what="a list of 0 and 1")
    whole = trajectories(trees, judged=True)
    passages, counts = useful.of(whole.paths.nodes)
    starts = np.concatenate(([0], np.cumsum(counts)))
    credit = search_r2(
        trees.reward[whole.ends] >= 1,
        whole.tasks,
        useful=np.array(useful.items, dtype=bool)[passages],
        offsets=starts[whole.paths.offsets],
        params=params,
    )
    found = spoken_of(trees, whole)
    return CreditColumns(
        value=expected(trees, found, credit.reward), advantage=lay_trajectories(trees, found, credit.advantage)
    )

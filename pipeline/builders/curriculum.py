"""Curriculum: weigh training items by how easy they are, and move to equal weights as epochs pass.

Does not know what an item is: a task, a preference pair, a step label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from pipeline.credit.columns import mean_by
from pipeline.credit.ragged import rows_of
from pipeline.errors import check_words

HEURISTICS = ("reciprank", "normscore", "kdescore")
"""Easiness of a positive from a weak scorer: one over its rank; its score within the range of its list; the share of a
kernel density estimate of the list that lies below it."""
WEIGHTINGS = ("item", "batch_mean")
"""Every item by its own weight, or all of a batch by their mean, as the official code does."""
SMOOTHING = 1e-8


@dataclass(frozen=True, slots=True)
class CurriculumParams:
    """Parameters of a curriculum.

    heuristic: word of HEURISTICS.
    epoch: from 0. end_of_curriculum: the epoch from which on all weights are 1.
    anti: hard items first.
    weighting: word of WEIGHTINGS.

    Raises:
        BadConfig: no such heuristic or weighting.
    """

    heuristic: str = "reciprank"
    epoch: int = 0
    end_of_curriculum: int = 20
    anti: bool = False
    weighting: str = "item"

    def __post_init__(self) -> None:
        check_words(self, of="curriculum", heuristic=HEURISTICS, weighting=WEIGHTINGS)


DEFAULTS = CurriculumParams()


def easiness(given: np.ndarray, params: CurriculumParams = DEFAULTS) -> np.ndarray:
    """`[N]` float64 in [0, 1]: D of each item, from its rank under `reciprank`; else D is what is given.

    Args:
        given: `[N]`, ranks from 1, or what `normscore` or `kdescore` gave.
        params: which heuristic.

    Raises:
        ValueError: a rank below 1; names the first.
    """
    values = np.asarray(given, np.float64)
    if params.heuristic != "reciprank":
        return values
    low = np.flatnonzero(values < 1)
    if len(low):
        raise ValueError(f"item {low[0]}: rank {values[low[0]]:g} is below 1; ranks begin at 1")
    return 1.0 / values


def normscore(scores: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Place of each score in the range of its list: 0 at the lowest, 1 at the highest; all 0 in a list of equals.

    Args:
        scores: `[N]` float64. NaN: unknown, takes no part.
        lists: `[N]` int, code of each item's list, from 0.

    Returns:
        `[N]` float64 in [0, 1]; NaN where the score is NaN.
    """
    count = int(lists.max()) + 1 if len(lists) else 0
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.fmin.at(low, lists, scores)
    np.fmax.at(high, lists, scores)
    above, width = np.asarray(scores, np.float64) - low[lists], (high - low)[lists]
    return np.divide(above, width, out=np.where(np.isnan(scores), np.nan, 0.0), where=width > 0)


def kdescore(scores: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Share of a Gaussian kernel density estimate of each list that lies below the score.

    The bandwidth is Scott's: the sample standard deviation over the fifth root of the number of scores. Takes time
    with the squared length of a list.

    Args:
        scores: `[N]` float64. NaN: unknown, takes no part.
        lists: `[N]` int, code of each item's list, from 0.

    Returns:
        `[N]` float64 in (0, 1); 0.5 in a list of equals, NaN where the score is NaN.
    """
    found, scores = np.full(len(scores), np.nan), np.asarray(scores, np.float64)
    for one in np.unique(lists):
        rows = np.flatnonzero((lists == one) & ~np.isnan(scores))
        own = scores[rows]
        width = own.std(ddof=1) * len(own) ** -0.2 if len(own) > 1 else 0.0
        found[rows] = ndtr((own[:, None] - own) / width).mean(axis=1) if width > 0 else 0.5
    return found


def pair_weights(
    positive: np.ndarray, negatives: np.ndarray, offsets: np.ndarray, params: CurriculumParams = DEFAULTS
) -> np.ndarray:
    """Weight of each positive with its negatives: `(D(positive) - D(negative) + 1) / 2`, the least over them.

    Args:
        positive: `[P]`, ranks or D, see `easiness`.
        negatives: `[T]`, of the negatives of each positive in turn.
        offsets: `[P + 1]` int64, where the negatives of each begin.
        params: heuristic and epoch.

    Returns:
        `[P]` float64 in (0, 1 + 1e-8]; NaN for a positive without negatives. An end of the curriculum of 0 or below
        leaves the weights as they are at epoch 0.

    Source: Training Curricula (MacAvaney et al., 2020) and OpenNIR. Deviation: a weight an item.
    """
    good, bad = easiness(positive, params), easiness(negatives, params)
    least = np.full(len(good), np.inf)
    np.minimum.at(least, rows_of(offsets), (good[rows_of(offsets)] - bad + 1.0) / 2.0)
    least = np.where(np.diff(offsets) > 0, least, np.nan)
    return _weighted(1.0 - least if params.anti else least, params)


def point_weights(given: np.ndarray, positive: np.ndarray, params: CurriculumParams = DEFAULTS) -> np.ndarray:
    """Weight of each item on its own: D for a positive, 1 - D for a negative.

    Args:
        given: `[N]`, ranks or D, see `easiness`.
        positive: `[N]` bool.
        params: heuristic and epoch.

    Returns:
        `[N]` float64 in (0, 1 + 1e-8]. All 1 where the end of the curriculum is 0 or below.

    Source: Training Curricula (MacAvaney et al., 2020) and OpenNIR. Deviation: a weight an item.
    """
    d = easiness(given, params)
    weight = np.where(np.asarray(positive, bool) != params.anti, d, 1.0 - d)
    return np.ones(len(weight)) if params.end_of_curriculum <= 0 else _weighted(weight, params)


def item_weights(easy: np.ndarray, params: CurriculumParams = DEFAULTS) -> np.ndarray:
    """`curriculum_weight` of rows of a data set.

    Args:
        easy: `[N]` float64 in [0, 1], of `task_easiness`, `pair_easiness` or `label_easiness`.
        params: epoch; the heuristic is not looked at.

    Returns:
        `[N]` float64 in (0, 1 + 1e-8]; NaN where the easiness is unknown, until all weights are 1.
    """
    return _weighted(1.0 - easy if params.anti else np.asarray(easy, np.float64), params)


def task_easiness(successes: np.ndarray, attempts: np.ndarray) -> np.ndarray:
    """`[N]` float64 in [0, 1]: share of the stored attempts that succeeded; 0 where there is none, NaN if unknown."""
    tried = np.asarray(attempts, np.float64)
    return np.divide(successes, tried, out=np.where(np.isnan(tried), np.nan, 0.0), where=tried > 0)


def pair_easiness(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """`[N]` float64 in [0, 1]: how far apart both sides of a pair are scored, scores being in [0, 1]."""
    return (np.asarray(chosen, np.float64) - rejected + 1.0) / 2.0


def label_easiness(values: np.ndarray) -> np.ndarray:
    """`[N]` float64 in [0, 1]: how sure a step's value in [0, 1] is, either way."""
    return np.abs(2.0 * np.asarray(values, np.float64) - 1.0)


def curriculum_ranks(easy: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """`[N]` int64: place of each item from 0, the easiest first, ties by id; those of unknown easiness last."""
    order = np.lexsort((np.asarray(ids), -np.asarray(easy, np.float64)))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _weighted(weight: np.ndarray, params: CurriculumParams) -> np.ndarray:
    """Smooth, mix with 1 as the epoch says, and share within the batch where asked for."""
    end = params.end_of_curriculum
    share = min(1.0, params.epoch / end) if end > 0 else 0.0
    mixed = (weight + SMOOTHING) * (1.0 - share) + share if share < 1 else np.ones(len(weight))
    if params.weighting == "item":
        return mixed
    known = ~np.isnan(mixed)
    return mean_by(np.zeros(known.sum(), np.int64), mixed[known], 1).repeat(len(mixed))

"""Sotopia-RL: the scores of a dialogue, dimension by dimension, handed out over the utterances of one speaker.

Does not know the annotator: what it said comes as numbers, a row a dimension. The other speaker has no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.ragged import row_sums, rows_of, suffix_sums
from pipeline.credit.scored import refuse
from pipeline.credit.spoken import chosen, lay_steps, spoken
from pipeline.errors import BadConfig, check_words


class Dimension(NamedTuple):
    """A social dimension. low, high: the least and the best score. weight: its share of the combined reward."""

    name: str
    low: float
    high: float
    weight: float = 1 / 3


RANGES: dict[str, tuple[float, float]] = {
    "believability": (0, 10),
    "relationship": (-5, 5),
    "knowledge": (0, 10),
    "secret": (-10, 0),
    "social_rules": (-10, 0),
    "financial": (-5, 5),
    "goal": (0, 10),
}
"""Scores of SOTOPIA."""

SCALES = {"default": 3.0, "5_scale": 5.0, "10_scale": 10.0}
"""Largest attribution by the prompt the annotator was given."""

ATTRIBUTIONS = (
    "direct",
    "sum_normalised",
    "discounting",
    "all_the_same",
    "key_utterance",
    "goal_progress",
    "only_response",
)
"""How a dialogue's score is handed out."""

FAILED = -1.0
JUDGED = ("goal", "relationship", "knowledge")
"""Dimensions that INPUTS has scores and attributions of."""
_UNREAD = ("discounting", "all_the_same")


@dataclass(frozen=True, slots=True)
class SotopiaRLParams:
    """Parameters of Sotopia-RL.

    attribution: word of ATTRIBUTIONS.
    scale: word of SCALES, used by `direct`.
    discount: by utterance, used by `discounting` and `key_utterance`.
    dimensions: those that are combined, in the order of the rows.
    observed_ranges: combine by the least and the largest reward in the data instead of a dimension's range.

    Raises:
        BadConfig: no such attribution or scale, or no such dimensions.
    """

    attribution: str = "direct"
    scale: str = "default"
    discount: float = 0.9
    dimensions: tuple[Dimension, ...] = (
        Dimension("goal", *RANGES["goal"]),
        Dimension("relationship", *RANGES["relationship"]),
        Dimension("knowledge", *RANGES["knowledge"]),
    )
    observed_ranges: bool = False

    def __post_init__(self) -> None:
        check_words(self, of="sotopia_rl", attribution=ATTRIBUTIONS, scale=SCALES)
        try:
            dimensions = tuple(Dimension(*dimension) for dimension in self.dimensions)
        except TypeError:
            dimensions = ()
        if not dimensions or not all(isinstance(number, int | float) for one in dimensions for number in one[1:]):
            raise BadConfig(
                f"sotopia_rl dimensions {self.dimensions!r} are none", remedy="give name, low, high and weight of each"
            )
        object.__setattr__(self, "dimensions", dimensions)


DEFAULTS = SotopiaRLParams()


def utterance_rewards(
    annotated: np.ndarray, scores: np.ndarray, *, offsets: np.ndarray, params: SotopiaRLParams = DEFAULTS
) -> np.ndarray:
    """Reward of each utterance, dimension by dimension.

    | attribution    | `annotated` holds         | reward                                               |
    |----------------|---------------------------|------------------------------------------------------|
    | direct         | attributions              | a / largest of the scale * score; -1 for -1          |
    | sum_normalised | attributions              | a / sum of the dialogue's * score; 0 if that is 0    |
    | discounting    | is not read               | discount^(utterances still to come) * score          |
    | all_the_same   | is not read               | score                                                |
    | key_utterance  | 1 for a marked utterance  | discounted marks to come, largest 1, * score         |
    | goal_progress  | score judged so far       | (judged - judged one utterance before) / 10 * score  |
    | only_response  | effect on the next reply  | a / 3 * score; -1 for -1                             |

    Args:
        annotated: `[D, P]` float64, a row a dimension; NaN where the annotator left the utterance out, which is 0.
            -1: the annotation failed, which only `direct` and `only_response` look at.
        scores: `[D, M]` float64, of the dialogues.
        offsets: `[M + 1]` int64, where the speaker's utterances in each dialogue begin.
        params: which attribution.

    Returns:
        `[D, P]` float64, in units of the dimension's score. `goal_progress` takes 0 as judged before the first.

    Source: Sotopia-RL (2025) as its code computes them.
    """
    dialogue, said = rows_of(offsets), np.where(np.isnan(annotated), 0.0, annotated)
    score = scores[:, dialogue]
    match params.attribution:
        case "direct":
            return np.where(said == FAILED, FAILED, said / SCALES[params.scale] * score)
        case "only_response":
            return np.where(said == FAILED, FAILED, said / SCALES["default"] * score)
        case "sum_normalised":
            return _share(said, _by_dialogue(np.add, said, offsets)[:, dialogue]) * score
        case "discounting":
            to_come = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(len(dialogue))
            return params.discount**to_come * score
        case "all_the_same":
            return score.copy()
        case "key_utterance":
            ahead = np.array([suffix_sums(row, offsets, discount=params.discount) for row in said]).reshape(said.shape)
            return _share(ahead, _by_dialogue(np.maximum, ahead, offsets)[:, dialogue]) * score
        case _:
            before = np.concatenate((np.zeros((len(said), 1)), said[:, :-1]), axis=1)[:, : said.shape[1]]
            before[:, offsets[:-1][np.diff(offsets) > 0]] = 0.0
            return (said - before) / 10.0 * score


def combine(rewards: np.ndarray, params: SotopiaRLParams = DEFAULTS) -> np.ndarray:
    """Weighted sum of the rewards of an utterance, each brought to its dimension's range.

    Args:
        rewards: `[D, P]` float64, of `utterance_rewards`, a row for each of `params.dimensions`.
        params: weights and ranges; a dimension whose range is empty adds 0.

    Returns:
        `[P]` float64; in [0, 1] where the ranges bound the rewards and the weights sum to 1, as they need not: a failed
        annotation enters with its -1 and nothing is clipped.

    Raises:
        ValueError: there are not as many rows as dimensions.

    Source: Sotopia-RL (2025). Deviation: the paper tells of a combination and the code lacks it; this one is a
        reconstruction.
    """
    if len(rewards) != len(params.dimensions):
        raise ValueError(f"rewards of {len(rewards)} dimensions; expected {len(params.dimensions)}")
    low = np.array([dimension.low for dimension in params.dimensions], dtype=np.float64)
    high = np.array([dimension.high for dimension in params.dimensions], dtype=np.float64)
    weight = np.array([dimension.weight for dimension in params.dimensions], dtype=np.float64)
    if params.observed_ranges and rewards.shape[1]:
        low, high = rewards.min(axis=1), rewards.max(axis=1)
    width = high - low
    weight = np.divide(weight, width, out=np.zeros_like(width), where=width != 0)
    return weight @ (rewards - low[:, None])


def sotopia_rl_credit(trees: Trees, params: SotopiaRLParams = DEFAULTS) -> CreditColumns:
    """Credit the utterances of trees, every path to a leaf being a dialogue and its steps those of one speaker.

    Needs `attribution_*` on utterances, `score_*` on leaves, and `kind`: the other speaker's utterances are rendered.
    Verdicts are not looked at. A dialogue takes part that has a score for every dimension that is combined and, where
    attributions are read, one attribution at least.

    Args:
        trees: `N` nodes.
        params: attribution and dimensions, some of JUDGED. What is observed with `observed_ranges` is all trees.

    Returns:
        advantage: `[N]` float64, combined reward of the utterance, the mean over the dialogues through it; 0 where the
            policy said nothing, NaN where no such dialogue passes.

    Raises:
        BadConfig: a dimension is none of JUDGED.
        BadScore: an attribution of `direct` or `only_response` is neither -1 nor in its scale.

    Source: as `utterance_rewards` and `combine`. Deviation: the paper's dialogues share no utterance.
    """
    names = [dimension.name for dimension in params.dimensions]
    if other := [name for name in names if name not in JUDGED]:
        raise BadConfig(f"sotopia_rl: there are no scores for {other[0]!r}", remedy=f"use some of {JUDGED}")
    said = _rows([_attributions(trees, name, params) for name in names], len(trees.parent))
    scores = _rows([trees.given[f"score_{name}"] for name in names], len(trees.parent))
    found = spoken(trees)
    known = ~np.isnan(scores[:, found.ends]).any(axis=0)
    if params.attribution not in _UNREAD:
        told = ~np.isnan(said[:, found.paths.nodes])
        known &= np.all([row_sums(row.astype(np.float64), found.paths.offsets) > 0 for row in told], axis=0)
    found = chosen(found, known)
    rewards = utterance_rewards(
        said[:, found.paths.nodes], scores[:, found.ends], offsets=found.paths.offsets, params=params
    )
    return CreditColumns(advantage=lay_steps(trees, found.paths.nodes, combine(rewards, params)))


def _attributions(trees: Trees, name: str, params: SotopiaRLParams) -> np.ndarray:
    """`[N]` float64: what the annotator gave for a dimension."""
    values = trees.given[f"attribution_{name}"]
    if params.attribution in ("direct", "only_response"):
        most = SCALES[params.scale if params.attribution == "direct" else "default"]
        good = np.isnan(values) | (values == FAILED) | ((values >= 0) & (values <= most))
        refuse(values, good, name=f"attribution_{name}", what=f"-1 or from 0 to {most:g}, as the scale has it")
    return values


def _rows(columns: list[np.ndarray], count: int) -> np.ndarray:
    """`[D, N]` float64."""
    return np.array(columns, dtype=np.float64).reshape(len(columns), count)


def _by_dialogue(join: np.ufunc, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`[D, M]` float64: the values of each dialogue joined; 0 where it has none."""
    joined = np.zeros((len(values), len(offsets) - 1))
    join.at(joined, (slice(None), rows_of(offsets)), values)
    return joined


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)

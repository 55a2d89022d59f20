"""Length curriculum: a right answer, a length near the budget and tags are paid, and the budget shrinks in training.

Does not count tokens nor check answers; of text it reads the tags alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments
from pipeline.errors import BadConfig, check_words

SCHEDULES = ("exp", "exp_points", "linear_points")
"""A factor every so many steps; from first to last budget in equal factors, or in equal differences."""

LENGTH_SHAPES = ("triangular", "band")
"""Rising to the budget and falling from it; the most up to the budget, then falling."""


@dataclass(frozen=True, slots=True)
class ScheduleParams:
    """How the budget shrinks, in tokens and steps of training.

    kind: word of SCHEDULES.
    start: budget at the first step.
    gamma, interval: of `exp`: the factor, and after how many steps.
    end, decays, total_steps: of the others: the last budget, how many drops lead to it, and over how many steps.

    Raises:
        BadConfig: no such kind, or a number that makes no schedule.
    """

    kind: str = "exp"
    start: float = 256.0
    gamma: float = 0.7
    interval: int = 150
    end: float = 87.0
    decays: int = 3
    total_steps: int = 600

    def __post_init__(self) -> None:
        check_words(self, of="curriculum_length", kind=SCHEDULES)
        if min(self.start, self.gamma, self.interval, self.end, self.total_steps) <= 0 or self.decays < 0:
            raise BadConfig(f"{self} is no schedule", remedy="use numbers above 0, and decays from 0")


@dataclass(frozen=True, slots=True)
class CurriculumLengthParams:
    """Parameters of length-controlled GRPO.

    length_shape: word of LENGTH_SHAPES.
    lambda_c, lambda_l, lambda_f: weights of correctness, length and format; .6, .3 the paper's correctness-heavy
        pair, the rest our reading. Length-heavy: .3, .6.
    r_cor, r_max: reward of a right answer and of the best length; not published, as are
    alpha_think, alpha_answer: of well-formed think and answer spans.
    std_ddof, std_stab: of the variance of a group's rewards, and added to it under the root; the latter ours.
    budget: tokens a response is to have, from `budgets` at the step of training; the first of the paper's.

    Raises:
        BadConfig: no such shape, or no budget.
    """

    length_shape: str = "triangular"
    lambda_c: float = 0.6
    lambda_l: float = 0.3
    lambda_f: float = 0.1
    r_cor: float = 1.0
    r_max: float = 1.0
    alpha_think: float = 0.5
    alpha_answer: float = 0.5
    std_ddof: int = 0
    std_stab: float = 1e-8
    budget: float = 256.0

    def __post_init__(self) -> None:
        check_words(self, of="curriculum_length", length_shape=LENGTH_SHAPES)
        if not self.budget > 0:
            raise BadConfig(f"curriculum_length budget is {self.budget}", remedy="give tokens above 0")


SCHEDULE = ScheduleParams()
DEFAULTS = CurriculumLengthParams()


class Rewards(NamedTuple):
    """The weighted parts of `M` rewards, and their sum: `[M]` float64 each."""

    correct: np.ndarray
    length: np.ndarray
    format: np.ndarray
    total: np.ndarray


def budgets(steps: np.ndarray, schedule: ScheduleParams = SCHEDULE) -> np.ndarray:
    """Budget at steps of training.

    Args:
        steps: `[V]` int, from 0.
        schedule: how it shrinks; a drop holds from its own step on.

    Returns:
        `[V]` float64 tokens, at least 1, not rounded.

    Source: Train Long, Think Short (2025), by its formulas.
    """
    at = np.asarray(steps, np.float64)
    if schedule.kind == "exp":
        budget = schedule.start * schedule.gamma ** np.floor(at / schedule.interval + 1e-9)
        return np.maximum(1.0, budget)
    dropped = np.minimum(schedule.decays, np.floor(at * (schedule.decays + 1) / schedule.total_steps + 1e-9))
    share = dropped / max(schedule.decays, 1)
    if schedule.kind == "exp_points":
        budget = schedule.start * (schedule.end / schedule.start) ** share
    else:
        budget = schedule.start - share * (schedule.start - schedule.end)
    return np.maximum(1.0, budget)


def length_rewards(lengths: np.ndarray, params: CurriculumLengthParams = DEFAULTS) -> np.ndarray:
    """`[M]` float64: `r_max` at the budget, falling to 0 at twice the budget; below it as the shape says.

    Args:
        lengths: `[M]` tokens.
        params: budget, shape and maximum.
    """
    share = np.asarray(lengths, np.float64) / params.budget
    below = share if params.length_shape == "triangular" else np.ones_like(share)
    return params.r_max * np.where(share <= 1, below, np.maximum(0.0, 2.0 - share))


def rewards(
    correct: np.ndarray,
    lengths: np.ndarray,
    *,
    think: np.ndarray,
    answer: np.ndarray,
    params: CurriculumLengthParams = DEFAULTS,
) -> Rewards:
    """Reward of each trajectory, by parts.

    Args:
        correct: `[M]` float64 in [0, 1]; NaN: unknown, as is the total then.
        lengths: `[M]` tokens.
        think, answer: `[M]` bool, the spans are well-formed and do not overlap.
        params: weights, budget and shape.
    """
    right = params.lambda_c * params.r_cor * correct
    length = params.lambda_l * length_rewards(lengths, params)
    tags = params.lambda_f * (params.alpha_think * think + params.alpha_answer * answer)
    return Rewards(right, length, tags, right + length + tags)


def curriculum_advantages(
    totals: np.ndarray, groups: np.ndarray, params: CurriculumLengthParams = DEFAULTS
) -> np.ndarray:
    """`[M]` float64, `(r - mean) / sqrt(var + stab)` in the group; 0 among equals and for a lone trajectory.

    Args:
        totals: `[M]` float64, no NaN.
        groups: `[M]` int, code of each trajectory's task, from 0.
        params: of the variance.
    """
    of = moments(totals, groups, count=int(groups.max(initial=-1)) + 1, ddof=params.std_ddof)
    return drop_rounding(of.centred / np.sqrt(np.nan_to_num(of.std[groups]) ** 2 + params.std_stab))


def find_spans(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Whether each response has one well-formed think span, and one answer span; neither where the two overlap.

    Args:
        texts: `[M]` strings. A span is well-formed when each of its tags is there once, the opening one first.

    Returns:
        Two `[M]` bool.
    """
    column, places, formed = pl.col("text"), {}, {}
    for name in ("think", "answer"):
        opened, closed = f"<{name}>", f"</{name}>"
        places[name] = (column.str.find(opened, literal=True), column.str.find(closed, literal=True))
        once = [column.str.count_matches(tag, literal=True) == 1 for tag in (opened, closed)]
        formed[name] = (once[0] & once[1] & (places[name][0] < places[name][1])).fill_null(False)
    (think_opens, think_closes), (answer_opens, answer_closes) = places["think"], places["answer"]
    apart = (think_closes < answer_opens) | (answer_closes < think_opens)
    overlap = (formed["think"] & formed["answer"] & ~apart).fill_null(False)
    found = texts.alias("text").to_frame().select(think=formed["think"] & ~overlap, answer=formed["answer"] & ~overlap)
    return found["think"].to_numpy(), found["answer"].to_numpy()


def curriculum_length_credit(trees: Trees, params: CurriculumLengthParams = DEFAULTS) -> CreditColumns:
    """Give every node of a path its trajectory's advantage among the judged leaves of the tree.

    Needs the INPUT `text`. The verdict is the correctness; text and tokens are those along the path, the prompt left
    out. Where several judged trajectories pass through a node, it has the mean of their advantages.

    Args:
        trees: `N` nodes.
        params: weights, budget and shape.

    Returns:
        advantage: `[N]` float64; 0 at roots, NaN where no judged leaf is below.

    Source: Train Long, Think Short (2025), by its formulas.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    pieces = pl.DataFrame({"path": paths.members(), "text": trees.given["text"].gather(paths.nodes)})
    joined = pieces.group_by("path", maintain_order=True).agg(pl.col("text").str.join(""))
    every = pl.DataFrame({"path": np.arange(len(ends))})
    texts = every.join(joined, on="path", how="left", maintain_order="left")["text"].fill_null("")
    think, answer = find_spans(texts)
    found = rewards(
        trees.reward[ends],
        paths.token_counts(trees),
        think=think,
        answer=answer,
        params=params,
    )
    advantage_M = curriculum_advantages(found.total, trees.tree[ends], params)
    return CreditColumns(advantage=np.where(trees.parent < 0, 0.0, paths.mean_by_node(advantage_M)))

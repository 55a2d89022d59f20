"""GroundedPRM: verdicts of a tool-backed judge and the outcome make one reward of a rollout; paths become labels.

Does not call tools, judges or models, nor read answers: verdicts and boxed results come as columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import ZERO, CreditColumns, Trees, mean_by, rows_by_depth
from pipeline.credit.ragged import rows_of
from pipeline.credit.trajectories import trajectories
from pipeline.errors import check_words

SELECTIONS = ("uct", "random")
"""The paper's rule; what the released code does."""

END = "<end>"
"""What a model writes where its solution ends."""

_FORMS = [rf"\[{{{pairs}}}{quote}(true|false){quote}\]{{{pairs}}}" for pairs in (2, 1) for quote in ("", "'", '"')]
_MARKER = rf"(?i)^\s*(?:{'|'.join(_FORMS)})"
_BOXED_SIGN = r"<output>[\s\S]*?\\boxed\{([+-])\}[\s\S]*?</output>"


@dataclass(frozen=True, slots=True)
class GroundedprmParams:
    """Parameters of GroundedPRM.

    decay: by which a rollout counts less for each level above the expanded node.
    step_true, step_false, final_true, final_false: what verdicts and outcomes are worth.
    exploration: weight of nodes seldom visited.
    selection: word of SELECTIONS.
    strict: drop a path with a step of negative value that was called true; the code labels it wrong.

    Raises:
        BadConfig: no such selection.
    """

    decay: float = 0.9
    step_true: float = 1.0
    step_false: float = -1.0
    final_true: float = 1.0
    final_false: float = -1.0
    exploration: float = 1.414
    selection: str = "uct"
    strict: bool = True

    def __post_init__(self) -> None:
        check_words(self, of="groundedprm", selection=SELECTIONS)


DEFAULTS = GroundedprmParams()


class Backed(NamedTuple):
    """`[N]` each. value: float64, sum of what came up. visits: int64, rollouts of nodes below."""

    value: np.ndarray
    visits: np.ndarray


class Labels(NamedTuple):
    """What paths become.

    kept:   `[M]` bool, the path is consistent and complete.
    used:   `[P]` bool, the step is in a kept path, and not cut off.
    labels: `[P]` int64, 1 or -1; to be read where used.
    """

    kept: np.ndarray
    used: np.ndarray
    labels: np.ndarray


def find_markers(texts: pl.Series) -> np.ndarray:
    """`[P]` int64: 1 for a verdict text that begins with a True marker, -1 for one with False, 0 for neither.

    A marker is the word in any case, in quotes or not, in one or two pairs of square brackets, after any blanks.
    """
    found = pl.coalesce(pl.col("text").str.extract(_MARKER, group) for group in range(1, len(_FORMS) + 1))
    word = texts.alias("text").to_frame().select(found.str.to_lowercase().alias("word"))["word"]
    return (word == "true").fill_null(False).to_numpy() * 1 - (word == "false").fill_null(False).to_numpy()


def step_verdicts(texts: pl.Series, params: GroundedprmParams = DEFAULTS) -> np.ndarray:
    """`[P]` float64: what the verdict texts are worth, 0 for one that could not be read."""
    return np.choose(find_markers(texts) + 1, (params.step_false, 0.0, params.step_true))


def outcomes(right: np.ndarray, params: GroundedprmParams = DEFAULTS) -> np.ndarray:
    """`[M]` float64: what rollouts are worth by whether their final boxed result is the reference."""
    return np.where(right, params.final_true, params.final_false)


def rollout_rewards(verdicts: np.ndarray, offsets: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Reward of each rollout: the verdicts of its simulated steps, earlier ones weighing more, and its outcome.

    With m steps and N = m - 1: `sum over i < N of v_{i+1} (N - i) / N^2, plus F / N`, the last step's verdict giving
    way to the outcome F; F alone where N < 1. It can exceed 1.

    Args:
        verdicts: `[P]` float64, rollout after rollout; NaN: never read, counts 0.
        offsets: `[M + 1]` int64, where the simulated steps of each begin.
        final: `[M]` float64, of `outcomes`: of the last simulated step, or of the expanded node where there is none.

    Source: GroundedPRM (2025) as its code computes it.
    """
    terms = np.maximum(np.diff(offsets) - 1, 1)
    rollout = rows_of(offsets)
    weight = np.maximum(terms[rollout] - (np.arange(len(rollout)) - offsets[rollout]), 0) / terms[rollout] ** 2
    weight[offsets[1:][np.diff(offsets) > 0] - 1] = 0.0
    judged = np.bincount(rollout, weights=weight * np.nan_to_num(verdicts), minlength=len(offsets) - 1)
    return judged + final / terms


def backpropagate(
    parent: np.ndarray,
    *,
    value: np.ndarray,
    visits: np.ndarray,
    expanded: np.ndarray,
    rewards: np.ndarray,
    params: GroundedprmParams = DEFAULTS,
) -> Backed:
    """Add the reward of rollouts to the node they started from and, decayed, to all above it.

    Args:
        parent: `[N]` int, row of the parent; -1 at a root.
        value, visits: `[N]`, before.
        expanded: `[R]` int, row each rollout started from. Its visits stay as they are, as in the code.
        rewards: `[R]` float64, of `rollout_rewards`.
        params: decay a level.
    """
    value, visits = value.astype(np.float64), visits.astype(np.int64)
    rows, worth = np.asarray(expanded), np.asarray(rewards, np.float64)
    np.add.at(value, rows, worth)
    while len(rows):
        inner = parent[rows] >= 0
        rows, worth = parent[rows[inner]], worth[inner] * params.decay
        np.add.at(value, rows, worth)
        np.add.at(visits, rows, 1)
    return Backed(value, visits)


def uct_scores(
    value: np.ndarray,
    visits: np.ndarray,
    *,
    above: np.ndarray | float,
    negative: bool = False,
    params: GroundedprmParams = DEFAULTS,
) -> np.ndarray:
    """`[K]` float64: `value + c sqrt(ln(visits of the parent + 1) / (visits + 1))`.

    Args:
        value, visits: `[K]`, of children.
        above: visits of the parent, `[K]` or one for all.
        negative: wrong paths are wanted: the value counts against the child.
        params: c.
    """
    explored = np.sqrt(np.log(np.asarray(above) + 1.0) / (np.asarray(visits) + 1.0))
    return (-1.0 if negative else 1.0) * np.asarray(value) + params.exploration * explored


def select_child(scores: np.ndarray, *, seed: int, params: GroundedprmParams = DEFAULTS) -> int:
    """Which of `K` children is gone to: the one of the greatest score, the first of equals; or any, by the seed.

    Args:
        scores: `[K]` float64, of `uct_scores`, `K` at least 1.
        seed: of `random`; the other selection does not look at it.
        params: how to select.
    """
    if params.selection == "random":
        return int(np.random.default_rng(seed).integers(len(scores)))
    return int(np.argmax(scores >= scores.max() - ZERO))


def is_terminal(texts: pl.Series, boxed: pl.Series, *, reference: pl.Series, above: pl.Series) -> np.ndarray:
    """`[N]` bool: steps that say so, or whose boxed result is the reference or repeats the parent's.

    Args:
        texts: `[N]` strings.
        boxed: `[N]` strings, the result in the box. Null: none.
        reference, above: `[N]` strings, the task's answer, and the parent's boxed result. Null: none.
    """
    same = (boxed == reference).fill_null(False) | (boxed == above).fill_null(False)
    return (texts.str.contains(END, literal=True) | same).to_numpy()


def extracted_paths(depth: np.ndarray, terminal: np.ndarray, trees: np.ndarray) -> np.ndarray:
    """`[L]` bool: leaves whose path is used, the terminal ones and those at least as deep as these are on average.

    Args:
        depth: `[L]` int, of each leaf.
        terminal: `[L]` bool, its solution ended.
        trees: `[L]` int, code of its tree, from 0. Where none ended in a tree, none of it is used.
    """
    count = int(trees.max(initial=-1)) + 1
    ended = np.bincount(trees[terminal], minlength=count)
    total = np.bincount(trees[terminal], weights=depth[terminal], minlength=count)
    mean = np.divide(total, ended, out=np.full(count, np.inf), where=ended > 0)
    return terminal | (depth >= mean[trees] - ZERO)


def label_paths(
    values: np.ndarray,
    markers: np.ndarray,
    offsets: np.ndarray,
    *,
    positive: np.ndarray,
    complete: np.ndarray | None = None,
    params: GroundedprmParams = DEFAULTS,
) -> Labels:
    """Label the steps of consistent paths, and cut a wrong one where it turns right again after its first error.

    A path is dropped whole if one of its steps has value 0 or none, or is above 0 without a True marker, or below 0
    without any; if `strict`, also below 0 with True.

    Args:
        values: `[P]` float64, path after path, the root's pseudo-step left out; NaN: none.
        markers: `[P]` int, of `find_markers`.
        offsets: `[M + 1]` int64, where each path begins.
        positive: `[M]` bool, the path ends with the right answer; it is not cut.
        complete: `[M]` bool, False for a path to drop for other reasons: its last step has no boxed result, a step has
            no tool result or took many retries. None: all are complete.
        params: whether to be strict.

    Source: GroundedPRM (2025) as its code computes it. Deviation: `strict`, which the code is not.
    """
    count, path = len(offsets) - 1, rows_of(offsets)
    right, wrong = values > ZERO, values < -ZERO
    consistent = (right & (markers > 0)) | (wrong & ((markers < 0) | ((markers > 0) & (not params.strict))))
    kept = np.bincount(path[~consistent], minlength=count) == 0
    if complete is not None:
        kept &= complete
    errors = np.cumsum(~right)
    before = np.concatenate(([0], errors))[offsets[:-1]]
    turned = np.cumsum(right & (errors > before[path]))
    turned -= np.concatenate(([0], turned))[offsets[:-1]][path]
    return Labels(kept, kept[path] & (positive[path] | (turned == 0)), np.where(right, 1, -1))


def judge_texts(texts: pl.Series) -> pl.Series:
    """`[P]` strings: a verdict text without its marker and last full stops, then what the marker concludes.

    Null where there is no marker.
    """
    rest = texts.str.replace(_MARKER, "").str.strip_chars().str.strip_chars_end(".")
    word = pl.Series(find_markers(texts)).replace_strict({1: "Right", -1: "Wrong"}, default=None)
    return pl.select(pl.format("{}. The conclusion is[{}]", rest, word)).to_series()


def assistant_turns(verify: pl.Series, judge: pl.Series, labels: np.ndarray) -> pl.Series:
    """`[P]` strings: what the model is to say of each step: what was verified, `judge_texts`, and the label boxed."""
    sign = pl.Series(np.where(labels > 0, "+", "-"), dtype=pl.String)
    told = ("<verify>", verify, "</verify><judge>", judge, "</judge><output>\\boxed{", sign, "}</output>")
    parts = [pl.lit(part) if isinstance(part, str) else part for part in told]
    return pl.select(pl.concat_str(parts)).to_series()


def parse_labels(turns: pl.Series) -> np.ndarray:
    """`[P]` float64: 1 or -1, what a turn has boxed in its output; NaN where that cannot be read."""
    sign = turns.str.extract(_BOXED_SIGN, 1)
    return np.where((sign == "+").fill_null(False), 1.0, np.where((sign == "-").fill_null(False), -1.0, np.nan))


def groundedprm_credit(trees: Trees, params: GroundedprmParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of searched trees: what rollouts leave in the nodes, and the labels that paths become.

    Needs `step_hard`, the verdicts of the judge. The way to a judged leaf is a rollout: it expanded the first node that
    is on no earlier way and simulated what follows. Of the children of a node the first goes on with what came there,
    which is how trees are stored. A rollout is positive where the verdict is the full score.

    Args:
        trees: `N` nodes.
        params: worth of verdicts and outcomes, decay, and whether to be strict.

    Returns:
        value: `[N]` float64, mean decayed reward of the rollouts that the node or one below it was expanded for; NaN at
            nodes that were only simulated and where no judged leaf is below.
        advantage: `[N]` float64, label of the step, 1 or -1; 0 at roots, NaN for a step that no path keeps.
        mask: `[N]` bool, True for labelled steps.

    Source: as `rollout_rewards`, `backpropagate` and `label_paths`. Deviations: values are means, where the code has
        sums, of the same sign; a last step that was not judged has the outcome for a verdict.
    """
    found = trajectories(trees, judged=True)
    ends, paths = found.ends, found.paths
    right = trees.reward[ends] >= 1
    final, expanded = outcomes(right, params), _chain_tops(trees)[ends]
    rollout = paths.members()
    simulated = trees.depth[paths.nodes] > trees.depth[expanded][rollout]
    hard = trees.given["step_hard"][paths.nodes]
    worth = np.where(hard == 1, params.step_true, np.where(hard == 0, params.step_false, np.nan))
    steps = np.concatenate(([0], np.cumsum(simulated)))[paths.offsets]
    count = len(trees.parent)
    backed = backpropagate(
        trees.parent,
        value=np.zeros(count),
        visits=np.zeros(count, dtype=np.int64),
        expanded=expanded,
        rewards=rollout_rewards(worth[simulated], steps, final),
        params=params,
    )
    came = backed.visits + np.bincount(expanded, minlength=count)
    value = np.divide(backed.value, came, out=np.full(count, np.nan), where=came > 0)

    last = np.zeros(len(paths.nodes), dtype=bool)
    last[paths.offsets[1:] - 1] = True
    own = np.where(last, final[rollout], worth)
    marker = np.where(hard == 1, 1, np.where(hard == 0, -1, np.where(last, np.where(right, 1, -1)[rollout], 0)))
    labelled = label_paths(
        np.where(np.isnan(value[paths.nodes]), own, value[paths.nodes]),
        marker,
        paths.offsets,
        positive=right,
        params=params,
    )
    label = mean_by(paths.nodes[labelled.used], labelled.labels[labelled.used].astype(np.float64), count)
    return CreditColumns(value=value, advantage=np.where(trees.parent < 0, 0.0, label), mask=~np.isnan(label))


def _chain_tops(trees: Trees) -> np.ndarray:
    """`[N]` int64: the node at which what came in one go with this one begins; first children go on from parents."""
    inner = np.flatnonzero(trees.parent >= 0)
    eldest = np.zeros(len(trees.parent), dtype=bool)
    eldest[inner[np.unique(trees.parent[inner], return_index=True)[1]]] = True
    tops = np.arange(len(trees.parent))
    for rows in rows_by_depth(trees.depth)[2:]:
        same = rows[eldest[rows]]
        tops[same] = tops[trees.parent[same]]
    return tops

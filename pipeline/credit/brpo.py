"""BRPO: a stretch of thinking is worth the score expected at the budgets to come, less what was to be expected.

Does not know text: where thinking was cut and which short answers were right come as columns.

In stored trees thinking is of origin `sample`, and a stretch of it ends at a node with a `budget`. A summary hangs on
the nearest stretch above it by way of forced tokens: a leaf of origin `branch` below tokens of origin `prompt`, or one
of origin `summary`, whose first node is what was forced. What a trace says once its thinking is closed has no budget
and is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Paths, Trees, drop_rounding, mean_by, moments, ranges
from pipeline.credit.scored import one_of, refuse
from pipeline.credit.spoken import FORCED, lay_steps, only, said_by_policy
from pipeline.errors import BadConfig, BadTable, check_words
from schemas.words import ORIGINS

VARIANCE_REDUCTIONS = ("brpo", "v1only", "v2only", "none", "notrain")
"""The mix of both baselines; the trace's own past; the group's mean; no baseline; no advantage for thinking."""

SUMMARY_METHODS = ("brpo", "grpo")
"""Every summary is trained; only the last one of a trace."""

PRIORS = ("uniform", "linear", "base")
"""Chance of a budget: the same for all; in proportion to it; all on the last."""

SAMPLE, BRANCH, SUMMARY = (ORIGINS.index(origin) for origin in ("sample", "branch", "summary"))


@dataclass(frozen=True, slots=True)
class BrpoParams:
    """Parameters of budget relative policy optimization.

    budgets: `S` numbers of thinking tokens, rising.
    budget_probs: weight of each budget, brought to a sum of 1. None: as the prior says.
    prior: word of PRIORS.
    n_summary: summaries drawn from a trace at each budget.
    variance_reduction: word of VARIANCE_REDUCTIONS.
    summary_method: word of SUMMARY_METHODS.
    discount: by which an earlier budget weighs less in the trace's own past.

    Raises:
        BadConfig: an unknown word, or budgets or weights that are none.
    """

    budgets: tuple[int, ...] = (2000, 4000, 6000, 8000)
    budget_probs: tuple[float, ...] | None = None
    prior: str = "uniform"
    n_summary: int = 4
    variance_reduction: str = "brpo"
    summary_method: str = "brpo"
    discount: float = 2.0

    def __post_init__(self) -> None:
        check_words(
            self,
            of="brpo",
            prior=PRIORS,
            variance_reduction=VARIANCE_REDUCTIONS,
            summary_method=SUMMARY_METHODS,
        )
        if not self.budgets or min(self.budgets) <= 0 or (np.diff(self.budgets) <= 0).any():
            raise BadConfig(f"brpo budgets {self.budgets} do not rise from above 0", remedy="give rising numbers")
        probs = self.budget_probs
        if probs is not None and (len(probs) != len(self.budgets) or min(probs) < 0 or not sum(probs) > 0):
            raise BadConfig(
                f"brpo budget_probs {probs} are no weights of {len(self.budgets)} budgets",
                remedy="give one a budget, none below 0 and one above it",
            )
        if not self.discount > 0:
            raise BadConfig(f"brpo discount is {self.discount}", remedy="use more than 0")

    def probabilities(self) -> np.ndarray:
        """`[S]` float64, of sum 1."""
        weights = np.ones(len(self.budgets))
        if self.budget_probs is not None:
            weights = np.array(self.budget_probs, np.float64)
        elif self.prior == "linear":
            weights = np.array(self.budgets, np.float64)
        elif self.prior == "base":
            weights[:-1] = 0.0
        return weights / weights.sum()


DEFAULTS = BrpoParams()


class Thinking(NamedTuple):
    """What BRPO says of the thinking of `M` traces up to each of `S` budgets; reward units, NaN where unknown.

    A trace that ends early has numbers for budgets it does not reach; only its own segments are to be used.

    returns:     `[M, S]` float64, score expected at this budget and later ones.
    baseline_v1: `[M, S]` float64, what the trace's earlier budgets lead to expect; 0 at the first.
    baseline_v2: `[M, S]` float64, mean return of the traces of the task; 0 for a lone trace.
    advantage:   `[M, S]` float64.
    """

    returns: np.ndarray
    baseline_v1: np.ndarray
    baseline_v2: np.ndarray
    advantage: np.ndarray


def mean_scores(
    scores: np.ndarray, traces: np.ndarray, budgets: np.ndarray, *, count: int, params: BrpoParams = DEFAULTS
) -> np.ndarray:
    """Mean score of a trace's summaries at each budget.

    Args:
        scores: `[K]` float64, in [0, 1]; NaN: unknown, left out.
        traces: `[K]` int, the trace of each summary, from 0.
        budgets: `[K]` int, place of its budget, from 0.
        count: `M`, the number of traces.
        params: which budgets there are.

    Returns:
        `[M, S]` float64; NaN where no summary was scored.

    Raises:
        BadTable: a summary of a budget that is not there.
    """
    stages = len(params.budgets)
    out = (budgets < 0) | (budgets >= stages)
    if out.any():
        row = int(np.argmax(out))
        raise BadTable(f"summary {row} is of budget {budgets[row]} of {stages}", remedy="count budgets from 0")
    known = ~np.isnan(scores)
    return mean_by((traces * stages + budgets)[known], scores[known], count * stages).reshape(count, stages)


def thinking_advantages(quality: np.ndarray, groups: np.ndarray, params: BrpoParams = DEFAULTS) -> Thinking:
    """Advantage of each trace's thinking between one budget and the next.

    With P the chance of a budget and q the mean score there, the return at budget s is the sum of P q from s on.
    v1 is the mean of the earlier q, the latest weighing most, times the chance that is left; v2 the mean return of
    the group. The baseline goes from v2 at the first budget towards v1: `(s v1 + (S - s) v2) / S`, s from 0.

    Args:
        quality: `[M, S]` float64, of `mean_scores`. A budget without a chance may be unknown.
        groups: `[M]` int, code of each trace's task, from 0.
        params: chances, and which baseline.

    Source: AnytimeReasoner (Qi et al., 2025) as its code computes it. Deviations: an advantage that is mere
        rounding is 0; a return that is unknown takes no part in the group's mean.
    """
    chance, stages = params.probabilities(), len(params.budgets)
    left = np.cumsum(chance[::-1])[::-1]
    returns = np.cumsum(np.where(chance > 0, chance * quality, 0.0)[:, ::-1], axis=1)[:, ::-1]
    weights = params.discount ** np.arange(stages)
    own = np.zeros_like(quality)
    past = np.cumsum(weights * quality, axis=1)[:, :-1] / np.cumsum(weights)[:-1]
    own[:, 1:] = past * left[1:]
    members = np.bincount(groups)
    mean = np.stack([_group_mean(returns[:, stage], groups, len(members)) for stage in range(stages)], axis=1)
    group = np.where(members[groups, None] > 1, mean[groups], 0.0)
    stage = np.arange(stages)
    match params.variance_reduction:
        case "brpo":
            baseline = (stage * own + (stages - stage) * group) / stages
        case "v1only":
            baseline = own
        case "v2only":
            baseline = group
        case "none":
            baseline = np.zeros_like(returns)
        case "notrain":
            baseline = returns
    return Thinking(returns, own, group, drop_rounding(returns - baseline))


def summary_advantages(
    scores: np.ndarray,
    traces: np.ndarray,
    budgets: np.ndarray,
    *,
    nodes: np.ndarray,
    groups: np.ndarray,
    params: BrpoParams = DEFAULTS,
) -> np.ndarray:
    """Advantage of each summary: its score less the mean of those that answer from the same thinking.

    Where one summary is drawn a budget there is no such mean, and that of the task's traces at the budget stands for
    it. The summary itself is in the mean.

    Args:
        scores: `[K]` float64, in the order they were drawn; NaN: unknown, left out.
        traces: `[K]` int, the trace of each, from 0.
        budgets: `[K]` int, place of its budget, from 0.
        nodes: `[K]` int, code of the thinking node it hangs on; a finished trace keeps its last one.
        groups: `[M]` int, code of each trace's task.
        params: how many summaries are drawn, and which are trained.

    Returns:
        `[K]` float64, reward units; NaN where the score is unknown. 0 under `grpo` for all but the last summary at
        the highest budget of a trace.

    Source: as `thinking_advantages`.
    """
    keys = (traces, nodes) if params.n_summary > 1 else (groups[traces], budgets)
    pools, pool = np.unique(np.stack(keys), axis=1, return_inverse=True)
    known = np.flatnonzero(~np.isnan(scores))
    advantage = np.full(len(scores), np.nan)
    advantage[known] = drop_rounding(
        moments(scores[known], pool.reshape(-1)[known], count=pools.shape[1], ddof=0).centred
    )
    if params.summary_method == "grpo":
        order = np.lexsort((np.arange(len(scores)), budgets, traces))
        last = np.zeros(len(scores), dtype=bool)
        last[order[np.diff(traces[order], append=-1) != 0]] = True
        advantage = np.where(last, advantage, 0.0)
    return advantage


def summary_scores(right: np.ndarray, end_markers: np.ndarray, text_ended: np.ndarray) -> np.ndarray:
    """1 where the answer is right, thinking was closed exactly once and the text did not end inside it; else 0.

    Args:
        right: `[K]` bool, the boxed answer is right.
        end_markers: `[K]` int, end-of-thinking markers in the thinking and the summary together.
        text_ended: `[K]` bool, the trace ended with the end-of-text token instead.
    """
    return (right & (end_markers == 1) & ~text_ended).astype(np.float64)


def brpo_credit(trees: Trees, params: BrpoParams = DEFAULTS) -> CreditColumns:
    """Credit thinking, cut at budgets, and the summaries that hang on it; a tree is a task.

    Needs `budget`, `origin` and `kind`; see the module on what is what. A trace is the way to a stretch below which
    there is no other. A summary is of its own `budget` where it has one, else of its stretch's; below the last stretch
    of a trace, which answers for later budgets too, the first `n_summary` are, the next are of the next budget, and so
    on. A judged trace that ends with its last stretch, so that nothing could be drawn, scores 0 from there on. One that
    went on to answer scores its verdict there at budgets from its last stretch's on for which no summary was judged.
    Budgets below that of its first stretch score what the task's summaries do that follow the question, of that budget.

    Args:
        trees: `N` nodes.
        params: as many budgets as there are places, and how many summaries were drawn at each.

    Returns:
        value: `[N]` float64, expected score of the thinking from the stretch's budget on; NaN elsewhere.
        advantage: `[N]` float64, of stretches and summaries, the mean over the traces through the node; 0 where the
            policy said nothing, NaN where a score is missing that would decide, and after the thinking.

    Raises:
        BadScore: a budget is not among those of the parameters, or not above that of the stretch before.

    Source: as `thinking_advantages` and `summary_advantages`. Deviation: the paper's traces share no thinking.
    """
    budget = one_of(trees, "budget", tuple(range(len(params.budgets))))
    nodes = _layout(trees, budget)
    traces, groups = nodes.traces, trees.tree[nodes.traces]
    paths = trees.paths(traces)
    ends = np.flatnonzero(nodes.thinking[paths.nodes])
    stretch = np.searchsorted(ends, np.arange(len(paths.nodes)))  # the next end on the way; every path ends with one
    stage = budget[paths.nodes[ends]].astype(np.int64)[stretch]
    first_ends = stretch[paths.offsets[:-1]]

    drawn = _summaries(nodes, paths, ends)
    own, at_last = budget[drawn.leaf], drawn.on == traces[drawn.trace]
    later = np.where(at_last, budget[drawn.on] + drawn.number // max(params.n_summary, 1), budget[drawn.on])
    of = np.where(np.isnan(own), np.minimum(later, len(params.budgets) - 1), own).astype(np.int64)
    scores = trees.reward[drawn.leaf]
    quality = mean_scores(scores, drawn.trace, of, count=len(traces), params=params)
    unclosed = ~np.isnan(trees.reward[traces])
    answer = np.where(unclosed, 0.0, nodes.answer[traces])[:, None]
    ended = np.arange(len(params.budgets)) >= budget[traces][:, None]
    quality = np.where(ended & (unclosed[:, None] | np.isnan(quality)), answer, quality)
    begun = np.arange(len(params.budgets)) >= budget[paths.nodes[ends[first_ends]]][:, None]
    quality = np.where(begun, quality, _before_thinking(trees, nodes, budget, params)[groups])
    thinking = thinking_advantages(quality, groups, params)
    summary = summary_advantages(scores, drawn.trace, of, nodes=drawn.on, groups=groups, params=params)

    way = trees.paths(drawn.leaf)
    below = only(way, trees.depth[way.nodes] > trees.depth[drawn.on][way.members()])
    place = paths.members(), stage
    said = np.append(paths.nodes, below.nodes)
    advantage = lay_steps(trees, said, np.append(thinking.advantage[place], summary[below.members()]))
    return CreditColumns(
        value=lay_steps(trees, paths.nodes, thinking.returns[place], unsaid=np.nan),
        advantage=np.where(_forced(trees), 0.0, advantage),
    )


class _Layout(NamedTuple):
    """Where thinking ends and what was drawn from there.

    thinking: `[N]` bool, ends of stretches.
    traces: `[M]` rows, the last end of each trace.
    leaves: `[K]` rows, summaries.
    on:     `[K]` rows, the end each hangs on; -1 before the first.
    answer: `[N]` float64, at an end: mean verdict on what was sampled after it, no other end between; NaN: none.
    """

    thinking: np.ndarray
    traces: np.ndarray
    leaves: np.ndarray
    on: np.ndarray
    answer: np.ndarray


class _Drawn(NamedTuple):
    """`[K']` each: a summary of a trace, by its leaf, the end it hangs on, the trace, and its number at that end."""

    leaf: np.ndarray
    on: np.ndarray
    trace: np.ndarray
    number: np.ndarray


def _layout(trees: Trees, budget: np.ndarray) -> _Layout:
    """Tell thinking from summaries."""
    count, levels = len(trees.parent), list(trees.deepest_first())[::-1]
    origin = trees.given["origin"]
    thinking = said_by_policy(trees) & (origin == SAMPLE) & ~np.isnan(budget)
    forced, after_forced = _forced(trees), np.zeros(count, dtype=bool)
    on, goes_on = np.full(count, -1), np.zeros(count, dtype=bool)
    rises = np.ones(count, dtype=bool)
    for rows in levels:
        before = on[trees.parent[rows]]
        rises[rows] = ~thinking[rows] | (before < 0) | (budget[rows] > budget[before])
        on[rows] = np.where(thinking[rows], rows, before)
        after_forced[rows] = ~thinking[rows] & (forced[rows] | after_forced[trees.parent[rows]])
    refuse(budget, rises, name="budget", what="above that of the stretch before")
    for rows in levels[::-1]:
        np.logical_or.at(goes_on, trees.parent[rows], goes_on[rows] | thinking[rows])
    ends = trees.leaves() & ~thinking
    leaves = np.flatnonzero(ends & ((origin == BRANCH) | (origin == SUMMARY)) & after_forced & ~forced)
    answers = np.flatnonzero(ends & (origin == SAMPLE) & (on >= 0) & ~np.isnan(trees.reward))
    answer = mean_by(on[answers], trees.reward[answers], count)
    return _Layout(thinking, np.flatnonzero(thinking & ~goes_on), leaves, on[leaves], answer)


def _forced(trees: Trees) -> np.ndarray:
    """`[N]` bool: tokens that ask for a summary."""
    origin, inner = trees.given["origin"], trees.parent >= 0
    return inner & ((origin == FORCED) | ((origin == SUMMARY) & (origin[trees.parent] != SUMMARY)))


def _before_thinking(trees: Trees, nodes: _Layout, budget: np.ndarray, params: BrpoParams) -> np.ndarray:
    """`[G, S]` float64: mean score of a tree's summaries that hang on no thinking, by their own budget."""
    leaves = nodes.leaves[(nodes.on < 0) & ~np.isnan(budget[nodes.leaves])]
    count = int(trees.tree.max(initial=-1)) + 1
    of = budget[leaves].astype(np.int64)
    return mean_scores(trees.reward[leaves], trees.tree[leaves], of, count=count, params=params)


def _summaries(nodes: _Layout, paths: Paths, ends: np.ndarray) -> _Drawn:
    """The summaries of every trace, one trace after the other and in the order of their rows."""
    order = np.argsort(nodes.on, kind="stable")
    at, trace = paths.nodes[ends], paths.members()[ends]
    first, past = (np.searchsorted(nodes.on[order], at, side=side) for side in ("left", "right"))
    places = ranges(first, past - first)
    which, owner, number = order[places], np.repeat(trace, past - first), places - np.repeat(first, past - first)
    turn = np.lexsort((which, owner))
    return _Drawn(nodes.leaves[which[turn]], nodes.on[which[turn]], owner[turn], number[turn])


def _group_mean(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    known = ~np.isnan(values)
    return mean_by(groups[known], values[known], count)

"""SPO-chain: a response is cut at every k-th unlikely token, and a segment is worth the change in value across it.

Draws no continuations: it says from which prefixes they are wanted and takes what they earned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, mean_by, rows_by_depth
from pipeline.credit.ragged import last_places, rows_of
from pipeline.credit.spoken import said_by_policy
from pipeline.credit.trajectories import trajectories
from pipeline.errors import BadConfig


@dataclass(frozen=True, slots=True)
class SpoChainParams:
    """Parameters of SPO-chain.

    rho: tokens less probable than this are low; they alone are trained, more probable ones carry no advantage.
    cutpoint_interval: every so many low tokens a cut, the first low token among them.
    mc_samples: continuations to draw from a cut; 9, with long chains of thought 4.
    unfinished_penalty: reward of a continuation that length ended; a response that it ended scores 0.

    Raises:
        BadConfig: the interval is no count, or rho no probability.
    """

    rho: float = 0.9
    cutpoint_interval: int = 5
    mc_samples: int = 9
    unfinished_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.cutpoint_interval < 1:
            raise BadConfig(f"spo_chain cutpoint_interval is {self.cutpoint_interval}", remedy="use 1 or more")
        if not 0 < self.rho <= 1:
            raise BadConfig(f"spo_chain rho {self.rho} is no probability", remedy="use more than 0 and at most 1")


DEFAULTS = SpoChainParams()


class Cuts(NamedTuple):
    """`C` cuts, response after response.

    responses: `[C]` int64, the response of each.
    tokens:    `[C]` int64, place in the response of the last token before the cut; -1 at the start.
    """

    responses: np.ndarray
    tokens: np.ndarray


class Segments(NamedTuple):
    """`P` segments between cuts, response after response; an empty response has none.

    responses:   `[P]` int64.
    start_token, end_token: `[P]` int64, place of the first token in the response, and of the one after the last.
    value_start: `[P]` float64; NaN before a first cut that is not the start, and in a response without a cut.
    value_end:   `[P]` float64.
    """

    responses: np.ndarray
    start_token: np.ndarray
    end_token: np.ndarray
    value_start: np.ndarray
    value_end: np.ndarray


class SpoChain(NamedTuple):
    """What SPO-chain says of `T` tokens.

    values:     `[T]` float64 at the tokens before a cut and at the last; NaN elsewhere.
    advantages: `[T]` float64, reward units.
    loss_mask:  `[T]` bool, the low tokens.
    segments:   what the advantages are before tokens more probable than rho lose theirs.
    """

    values: np.ndarray
    advantages: np.ndarray
    loss_mask: np.ndarray
    segments: Segments


def cut_points(logprobs: np.ndarray, offsets: np.ndarray, params: SpoChainParams = DEFAULTS) -> Cuts:
    """The cuts of each response: just before every k-th low token, the first low token among them.

    Args:
        logprobs: `[T]` float64, natural logarithms; NaN: not sampled, never low.
        offsets: `[M + 1]` int64, where each response begins.
        params: what is low, and how far cuts are apart.
    """
    low = np.flatnonzero(_low(logprobs, params.rho))
    responses = rows_of(offsets)[low]
    begins = np.concatenate(([0], np.cumsum(np.bincount(responses, minlength=len(offsets) - 1))))
    kept = (np.arange(len(low)) - begins[responses]) % params.cutpoint_interval == 0
    return Cuts(responses[kept], low[kept] - offsets[responses[kept]] - 1)


def distinct_prefixes(tokens: np.ndarray, offsets: np.ndarray, *, prompts: np.ndarray, cuts: Cuts) -> np.ndarray:
    """Which continuations the cuts can share: those of one prompt with the same tokens before the cut.

    Args:
        tokens: `[T]` int32.
        offsets: `[M + 1]` int64, where each response begins.
        prompts: `[M]` int, code of each response's prompt, from 0.
        cuts: `C` cuts.

    Returns:
        `[C]` int64, code of the prefix, from 0; as many codes as requests are needed.
    """
    lengths = np.diff(offsets)
    first = np.arange(len(tokens))  # place of the first response with the same tokens so far
    active = np.flatnonzero(lengths > 0)
    shared, level = prompts[active].astype(np.int64), 0
    while len(active):
        at = offsets[active] + level
        _, where, shared, size = np.unique(
            (shared << 32) + tokens[at], return_index=True, return_inverse=True, return_counts=True
        )
        first[at] = at[where[shared]]
        level += 1
        follow = (size[shared] > 1) & (lengths[active] > level)
        active, shared = active[follow], shared[follow]
    codes, inner = len(tokens) + prompts[cuts.responses].astype(np.int64), cuts.tokens >= 0
    codes[inner] = first[offsets[cuts.responses[inner]] + cuts.tokens[inner]]
    return np.unique(codes, return_inverse=True)[1]


def cut_values(rewards: np.ndarray, cuts: np.ndarray, *, count: int, params: SpoChainParams = DEFAULTS) -> np.ndarray:
    """Value at each cut: the mean reward of the continuations there are.

    Args:
        rewards: `[K]` float64; NaN: ended by length.
        cuts: `[K]` int, the cut each continuation was drawn from.
        count: `C`, the number of cuts.
        params: reward of a continuation that length ended.

    Returns:
        `[C]` float64; 0 where no continuation is.
    """
    finished = np.where(np.isnan(rewards), params.unfinished_penalty, rewards)
    return np.nan_to_num(mean_by(cuts, finished, count), nan=0.0)


def spo_chain(
    logprobs: np.ndarray,
    offsets: np.ndarray,
    *,
    scores: np.ndarray,
    values: np.ndarray,
    params: SpoChainParams = DEFAULTS,
) -> SpoChain:
    """Give each segment between cuts the change in value across it, to the outcome at the end.

    What stands before a first cut inside the response earns 0, for the start has no value then. A response without
    a low token has its outcome for a value at every token, and no advantage.

    Args:
        logprobs: `[T]` float64, natural logarithms under the policy to train; NaN: not sampled.
        offsets: `[M + 1]` int64, where each response begins.
        scores: `[M]` float64, outcome of each response; NaN: ended by length, counts 0.
        values: `[C]` float64, of `cut_values`, in the order of `cut_points`; no NaN.
        params: the same that made the cuts.

    Source: Segment Policy Optimization (Guo et al., 2025) as its code computes it. Deviations: the mask uses `rho`
        where the code has 0.9 throughout, probabilities no further than 1e-9 from it count as equal to it, and an
        advantage that is mere rounding is 0.
    """
    cuts, members = cut_points(logprobs, offsets, params), rows_of(offsets)
    count, inner = len(offsets) - 1, cuts.tokens >= 0
    outcomes = np.nan_to_num(scores)
    filled, ends = last_places(offsets)
    value_T = np.full(len(logprobs), np.nan)
    value_T[offsets[cuts.responses[inner]] + cuts.tokens[inner]] = values[inner]
    value_T[ends] = outcomes[filled]
    starts = np.full(count, np.nan)
    starts[cuts.responses[~inner]] = values[~inner]

    valued = np.flatnonzero(~np.isnan(value_T))
    responses = members[valued]
    first = np.diff(responses, prepend=-1) != 0
    base = np.where(first, starts[responses], np.concatenate(([np.nan], value_T[valued][:-1]))[: len(valued)])
    begins = np.where(first, offsets[responses], np.concatenate(([0], valued + 1))[: len(valued)])
    gained = np.where(np.isnan(base), 0.0, drop_rounding(value_T[valued] - base))
    segments = Segments(responses, begins - offsets[responses], valued + 1 - offsets[responses], base, value_T[valued])
    advantages = np.repeat(gained, valued + 1 - begins)
    advantages[_confident(logprobs, params.rho)] = 0.0
    uncut = np.bincount(cuts.responses, minlength=count) == 0
    value_T = np.where(uncut[members], outcomes[members], value_T)
    return SpoChain(value_T, advantages, _low(logprobs, params.rho), segments)


def spo_chain_credit(trees: Trees, params: SpoChainParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of the judged trajectories of trees, each step being a segment between two cuts.

    The value after a step is its label, which says what the continuations drawn from there earned, and the verdict
    after the last. Where the root has no label, its value is the mean verdict of the tree's trajectories: they were
    drawn from there. A rendered node changes no value.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `step_soft` and `logprobs`.
        params: rho; the others were used when continuations were drawn, and are not looked at.

    Returns:
        value: `[N]` float64, after the node; NaN where it has no label, and below the root where no judged leaf is
            below.
        advantage: `[N]` float64, the value less that before the step; 0 where the policy said nothing, NaN where a
            value is unknown.
        mask: `[N]` bool, True where some token is less probable than rho and so trained. Which tokens those are shows
            in their advantages alone, being 0 for the more probable ones; so a token of probability rho, which keeps
            its advantage, is trained too, as in the authors' code it is not.
        token_advantages: `[T]` float64, the node's; 0 where the policy sampled nothing and where a token is more
            probable than rho.

    Source: as `spo_chain`. Deviations: the value of the start counts whatever the first token, as in the paper; cuts
        are where the tree's steps end.
    """
    said, found = said_by_policy(trees), trajectories(trees, judged=True)
    below, root = np.zeros(len(said), dtype=bool), trees.parent < 0
    below[found.paths.nodes] = True
    start = mean_by(found.tasks, trees.reward[found.ends], int(trees.tree.max(initial=-1)) + 1)[trees.tree]
    value = np.where(np.isnan(trees.reward), trees.given["step_soft"], trees.reward)
    value[~below & ~root] = np.nan
    value = np.where(root & np.isnan(value), start, value)
    for rows in rows_by_depth(trees.depth)[1:]:
        rendered = rows[~said[rows] & below[rows]]
        value[rendered] = value[trees.parent[rendered]]
    advantage = np.where(said, drop_rounding(value - value[trees.parent]), 0.0)

    logprobs, node = trees.given["logprobs"], np.repeat(np.arange(len(said)), trees.token_counts())
    trained = said[node] & ~np.isnan(logprobs) & ~_confident(logprobs, params.rho)
    return CreditColumns(
        value=value,
        advantage=advantage,
        mask=np.bincount(node[said[node] & _low(logprobs, params.rho)], minlength=len(said)) > 0,
        token_advantages=np.where(trained, advantage[node], 0.0),
    )


def _confident(logprobs: np.ndarray, rho: float) -> np.ndarray:
    return np.exp(logprobs) > rho + ZERO


def _low(logprobs: np.ndarray, rho: float) -> np.ndarray:
    return np.exp(logprobs) < rho - ZERO

"""TEMPO: group advantage plus, token by token, the change in the mean reward of those who wrote the same so far.

Knows token ids and verdicts alone; needs no log-probabilities and no continuations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by, moments, ranges


@dataclass(frozen=True, slots=True)
class TempoParams:
    """Parameters of TEMPO.

    normalize_by_std: divide by the standard deviation of the group's rewards.
    eps: added to it.
    ddof: of it.
    """

    normalize_by_std: bool = True
    eps: float = 1e-6
    ddof: int = 1


DEFAULTS = TempoParams()


def tempo(trees: Trees, params: TempoParams = DEFAULTS) -> CreditColumns:
    """Credit every token of the judged trajectories of a tree.

    With V(prefix) the mean reward of the group's responses that begin with the prefix, a token of response `i`
    earns `(r_i - mean + V(prefix with it) - V(prefix before it)) / (std + eps)`. A response is the tokens
    along the path, the root's (the prompt) left out; trajectories without a verdict take no part. Where
    several trajectories pass through a node, a token of it has the mean of their advantages.

    Args:
        trees: `N` nodes, `T` tokens.
        params: whether to divide by the group's spread.

    Returns:
        value: `[N]` float64, V(tokens to the node's end); NaN where no judged leaf is below.
        advantage: `[N]` float64, mean over the node's tokens; 0 at roots, NaN where there is no token or
            no judged leaf below.
        token_advantages: `[T]` float64; 0 in roots, in groups of equal rewards and in groups of one, NaN where
            no judged leaf is below.

    Source: TEMPO (Tran et al., 2025) as its code computes it. Deviation: a group of one has 0 where the
        code yields NaN.
    """
    ends = trees.judged()
    rewards, groups = trees.reward[ends], trees.tree[ends]
    count = int(trees.tree.max()) + 1 if len(trees.tree) else 0
    of = moments(rewards, groups, count=count, ddof=params.ddof)
    paths = trees.paths(ends)

    lengths_P = trees.token_counts()[paths.nodes]
    places = ranges(trees.token_offsets[paths.nodes], lengths_P)  # [S] in trees.tokens, response after response
    lengths_M = paths.token_counts(trees)
    offsets = np.concatenate(([0], np.cumsum(lengths_M)))
    values_S = prefix_values(trees.tokens[places], offsets, groups=groups, rewards=rewards)

    begins = offsets[:-1][lengths_M > 0]
    before_S = np.concatenate(([0.0], values_S))[:-1]
    before_S[begins] = of.mean[groups][lengths_M > 0]
    advantage_S = np.repeat(of.centred, lengths_M) + values_S - before_S
    if params.normalize_by_std:
        advantage_S = advantage_S / (np.repeat(np.nan_to_num(of.std[groups]), lengths_M) + params.eps)
    nothing = np.repeat(of.alike[groups], lengths_M)  # a group of one is alike
    advantage_S = drop_rounding(np.where(nothing, 0.0, advantage_S))

    token_advantages = mean_by(places, advantage_S, len(trees.tokens))
    root = trees.parent < 0
    token_advantages[np.repeat(root, trees.token_counts())] = 0.0
    nodes_T = np.repeat(np.arange(len(root)), trees.token_counts())
    ends_P = np.cumsum(lengths_P)
    reached = np.repeat(of.mean[groups], np.diff(paths.offsets))
    some = ends_P > np.repeat(offsets[:-1], np.diff(paths.offsets))
    reached[some] = values_S[ends_P[some] - 1]
    value = mean_by(paths.nodes, reached, len(root))
    value[root] = of.mean[trees.tree[root]]
    advantage = mean_by(nodes_T, token_advantages, len(root))
    return CreditColumns(
        value=value,
        advantage=np.where(root, 0.0, drop_rounding(advantage)),
        token_advantages=token_advantages,
    )


def prefix_values(tokens: np.ndarray, offsets: np.ndarray, *, groups: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Mean reward of the group's responses that begin with a response's tokens so far, after each of them.

    Descends the tries of all groups at once, a level at a time, and follows a response only as long as
    another one shares its prefix. Time is that of sorting the shared tokens.

    Args:
        tokens: `[S]` int32, the responses one after the other.
        offsets: `[M + 1]` int64, where each begins.
        groups: `[M]` int, code of each response's group, from 0.
        rewards: `[M]` float64, no NaN.

    Returns:
        `[S]` float64; a response that ends counts for the prefixes it has, its whole included.
    """
    lengths = np.diff(offsets)
    values = np.repeat(rewards, lengths)  # alone with its prefix, a response is worth its own reward
    active = np.flatnonzero(lengths > 0)
    shared = groups[active].astype(np.int64)  # class of the prefix, of those still followed
    level = 0
    while len(active):
        at = offsets[active] + level
        _, shared, size = np.unique((shared << 32) + tokens[at], return_inverse=True, return_counts=True)
        values[at] = mean_by(shared, rewards[active], len(size))[shared]
        level += 1
        follow = (size[shared] > 1) & (lengths[active] > level)
        active, shared = active[follow], shared[follow]
    return values

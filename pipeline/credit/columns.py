"""The arrays a credit method takes and gives. Does not know any method, what a token means, nor tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from pipeline.credit.compiled import kernels
from pipeline.credit.inputs import INPUTS, NODE

ZERO = 1e-9
"""A computed advantage no larger than this counts as 0, values no further apart count as equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """`N` nodes of any number of trees, parents before children. A tree is the group of its leaves.

    parent: `[N]` int32, row of the parent; -1 at a root.
    depth:  `[N]` int32, steps from the root; 0 at a root.
    tree:   `[N]` int32, code of the tree, from 0; every tree has one root.
    reward: `[N]` float64, finite, the verdict on a leaf; NaN where none was given. One that was stored is in [0, 1].
    tokens: `[T]` int32, the token ids of all nodes, one node after the other. None: not read, only counted.
    token_offsets: `[N + 1]` int64; node `i` has the tokens from `token_offsets[i]` to `token_offsets[i + 1]`.
    given:  what else is known, by name of INPUTS: an entry a node, or one a token.

    Raises:
        BadTrees: the arrays do not describe such trees; names the first row at fault.
        ValueError: their lengths do not fit.
    """

    parent: np.ndarray
    depth: np.ndarray
    tree: np.ndarray
    reward: np.ndarray
    tokens: np.ndarray | None
    token_offsets: np.ndarray
    given: Mapping[str, np.ndarray | pl.Series] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.parent)
        for name, values in self.given.items():
            expected = count if INPUTS[name].per == NODE else int(self.token_offsets[-1])
            if len(values) != expected:
                raise ValueError(f"{name} has {len(values)} entries; expected {expected}, one a {INPUTS[name].per}")
        for name, length in (("depth", count), ("tree", count), ("reward", count), ("token_offsets", count + 1)):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, parent has {count}; expected {length}")
        if self.token_offsets[0] != 0:
            raise ValueError(f"token_offsets must run from 0, not from {self.token_offsets[0]}")
        if self.tokens is not None and self.token_offsets[-1] != len(self.tokens):
            raise ValueError(f"token_offsets must run from 0 to the {len(self.tokens)} tokens there are")
        fast = kernels(count)
        if fast is None or not fast.are_trees(self.parent, self.depth, self.tree, self.reward, self.token_offsets):
            self._check()

    def _check(self) -> None:
        """Raise for the first row that breaks a rule."""
        root, inner = self.parent < 0, self.parent >= 0
        _require(np.diff(self.token_offsets) >= 0, "ends before it begins in token_offsets")
        _require((self.parent >= -1) & (self.parent < np.arange(len(self.parent))), "its parent must stand before it")
        _require(root | (self.depth == self.depth[self.parent] + 1), "its depth is not its parent's plus one")
        _require(inner | (self.depth == 0), "a root has depth 0")
        _require(self.tree >= 0, "its tree has a negative code")
        _require(root | (self.tree == self.tree[self.parent]), "its parent belongs to another tree")
        first = np.zeros(len(self.parent), dtype=bool)
        first[np.unique(self.tree, return_index=True)[1]] = True
        _require(inner | first, "its tree has a root already")
        _require(~np.isinf(self.reward), "its reward is not finite")
        _require(
            np.isnan(self.reward) | self.leaves(),
            "has a verdict and children; leave out what hangs below a judged leaf, such as the prompt of a retry",
        )

    def leaves(self) -> np.ndarray:
        """`[N]` bool: the nodes without children."""
        leaf = np.ones(len(self.parent), dtype=bool)
        leaf[self.parent[self.parent >= 0]] = False
        return leaf

    def judged(self) -> np.ndarray:
        """`[M]` rows of the leaves with a verdict, in order."""
        return np.flatnonzero(~np.isnan(self.reward))

    def deepest_first(self) -> Iterator[np.ndarray]:
        """The rows of one depth after the other, the deepest first; roots are left out."""
        yield from rows_by_depth(self.depth)[:0:-1]

    def token_counts(self) -> np.ndarray:
        """`[N]` int64: tokens of each node."""
        return np.diff(self.token_offsets)

    def paths(self, ends: np.ndarray) -> Paths:
        """The way from below the root to each of some nodes.

        Args:
            ends: `[M]` rows; a root has an empty path.
        """
        offsets = np.concatenate(([0], np.cumsum(self.depth[ends], dtype=np.int64)))
        nodes = np.empty(offsets[-1], dtype=np.int64)
        member, row = np.arange(len(ends)), np.asarray(ends)
        while len(row):
            below_root = self.parent[row] >= 0
            member, row = member[below_root], row[below_root]
            nodes[offsets[member] + self.depth[row] - 1] = row
            row = self.parent[row]
        return Paths(nodes=nodes, offsets=offsets, count=len(self.parent))


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """`M` paths through the nodes of some trees, `P` nodes in all; a node shared by paths is there once for each.

    nodes:   `[P]` int64, rows, path after path, each from its first step to its end.
    offsets: `[M + 1]` int64, where each path begins in `nodes`.
    count:   `N`, nodes of the trees.
    """

    nodes: np.ndarray
    offsets: np.ndarray
    count: int

    def members(self) -> np.ndarray:
        """`[P]` int64: the path each entry of `nodes` belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def token_counts(self, trees: Trees) -> np.ndarray:
        """`[M]` int64: tokens along each path, the root's left out."""
        lengths = np.concatenate(([0], np.cumsum(trees.token_counts()[self.nodes])))
        return np.diff(lengths[self.offsets])

    def mean_by_node(self, values_M: np.ndarray) -> np.ndarray:
        """`[N]` float64: mean value of the paths through each node; NaN where there is none."""
        return mean_by(self.nodes, values_M[self.members()], self.count)


@dataclass(frozen=True, slots=True, eq=False)
class CreditColumns:
    """What a method says of `N` nodes. None: nothing.

    value:     `[N]` float64, expected reward at the node; NaN where unknown.
    advantage: `[N]` float64, what the step moved; 0 at roots, NaN where unknown.
    weight:    `[N]` float64, weight of the node in the loss; NaN stands for 1.
    mask:      `[N]` bool, False where the method leaves the node out of the loss.
    token_advantages: `[T]` float64, as long as the trees' `tokens`; NaN where unknown.
    """

    value: np.ndarray | None = None
    advantage: np.ndarray | None = None
    weight: np.ndarray | None = None
    mask: np.ndarray | None = None
    token_advantages: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A credit method as `METHODS` lists it.

    function: takes `Trees` and its parameters, gives `CreditColumns`.
    origins:  nodes the method looks at, words of `schemas.words.ORIGINS`; all others have no credit.
    params:   gives the frozen dataclass of its parameters as published; takes those that shall be others by name.
    needs:    what it must be given, names of INPUTS.
    needs_by: what it must be given with some parameters. None: the same with all.
    version:  rises when the same input gives other numbers.
    across_tasks: whether, with some parameters, a node's numbers depend on nodes of other tasks.
    judged:   origins whose verdicts count; empty: all.
    judged_alike: parameters that must be those with which a judge gave the scores that it needs, where he has them.
    agents:   words of `schemas.words.AGENTS`: below the task's own prompt it sees theirs too, at which a path goes on.
    """

    function: Callable[..., CreditColumns]
    origins: tuple[str, ...]
    params: Callable[..., Any]
    needs: tuple[str, ...] = ()
    version: str = "1"
    across_tasks: Callable[[Any], bool] = lambda params: False
    judged: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    needs_by: Callable[[Any], tuple[str, ...]] | None = None
    judged_alike: tuple[str, ...] = ()

    def under(self, params: Any) -> Method:
        """The method with what it needs under these parameters."""
        return replace(self, needs=self.needs_by(params)) if self.needs_by else self


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and spread of `M` values in `G` groups.

    values, groups: `[M]`, as given to `moments`.
    count: `[G]` int64, values of the group.
    mean:  `[G]` float64; NaN for an empty group.
    std:   `[G]` float64; 0 for a group of equals, NaN for one with no more values than `ddof`.
    alike: `[G]` bool, the values of the group are equal.
    """

    values: np.ndarray
    groups: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    alike: np.ndarray

    @property
    def centred(self) -> np.ndarray:
        """`[M]` float64, each value less its group's mean; exactly 0 in a group of equals, NaN for a NaN."""
        return scaled(self.values, self.groups, self.mean, np.where(self.alike, 0.0, 1.0))


def moments(values: np.ndarray, groups: np.ndarray, *, count: int, ddof: int) -> Moments:
    """Mean and standard deviation by group.

    Args:
        values: `[M]` float64; NaN: belongs to no group.
        groups: `[M]` int, each value's group, from 0 and below `count`.
        count: `G`, the number of groups.
        ddof: 0 for the deviation of a population, 1 of a sample.
    """
    if fast := kernels(len(values)):
        return Moments(values, groups, *fast.group_moments(values, groups, count, ddof, ZERO))
    if (unknown := np.isnan(values)).any():
        of = moments(values[~unknown], groups[~unknown], count=count, ddof=ddof)
        return replace(of, values=values, groups=groups)
    groups = groups.astype(np.int64, copy=False)  # numpy's own index type, to which it would convert at every use
    size = np.bincount(groups, minlength=count)
    mean = mean_by(groups, values, count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    alike = high - low <= ZERO
    centred = scaled(values, groups, mean, np.where(alike, 0.0, 1.0))
    squares = np.bincount(groups, weights=centred**2, minlength=count)
    variance = np.divide(squares, size - ddof, out=np.full(count, np.nan), where=size > ddof)
    return Moments(values, groups, size, mean, np.sqrt(variance), alike)


def scaled(
    values: np.ndarray, groups: np.ndarray, base: np.ndarray, factor: np.ndarray, *, zero: float = 0.0
) -> np.ndarray:
    """Values less their group's base, times its factor.

    Args:
        values: `[M]` float64.
        groups: `[M]` int, each value's group, from 0.
        base, factor: `[G]` float64.
        zero: what is no larger than this is 0.

    Returns:
        `[M]` float64.
    """
    if fast := kernels(len(values)):
        return fast.scaled(values, groups, base, factor, zero)
    result = (values - base[groups]) * factor[groups]
    return np.where(np.abs(result) <= zero, 0.0, result)


def mean_by(groups: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """`[count]` float64: mean of the values of each group; NaN for an empty group."""
    size = np.bincount(groups, minlength=count)
    total = np.bincount(groups, weights=values, minlength=count)
    return np.divide(total, size, out=np.full(count, np.nan), where=size > 0)


def drop_rounding(advantage: np.ndarray) -> np.ndarray:
    """The same with 0 for whatever is no larger than `ZERO`; NaN stays."""
    return np.where(np.abs(advantage) <= ZERO, 0.0, advantage)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The integers `start, start + 1, ...` of each range, one range after the other: `[sum(lengths)]` int64."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def rows_by_depth(depth: np.ndarray) -> list[np.ndarray]:
    """The rows of each depth from 0 to the deepest; each in order."""
    if len(depth) == 0:
        return []
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.cumsum(np.bincount(depth))[:-1])


class BadTrees(ValueError):
    """A row that cannot belong to any tree, and why."""

    def __init__(self, row: int, why: str):
        self.row, self.why = row, why
        super().__init__(f"row {row}: {why}")


def _require(good: np.ndarray, why: str) -> None:
    """Raise an error for the first row that is not good."""
    if not good.all():
        raise BadTrees(int(np.argmin(good)), why)

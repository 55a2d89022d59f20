"""The arrays a credit method takes and gives, and the way from and to tables.

Does not know any method, what a token means, nor where tables are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.credit.inputs import INPUTS, NODE
from schemas import Credit

ZERO = 1e-9
"""A computed advantage no larger than this counts as 0, values no further apart count as equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """`N` nodes of any number of trees, parents before children. A tree is the group of its leaves.

    parent: `[N]` int32, row of the parent; -1 at a root.
    depth:  `[N]` int32, steps from the root; 0 at a root.
    tree:   `[N]` int32, code of the tree, from 0; every tree has one root.
    reward: `[N]` float64 in [0, 1], the verdict on a leaf; NaN where none was given.
    tokens: `[T]` int32, the token ids of all nodes, one node after the other.
    token_offsets: `[N + 1]` int64; node `i` has the tokens from `token_offsets[i]` to `token_offsets[i + 1]`.
    given:  what else is known, by name of INPUTS: an entry a node, or one a token.

    Raises:
        ValueError: the arrays do not describe such trees; names the first row at fault.
    """

    parent: np.ndarray
    depth: np.ndarray
    tree: np.ndarray
    reward: np.ndarray
    tokens: np.ndarray
    token_offsets: np.ndarray
    given: Mapping[str, np.ndarray | pl.Series] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.parent)
        for name, values in self.given.items():
            expected = count if INPUTS[name].per == NODE else len(self.tokens)
            if len(values) != expected:
                raise ValueError(f"{name} has {len(values)} entries; expected {expected}, one a {INPUTS[name].per}")
        for name, length in (("depth", count), ("tree", count), ("reward", count), ("token_offsets", count + 1)):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, parent has {count}; expected {length}")
        if self.token_offsets[0] != 0 or self.token_offsets[-1] != len(self.tokens):
            raise ValueError(f"token_offsets must run from 0 to the {len(self.tokens)} tokens there are")
        root, inner = self.parent < 0, self.parent >= 0
        _require(np.diff(self.token_offsets) >= 0, "ends before it begins in token_offsets")
        _require((self.parent >= -1) & (self.parent < np.arange(count)), "its parent must stand before it")
        _require(root | (self.depth == self.depth[self.parent] + 1), "its depth is not its parent's plus one")
        _require(inner | (self.depth == 0), "a root has depth 0")
        _require(self.tree >= 0, "its tree has a negative code")
        _require(root | (self.tree == self.tree[self.parent]), "its parent belongs to another tree")
        first = np.zeros(count, dtype=bool)
        first[np.unique(self.tree, return_index=True)[1]] = True
        _require(inner | first, "its tree has a root already")
        _require(np.isnan(self.reward) | ((self.reward >= 0) & (self.reward <= 1)), "its reward is not in [0, 1]")
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
    params:   frozen dataclass of its parameters, every one with a default.
    needs:    what it must be given, names of INPUTS.
    """

    function: Callable[..., CreditColumns]
    origins: tuple[str, ...]
    params: type
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and spread of values in `G` groups.

    count:   `[G]` int64, values of the group.
    mean:    `[G]` float64; NaN for an empty group.
    std:     `[G]` float64; 0 for a group of equals, NaN for one with no more values than `ddof`.
    alike:   `[G]` bool, the values of the group are equal.
    centred: `[M]` float64, each value less its group's mean; exactly 0 in a group of equals.
    """

    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    alike: np.ndarray
    centred: np.ndarray


def moments(values: np.ndarray, groups: np.ndarray, *, count: int, ddof: int) -> Moments:
    """Mean and standard deviation by group.

    Args:
        values: `[M]` float64, no NaN.
        groups: `[M]` int, each value's group, below `count`.
        count: `G`, the number of groups.
        ddof: 0 for the deviation of a population, 1 of a sample.
    """
    size = np.bincount(groups, minlength=count)
    mean = mean_by(groups, values, count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    alike = high - low <= ZERO
    centred = np.where(alike[groups], 0.0, values - mean[groups])
    squares = np.bincount(groups, weights=centred**2, minlength=count)
    variance = np.divide(squares, size - ddof, out=np.full(count, np.nan), where=size > ddof)
    return Moments(size, mean, np.sqrt(variance), alike, centred)


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


def parent_rows(nodes: pl.DataFrame) -> np.ndarray:
    """`[N]` int32: the row of each node's parent; -1 at a root.

    Args:
        nodes: columns `tree`, `node`, `parent`.

    Raises:
        ValueError: a parent is missing; names tree and node.
    """
    rows = nodes.select("tree", "node").with_row_index("row")
    found = nodes.select("tree", "node", "parent").join(
        rows, left_on=["tree", "parent"], right_on=["tree", "node"], how="left", validate="m:1", maintain_order="left"
    )
    lost = found.filter(pl.col("parent").is_not_null() & pl.col("row").is_null())
    if len(lost):
        row = lost.row(0, named=True)
        raise ValueError(f"tree {row['tree']}: parent {row['parent']} of node {row['node']} is not there")
    return found["row"].cast(pl.Int32).fill_null(-1).to_numpy()


def reward_rows(nodes: pl.DataFrame, rewards: pl.DataFrame) -> np.ndarray:
    """`[N]` float64: the verdict on each node; NaN where none was given.

    Args:
        nodes: columns `tree`, `node`.
        rewards: columns `tree`, `node`, `reward`, at most one row a node. Rows of other nodes are ignored.
    """
    wanted = rewards.select("tree", "node", "reward")
    found = nodes.select("tree", "node").join(
        wanted, on=["tree", "node"], how="left", validate="m:1", maintain_order="left"
    )
    return found["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def trees_from_nodes(nodes: pl.DataFrame, rewards: pl.DataFrame) -> Trees:
    """The nodes of a table as arrays, row for row.

    Args:
        nodes: columns `tree`, `node`, `parent`, `depth`, `token_ids`, sorted by tree and node, every node's
            parent among them.
        rewards: columns `tree`, `node`, `reward`, at most one row a node. Null: no verdict. Rows of other
            nodes are ignored.

    Raises:
        ValueError: a parent is missing, the nodes are not sorted, or a judged node has children.
    """
    lengths = nodes["token_ids"].list.len().cast(pl.Int64).to_numpy()
    tokens = nodes["token_ids"].rechunk().to_arrow().flatten()
    return Trees(
        parent=parent_rows(nodes),
        depth=nodes["depth"].cast(pl.Int32).to_numpy(),
        tree=nodes["tree"].rle_id().cast(pl.Int32).to_numpy(),
        reward=reward_rows(nodes, rewards),
        tokens=tokens.to_numpy(zero_copy_only=False).astype(np.int32, copy=False),
        token_offsets=np.concatenate(([0], np.cumsum(lengths))),
    )


def credit_frame(nodes: pl.DataFrame, trees: Trees, columns: CreditColumns, method: str) -> pl.DataFrame:
    """What a method says, as rows of the credit table; whatever is not finite becomes null.

    A list of token advantages none of which is known is null, so that the node's own advantage, null too, holds.

    Args:
        nodes: columns `task`, `tree`, `node`, row for row those of `trees`.
        trees: the trees the method saw.
        columns: what it said.
        method: key of METHODS.
    """
    count, types = len(nodes), {name: column.dtype for name, column in Credit.columns().items()}
    numbers = {name: _float32(getattr(columns, name), count) for name in ("value", "advantage", "weight")}
    mask = pl.repeat(None, count, dtype=pl.Boolean, eager=True) if columns.mask is None else pl.Series(columns.mask)
    lists = pl.repeat(None, count, dtype=types["token_advantages"], eager=True)
    if columns.token_advantages is not None:
        lists = _lists(columns.token_advantages, trees.token_offsets)
    return nodes.select(
        "task", "tree", "node", method=pl.lit(method), **numbers, mask=mask, token_advantages=lists
    ).cast(types)


def _require(good: np.ndarray, why: str) -> None:
    """Raise a ValueError for the first row that is not good."""
    if not good.all():
        raise ValueError(f"row {int(np.argmin(good))}: {why}")


def _float32(values: np.ndarray | None, count: int) -> pl.Series:
    """As float32 with null for whatever is not finite."""
    if values is None:
        return pl.repeat(None, count, dtype=pl.Float32, eager=True)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return pl.Series(np.where(np.isfinite(narrow), narrow, np.float32("nan")), nan_to_null=True)


def _lists(flat: np.ndarray, offsets: np.ndarray) -> pl.Series:
    """One list a node; null where a node has tokens and none of them a finite number."""
    numbers = _float32(flat, 0).to_arrow()
    known = np.concatenate(([0], np.cumsum(np.isfinite(flat))))
    lost = (np.diff(known[offsets]) == 0) & (np.diff(offsets) > 0)
    lists = pl.Series(pa.LargeListArray.from_arrays(offsets, numbers), dtype=pl.List(pl.Float32))
    return pl.select(pl.when(pl.Series(~lost)).then(lists)).to_series()

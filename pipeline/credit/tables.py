"""From the tables of nodes, verdicts and step labels to the arrays a method takes, and back to the table of credit.

Knows no method and no file. Strings are looked at once a tree, never once a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.credit.columns import BadTrees, CreditColumns, Method, Trees
from pipeline.credit.compiled import kernels
from pipeline.credit.inputs import INPUTS, SCORES, TOKEN
from pipeline.credit.lacking import lacking
from pipeline.errors import BadTable
from schemas import Credit
from schemas.words import AGENTS, FINISHES, KINDS, ORIGINS

TREE_COLUMNS = ("task", "tree", "node", "parent", "depth", "origin", "kind", "token_count")
"""Of nodes, without which there are no trees."""
FEW_WORDS = ("task", "tree", "origin", "kind", "version")
"""Columns of nodes and verdicts that are best read as dictionaries: far more rows than values."""
_AGAIN = "remove the file and run its stage again, or mend what it was imported from"


@dataclass(frozen=True, slots=True, eq=False)
class NodeRows:
    """Where the nodes of a table are: rows sorted by tree and node.

    names: `[G]` trees, in the order they have. code: `[N]` int32, each row's tree.
    """

    names: pl.Series
    code: np.ndarray
    _bases: np.ndarray
    _rows: np.ndarray

    def find(self, code: np.ndarray, node: np.ndarray) -> np.ndarray:
        """Rows of some nodes by tree and number; -1 where there is no such node, and for a negative code or number."""
        if not len(self._rows):
            return np.full(len(code), -1)
        if fast := kernels(len(code)):
            return fast.find_nodes(code, node, self._bases, self._rows)
        known = (code >= 0) & (node >= 0)
        at = np.where(known, self._bases[code] + node, 0)
        known &= at < self._bases[np.where(known, code, 0) + 1]
        return np.where(known, self._rows[np.where(known, at, 0)], -1)

    def codes_of(self, trees: pl.Series) -> np.ndarray:
        """`[K]` codes of trees by name, in runs; -1 where a tree is not there."""
        run = trees.rle_id().to_numpy().astype(np.int64)
        wanted = _firsts(trees, run).to_frame("tree")
        here = pl.DataFrame({"tree": self.names, "code": np.arange(len(self.names))})
        found = wanted.join(here, on="tree", how="left", maintain_order="left")["code"].fill_null(-1).to_numpy()
        return found[run]


def node_rows(nodes: pl.DataFrame) -> NodeRows:
    """Index nodes by tree and number.

    Args:
        nodes: columns `tree` (strings or categories) and `node`, sorted by both.

    Raises:
        BadTable: they are not sorted, or a node is there twice.
    """
    code = nodes["tree"].rle_id().to_numpy().astype(np.int32)
    names, node = _firsts(nodes["tree"], code), nodes["node"].to_numpy().astype(np.int64)
    if names.n_unique() < len(names):
        raise BadTable(f"nodes: the rows of tree {_twice(names)} do not lie together", remedy=_AGAIN)
    bases, rows, fault = _index(code, node, len(names))
    if fault >= 0:
        raise BadTable(f"nodes: {_named(nodes, fault)}: does not come after the node before it", remedy=_AGAIN)
    return NodeRows(names, code, bases, rows)


def _index(code: np.ndarray, node: np.ndarray, trees: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Where each tree's numbers begin, the row of each number, and the first row out of order; -1: none."""
    if fast := kernels(len(code)):
        return fast.index_nodes(code, node, trees)
    fallen = np.flatnonzero((code[1:] == code[:-1]) & (node[1:] <= node[:-1]))
    if len(fallen):
        return code, code, int(fallen[0]) + 1
    last = np.append(np.flatnonzero(np.diff(code)), len(code) - 1) if len(code) else np.array([], np.int64)
    bases = np.concatenate(([0], np.cumsum(node[last] + 1)))
    rows = np.full(int(bases[-1]), -1, dtype=np.int32)
    rows[bases[code] + node] = np.arange(len(code), dtype=np.int32)
    return bases, rows, -1


def parent_rows(nodes: pl.DataFrame, index: NodeRows | None = None, *, column: str = "parent") -> np.ndarray:
    """`[N]` int32: the row of each node's parent, or of what else a column names; -1 where it is null.

    Args:
        nodes: columns `tree`, `node` and the one named; sorted by tree and node.

    Raises:
        BadTable: a parent is missing; names tree and node.
    """
    index = node_rows(nodes) if index is None else index
    above = nodes[column].fill_null(-1).to_numpy().astype(np.int64)
    found = index.find(index.code, above)
    lost = (above >= 0) & (found < 0)
    _refuse(nodes, ~lost, f"its {column} {above[np.argmax(lost)] if lost.any() else ''} is not there")
    return found.astype(np.int32)


def reward_rows(nodes: pl.DataFrame, verdicts: pl.DataFrame, index: NodeRows | None = None) -> np.ndarray:
    """`[N]` float64 in [0, 1]: the verdict on each node; NaN where none was given.

    Args:
        nodes: columns `tree`, `node`, sorted by both.
        verdicts: columns `tree`, `node`, `reward`, at most one row a node. Null: no verdict. Rows of other nodes
            are ignored.

    Raises:
        BadTable: a reward is NaN or not in [0, 1], or a node has two; names tree and node.
    """
    index = node_rows(nodes) if index is None else index
    found = _by_row(nodes, index, verdicts, "reward", table="verdicts")
    _refuse(nodes, np.isnan(found) | ((found >= 0) & (found <= 1)), "its reward is not in [0, 1]", table="verdicts")
    return found


def trees_from_nodes(
    nodes: pl.DataFrame,
    verdicts: pl.DataFrame,
    *,
    needs: Sequence[str] = ("tokens",),
    judged: Sequence[str] = (),
    labels: pl.DataFrame | None = None,
    scores: Mapping[str, pl.DataFrame] = MappingProxyType({}),
) -> Trees:
    """The nodes of a table as arrays, row for row.

    Args:
        nodes: columns `tree`, `node`, `parent`, `depth`, `token_count` or `token_ids`, and what `needs` are made from;
            sorted by tree and node, every node's parent among them.
        verdicts: as `reward_rows`.
        needs: names of INPUTS to fill in.
        judged: origins whose verdicts count; empty: all.
        labels: step labels of one labeller and version, where a need is made from them. No rows: none is known.
        scores: rows of the table of scores by name, for the needs that stand there; likewise.

    Raises:
        BadTable: the rows are no trees, or a table or column that is needed is missing; names table, tree, node and
            remedy.
    """
    index = node_rows(nodes)
    lengths = (nodes["token_count"] if "token_count" in nodes.columns else nodes["token_ids"].list.len()).to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    tokens = _flat(nodes, "token_ids", offsets).astype(np.int32, copy=False) if "tokens" in needs else None
    given = {name: _given(name, nodes, labels, scores, index, offsets) for name in needs if name != "tokens"}
    reward = reward_rows(nodes, verdicts, index)
    if judged:
        reward = np.where(nodes["origin"].is_in(judged).to_numpy(), reward, np.nan)
    try:
        return Trees(
            parent=parent_rows(nodes, index),
            depth=nodes["depth"].to_numpy().astype(np.int32),
            tree=index.code,
            reward=reward,
            tokens=tokens,
            token_offsets=offsets,
            given=given,
        )
    except BadTrees as error:
        raise BadTable(f"nodes: {_named(nodes, error.row)}: {error.why}", remedy=_AGAIN) from error


def seen_by(method: Method) -> pl.Expr:
    """Whether a method looks at a node: at the task's own prompt and at what was written into a path, not at the
    prompts that retries were asked under, but those of agents that it names.
    """
    in_path = (pl.col("origin") != "prompt") | pl.col("parent").is_null() | (pl.col("kind") != "prompt")
    if method.agents:
        in_path |= pl.col("agent").is_in(method.agents)
    return pl.col("origin").is_in(method.origins) & in_path


def columns_for(method: Method) -> list[str]:
    """The columns of nodes that a method's arrays are made from."""
    made_from = [INPUTS[name].column for name in method.needs if INPUTS[name].table == "nodes"]
    told_by = ("agent",) if method.agents else ()
    return list(dict.fromkeys((*TREE_COLUMNS, *told_by, *made_from)))


def credit_frame(nodes: pl.DataFrame, trees: Trees, columns: CreditColumns, method: str) -> pl.DataFrame:
    """What a method says, as rows of the credit table; whatever is not finite becomes null.

    A list of token advantages none of which is known is null, so that the node's own advantage, null too, holds. What
    a model was shown below a root, such as an observation, earns nothing under any method.

    Args:
        nodes: columns `task`, `tree`, `node`, `kind`, row for row those of `trees`.
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
    shown = (nodes["kind"] == "prompt") & pl.Series(trees.parent >= 0, dtype=pl.Boolean)
    if shown.any():
        numbers["advantage"] = numbers["advantage"].set(shown, 0.0)
        lists = pl.select(pl.when(~shown).then(lists)).to_series()
    return nodes.select(
        "task",
        "tree",
        "node",
        method=pl.lit(method),
        **numbers,
        mask=mask,
        token_advantages=lists,
        degenerate=_degenerate(trees),
    ).cast(types)


def _degenerate(trees: Trees) -> pl.Series:
    """`[N]` bool: the judged leaves of the node's tree have one reward; null where there is none."""
    ends, count = trees.judged(), int(trees.tree.max(initial=-1)) + 1
    lowest, highest = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(lowest, trees.tree[ends], trees.reward[ends])
    np.maximum.at(highest, trees.tree[ends], trees.reward[ends])
    flags = pl.Series(lowest == highest, dtype=pl.Boolean).set(pl.Series(lowest > highest), None)
    return flags.gather(pl.Series(trees.tree, dtype=pl.UInt32))


def _given(
    name: str,
    nodes: pl.DataFrame,
    labels: pl.DataFrame | None,
    scores: Mapping[str, pl.DataFrame],
    index: NodeRows,
    offsets: np.ndarray,
) -> np.ndarray | pl.Series:
    """One of INPUTS, filled in from its table; where that has no row or null, as INPUTS says.

    Raises:
        BadTable: there is no such table or column.
    """
    table, column = INPUTS[name].table, INPUTS[name].column
    rows = {"nodes": nodes, "step_labels": labels, SCORES: scores.get(name)}[table]
    if rows is None or column not in rows.columns:
        raise lacking(rows, name)
    if table == SCORES:
        return _scored(name, nodes, rows, column, index, offsets)
    if table == "step_labels":
        return _by_row(nodes, index, rows.with_columns(pl.col(column).cast(pl.Float64)), column, table=table)
    return _READ[name](nodes, column, index, offsets)


def _scored(
    name: str, nodes: pl.DataFrame, rows: pl.DataFrame, column: str, index: NodeRows, offsets: np.ndarray
) -> np.ndarray | pl.Series:
    """What the table of scores says under a name, for each node or token."""
    if column == "value":
        return _by_row(nodes, index, rows, column, table=f"{SCORES} {name}")
    at = _rows_once(nodes, index, rows, table=f"{SCORES} {name}")
    place = pl.Series(at, dtype=pl.Int64)
    laid = rows[column].gather(place.set(place < 0, None).cast(pl.UInt32))
    if INPUTS[name].per == TOKEN:
        lists, table = nodes.with_columns(laid.alias(column)), f"{SCORES} {name}"
        return _flat(lists, column, offsets, null=np.nan, table=table).astype(np.float64)
    return laid


def _number(dtype: type, null: float) -> Callable[..., np.ndarray]:
    return lambda nodes, column, *_: nodes[column].fill_null(null).to_numpy().astype(dtype)


def _words(words: Sequence[str]) -> Callable[..., np.ndarray]:
    places = {word: place for place, word in enumerate(words)}
    return lambda nodes, column, *_: (
        nodes[column].replace_strict(places, return_dtype=pl.Int32).fill_null(-1).to_numpy()
    )


def _states(nodes: pl.DataFrame, column: str, index: NodeRows, _offsets: np.ndarray) -> np.ndarray:
    """Codes of states, those of another tree never the same; -1 where none is known."""
    rows = pl.DataFrame({"tree": index.code, "state": nodes[column]})
    codes = rows.select(pl.struct("tree", "state").rank("dense").cast(pl.Int64) - 1).to_series()
    return np.where(nodes[column].is_null().to_numpy(), -1, codes.to_numpy())


def _log_probabilities(nodes: pl.DataFrame, column: str, _index: NodeRows, offsets: np.ndarray) -> np.ndarray:
    return _flat(nodes, column, offsets, null=np.nan).astype(np.float64)


_READ: dict[str, Callable[..., np.ndarray | pl.Series]] = {
    "turn": _number(np.int32, 0),
    "agent": _words(AGENTS),
    "kind": _words(KINDS),
    "origin": _words(ORIGINS),
    "finish": _words(FINISHES),
    "sampled": _number(np.bool_, False),
    "state": _states,
    "step_reward": _number(np.float64, 0.0),
    "text": lambda nodes, column, *_: nodes[column],
    "tool_calls": lambda nodes, column, *_: nodes[column],
    "logprobs": _log_probabilities,
}


def _by_row(nodes: pl.DataFrame, index: NodeRows, rows: pl.DataFrame, column: str, *, table: str) -> np.ndarray:
    """`[N]` float64 of a column of another table, by tree and node; NaN where it is null or has no row."""
    values = rows[column].cast(pl.Float64)
    if values.is_nan().any():
        at = int(values.is_nan().arg_max())
        raise BadTable(f"{table}: {column} of {_named(rows, at)} is not a number", remedy=_AGAIN)
    known = values.is_not_null()
    at = _rows_once(nodes, index, rows.filter(known), table=table)
    return np.append(values.drop_nulls().to_numpy(), np.nan)[at]


def _rows_once(nodes: pl.DataFrame, index: NodeRows, rows: pl.DataFrame, *, table: str) -> np.ndarray:
    """`[N]` the row of another table that names each node; -1 where none does.

    Raises:
        BadTable: two rows name a node.
    """
    found = index.find(index.codes_of(rows["tree"]), rows["node"].to_numpy().astype(np.int64))
    kept = np.flatnonzero(found >= 0)
    times = np.bincount(found[kept], minlength=len(nodes))
    if times.max(initial=0) > 1:
        row = int(np.argmax(times))
        raise BadTable(f"{table}: {_named(nodes, row)} has {times[row]} rows; expected one", remedy=_AGAIN)
    at = np.full(len(nodes), -1)
    at[found[kept]] = kept
    return at


def _flat(
    nodes: pl.DataFrame, column: str, offsets: np.ndarray, *, null: float | None = None, table: str = "nodes"
) -> np.ndarray:
    """The values of a list column, one list after the other; a null list is `null` for every token."""
    lists, lengths = nodes[column].rechunk(), np.diff(offsets)
    known = lists.is_not_null().to_numpy()
    fits = (lists.list.len().fill_null(0).to_numpy() == lengths) | (~known & (null is not None))
    _refuse(nodes, fits, f"{column} is not as long as its tokens", table=table)
    values = lists.drop_nulls().rechunk().to_arrow().flatten()
    values = values.to_numpy(zero_copy_only=False)
    if known.all():
        return values
    result = np.full(int(offsets[-1]), null, dtype=np.float64)
    result[np.repeat(known, lengths)] = values
    return result


def _firsts(values: pl.Series, code: np.ndarray) -> pl.Series:
    """The first value of each run, as strings."""
    starts = np.flatnonzero(np.diff(code, prepend=-1)) if len(code) else np.array([], np.int64)
    return values.gather(pl.Series(starts, dtype=pl.UInt32)).cast(pl.String)


def _twice(names: pl.Series) -> str:
    return names.filter(names.is_duplicated())[0]


def _refuse(rows: pl.DataFrame, good: np.ndarray, why: str, *, table: str = "nodes") -> None:
    """Raise for the first row that is not good."""
    if not good.all():
        raise BadTable(f"{table}: {_named(rows, int(np.argmin(good)))}: {why}", remedy=_AGAIN)


def _named(rows: pl.DataFrame, row: int) -> str:
    found = rows.row(row, named=True)
    return f"tree {found['tree']}, node {found['node']}"


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

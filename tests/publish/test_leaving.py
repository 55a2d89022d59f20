"""A release leaves out what hygiene found, says so, and is verified all the same."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, copied, read, run, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.publish.check import check_release
from pipeline.publish.folder import Folder
from pipeline.publish.rebuild import check_rebuilt
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.hygiene import HygieneConfig, write_hygiene
from pipeline.stages.release import ReleaseConfig, release_folder, write_release
from pipeline.stages.rl_prompts import write_rl_prompts
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.unpaired import write_unpaired
from pipeline.stages.work import Work
from schemas import TABLES

MAIL = '[{"name": "mail", "arguments": {"to": "ann@example.org"}}]'
POOLED = CreditConfig(("grpo",), params='{"convention": "grpo_trl_scale_batch"}')
"""Credit that reads other tasks too."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A round of which hygiene withholds a task that a benchmark has, and one with an address."""
    folder = tmp_path_factory.mktemp("round")
    with scripted(folder, Pupil()) as made:
        write_tasks(made)
        write_rollouts(made, RolloutConfig(group=4))
        known, mailing, _ = names(made)
        (place,) = made.places("nodes")
        called = (pl.col("task") == mailing) & (pl.col("node") == 2)
        nodes = read(made, "nodes").with_columns(tool_calls=pl.when(called).then(pl.lit(MAIL)))
        made.store.write("nodes", nodes, place, inputs=made.store.entry("nodes", place).inputs)
        run(made)
        for write in (write_unpaired, write_rl_prompts, write_best_answers):
            write(made)
        write_rl_samples(made, RlSampleConfig(method="tempo"))
        asked = dict(made.store.tasks("three")["task", "question"].iter_rows())
        (folder / "sums.txt").write_text(asked[known])
        write_hygiene(made, HygieneConfig(benchmarks=(str(folder / "sums.txt"),)))
        yield made


def names(work: Work) -> list[str]:
    return work.store.tasks("three", split="train")["task"].to_list()


def released(work: Work, withheld: str) -> Folder:
    write_release(work, ReleaseConfig(withheld=withheld))
    return Folder(release_folder(work))


def verified(folder: Folder) -> dict[str, str]:
    """What was built again, with its finding; nothing is wrong."""
    rebuilt = list(check_rebuilt(folder))
    assert [one for one in (*check_release(folder), *rebuilt) if not one.passed] == []
    return {one.what.removesuffix(" from nodes"): one.detail for one in rebuilt}


def card(folder: Folder) -> str:
    return (folder.path / "README.md").read_text()


def test_nothing_of_a_withheld_task_leaves(work):
    folder, (known, mailing, kept) = released(work, "drop"), names(work)
    for name in folder.configs:
        if "task" in TABLES[name].column_names():
            assert not set(folder.read(name)["task"]) & {known, mailing}, name
    for name in ("unpaired", "rl_prompts", "rl_samples", "sft", "pairs"):
        assert set(folder.read(name)["task"]) == {kept}
    assert not any(b"ann@example.org" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
    said = folder.manifest["hygiene"]
    assert (said["policy"], said["tasks"]) == ("drop", {"benchmark": 1, "personal": 1})
    for name, counts in said["rows"].items():
        stored = read(work, name) if name != "tasks" else work.store.tasks("three")
        assert counts == {
            "withheld": stored["task"].is_in([known, mailing]).sum(),
            "redacted": 0,
            "tokens_withheld": 0,
        }, name


def test_the_card_says_what_was_left_out(work):
    folder = released(work, "drop")
    text, left = card(folder), folder.manifest["hygiene"]["rows"]["nodes"]["withheld"]
    assert "## Hygiene" in text
    assert "all their rows were left out, in every table" in text
    assert f"| `nodes` | {left:,} | 0 | 0 |" in text
    assert "Near duplicates, questions of benchmarks" in text
    assert "were not searched for" not in text


def test_what_is_left_is_verified(work):
    built = verified(released(work, "drop"))
    assert {"unpaired", "rl_prompts", "pairs", "patches", "credit tempo", "step_labels monte_carlo"} <= built.keys()
    assert all("as the nodes give them" in detail for detail in built.values())


def test_redacted_tasks_have_words_alone(work):
    folder, (known, mailing, kept) = released(work, "redact"), names(work)
    nodes = folder.read("nodes")
    mended = nodes.filter(task=mailing)
    assert set(nodes["task"]) >= {mailing, kept}
    assert known not in set(nodes["task"])
    assert mended["tool_calls"].drop_nulls().to_list() == [MAIL.replace("ann@example.org", "[email]")]
    assert mended["token_ids"].list.len().sum() == mended["token_count"].sum() == 0
    assert set(folder.read("pairs")["task"]) == set(folder.read("credit")["task"]) == {kept}
    assert folder.manifest["hygiene"]["rows"]["nodes"]["tokens_withheld"] == len(mended)
    assert folder.manifest["hygiene"]["rows"]["nodes"]["redacted"] == 1
    assert "in words alone" in card(folder)
    assert all("as the nodes give them" in detail for detail in verified(folder).values())


def test_all_may_be_kept(work):
    folder = released(work, "keep")
    assert set(folder.read("nodes")["task"]) >= set(names(work))
    assert folder.manifest["hygiene"] == {"policy": "keep", "tasks": {"benchmark": 1, "personal": 1}, "rows": {}}
    assert "Their rows are here all the same." in card(folder)
    assert all("as the nodes give them" in detail for detail in verified(folder).values())


def test_credit_that_reads_withheld_tasks_is_not_built_again(work, tmp_path):
    mine = copied(work, tmp_path)
    write_credit(mine, POOLED)
    assert "as the nodes give them" in verified(released(mine, "keep"))["credit grpo"]
    assert verified(released(mine, "drop"))["credit grpo"].startswith("not built again: it reads other tasks too")


@pytest.mark.parametrize("withheld", ["drop", "redact"])
def test_a_round_of_which_nothing_may_leave(work, tmp_path, withheld):
    mine = copied(work, tmp_path)
    for place in mine.places("hygiene"):
        rows = mine.store.read("hygiene", [place]).with_columns(withheld=pl.lit("secret"))
        mine.store.write("hygiene", rows, place, inputs=mine.store.entry("hygiene", place).inputs)
    with pytest.raises(BadTable, match="hygiene withholds every task"):
        write_release(mine, ReleaseConfig(withheld=withheld))


def test_hygiene_must_have_seen_every_task(work, tmp_path):
    mine = copied(work, tmp_path)
    place, *_ = mine.places("hygiene")
    rows = mine.store.read("hygiene", [place])
    mine.store.write("hygiene", rows[1:], place, inputs=mine.store.entry("hygiene", place).inputs)
    with pytest.raises(BadTable, match=f"lacks 1 tasks, the first is {rows['task'][0]}"):
        write_release(mine)


def test_what_hygiene_saw_must_be_what_is_there(work, tmp_path):
    mine = copied(work, tmp_path)
    place = next(place for place in mine.places("hygiene") if place.shard.startswith("train"))
    stale = {**mine.store.entry("hygiene", place).inputs, "nodes": "others"}
    mine.store.write("hygiene", mine.store.read("hygiene", [place]), place, inputs=stale)
    with pytest.raises(BadTable, match="hygiene of three, round r0, train-000 were made before nodes"):
        write_release(mine)


def test_there_are_three_ways(work):
    with pytest.raises(BadConfig, match="withheld 'burn' is not known"):
        write_release(work, ReleaseConfig(withheld="burn"))


def test_a_round_without_hygiene_says_so(work, tmp_path):
    mine = copied(work, tmp_path)
    for path in Path(mine.settings.store).glob("hygiene/**/*.parquet"):
        path.unlink()
    folder = released(mine, "drop")
    assert json.loads((folder.path / "manifest.json").read_text())["hygiene"] is None
    assert "were not searched for by this release" in card(folder)
    assert "## Hygiene" not in card(folder)

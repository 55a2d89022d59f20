"""The stage of step labels on a scripted round: the ledger grows, people's files, versions of the verifier."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, copied, read, scripted

from pipeline.errors import BadConfig, BadInput, BadTable
from pipeline.labels.ledger import newest
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.tasks.verifiers import VERSION as VERIFIER


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    pupil = Pupil()
    with scripted(tmp_path_factory.mktemp("round"), pupil) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=4))
        write_trees(work, TreeConfig(attempts=1, branches=2))
        write_verdicts(work)
        yield work, pupil


@pytest.fixture
def work(made, tmp_path: Path) -> Work:
    return copied(made[0], tmp_path)


def labelled(work: Work, labeller: str = "monte_carlo") -> pl.DataFrame:
    return read(work, "step_labels", labeller)


def test_entries_are_added_as_the_trees_grow_and_never_changed(work):
    write_step_labels(work)
    first = labelled(work)
    assert set(first["version"]) == {f"0001/2-verifier{VERIFIER}"}
    assert write_step_labels(work).fresh == 0
    write_trees(work, TreeConfig(attempts=2, branches=4))
    write_verdicts(work)
    write_step_labels(work)
    both = labelled(work)
    kept = both.filter(pl.col("version").str.starts_with("0001/")).join(
        first.select("tree", "node"), on=["tree", "node"]
    )
    assert kept.sort("tree", "node").equals(first.sort("tree", "node"))
    assert newest(both)["k"].sum() > first["k"].sum()
    assert newest(both).height < both.height


def test_entries_of_replaced_rollouts_go_with_them(work):
    write_step_labels(work)
    write_rollouts(work, RolloutConfig(group=2))
    write_trees(work, TreeConfig(attempts=1, branches=2))
    write_verdicts(work)
    write_step_labels(work)
    assert set(labelled(work)["version"]) == {f"0001/2-verifier{VERIFIER}"}
    nodes = read(work, "nodes", "rollouts")
    assert labelled(work).join(nodes, on=["tree", "node"], how="anti").is_empty()


def test_relabelling_draws_nothing(work, made):
    write_step_labels(work)
    made[1].prompts.clear()
    write_step_labels(work, StepLabelConfig(params='{"threshold": 0.5}'))
    assert made[1].prompts == []
    last = newest(labelled(work))
    assert last.select((pl.col("hard") == (pl.col("soft") > 0.5)).all()).item()


def test_verdicts_of_several_versions_are_not_mixed(work):
    (place,) = work.places("verdicts", stage="rollouts")
    entry, rows = work.store.entry("verdicts", place), work.store.read("verdicts", [place])
    old = rows.with_columns(version=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("0")).otherwise("version"))
    work.store.write("verdicts", old, place, inputs=entry.inputs)
    write_trees(work, TreeConfig(attempts=1, branches=2))
    (judged,) = work.places("verdicts", stage="verdicts")
    work.store.drop("verdicts", judged)
    with pytest.raises(BadTable, match=r"1 verdicts of train-000, as that on node .* are of version 0 of the verifier"):
        write_step_labels(work)
    write_step_labels(work, StepLabelConfig("tool"))
    write_verdicts(work)
    assert write_step_labels(work).fresh == 1


class TestPeople:
    def file(self, folder: Path, *rows: object) -> str:
        path = folder / "labels.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    def test_labels_stand_under_their_authors(self, work, tmp_path):
        tree = read(work, "nodes", "rollouts")["tree"][0]
        row = {"tree": tree, "node": 1, "hard": True, "author": "ada", "rationale": "I checked."}
        rows = (row, row | {"author": "alan", "hard": False, "soft": 0.25}, row | {"node": 2, "created": "2026-01-02"})
        report = write_step_labels(work, StepLabelConfig("human", file=self.file(tmp_path, *rows)))
        assert report.numbers["labelled"] == 2
        found = labelled(work, "human")
        assert found.select("node", "version", "hard", "soft").rows() == [
            (1, "0001/ada", True, 1.0),
            (1, "0002/alan", False, 0.25),
            (2, "0001/ada", True, 1.0),
        ]
        assert found["created"].drop_nulls()[0].isoformat() == "2026-01-02T00:00:00+00:00"
        later = self.file(tmp_path, {"tree": tree, "node": 3, "soft": 0.5, "author": "ada"})
        write_step_labels(work, StepLabelConfig("human", file=later))
        assert labelled(work, "human").height == 4
        write_credit(work, CreditConfig(("capo",), labeller="human"))

    def test_every_line_at_fault_is_named_and_nothing_is_written(self, work, tmp_path):
        good = {"tree": read(work, "nodes", "rollouts")["tree"][0], "node": 1, "hard": True, "author": "ada"}
        path = self.file(tmp_path, good, "{", good | {"hard": 1}, good, good | {"soft": 2, "node": 2}, good | {"x": 1})
        said = (
            r"line 2: is no JSON: .*; line 3: hard is 1, .*; line 4: ada spoke of this step in line 1; line 5: soft is"
        )
        with pytest.raises(BadInput, match=said):
            write_step_labels(work, StepLabelConfig("human", file=path))
        path = self.file(tmp_path, good, good | {"node": 9999}, good | {"node": 0})
        with pytest.raises(BadInput, match=r"line 2: no attempt of round r0 of three has node 9999 .*; line 3: no att"):
            write_step_labels(work, StepLabelConfig("human", file=path))
        assert not work.places("step_labels", stage="human")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (StepLabelConfig("human"), "no file is given; name it with --file"),
        (StepLabelConfig("tool", file="x.jsonl"), "labeller tool reads no file"),
        (StepLabelConfig("tool", params="{}"), "labeller tool has no parameters"),
        (StepLabelConfig("none"), "labeller 'none' does not exist"),
        (StepLabelConfig(params='{"theshold": 1}'), "monte_carlo has no parameter 'theshold'"),
    ],
)
def test_what_is_asked_wrongly(work, config, said):
    with pytest.raises(BadConfig, match=said):
        write_step_labels(work, config)

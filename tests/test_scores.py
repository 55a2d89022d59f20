"""The stage of scores: files of both kinds into the store, what is refused, and the credit that stands on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scripted_round import Pupil, changed, copied, run, scripted

from pipeline import cli
from pipeline.credit.inputs import INPUTS
from pipeline.errors import BadConfig, BadInput, BadTable
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.score_files import score_file
from pipeline.stages.scores import NAMES, ScoresConfig, write_scores
from pipeline.stages.standing import audit_standing
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.store.audit import audit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A whole round, made once."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        yield work


@pytest.fixture
def work(made: Work, tmp_path: Path) -> Work:
    """The same over a copy of the store."""
    return copied(made, tmp_path)


def nodes_of(work: Work) -> pl.DataFrame:
    return work.store.read("nodes", work.places("nodes")).select("tree", "node", "token_ids", "origin")


def stored(work: Work, name: str) -> pl.DataFrame:
    return work.store.read("scores", work.places("scores", stage=name))


def file_of(folder: Path, rows: pl.DataFrame, suffix: str) -> str:
    path = folder / f"scores{suffix}"
    rows.write_parquet(path) if suffix == ".parquet" else rows.write_ndjson(path)
    return str(path)


def lines(folder: Path, *rows: object) -> str:
    """A file with a line a row: text as it is, all else as JSON."""
    path = folder / "said.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
class TestFiles:
    def test_numbers_by_node(self, work, tmp_path, suffix):
        rows = nodes_of(work).select("tree", pl.col("node").cast(pl.Int64), "origin", value=pl.col("node") / 4)
        said = rows.with_columns(value=pl.when(pl.col("node") != 3).then("value")).sample(
            fraction=1, shuffle=True, seed=1
        )
        report = write_scores(work, ScoresConfig("critic_q", file_of(tmp_path, said, suffix)))
        found = stored(work, "critic_q")
        assert found["node"].to_list() == rows.sort("tree", "node")["node"].to_list()
        assert found["value"].to_list() == [None if node == 3 else node / 4 for node in found["node"]]
        assert set(found["name"]) == {"critic_q"}
        assert found["task"].to_list() == found["tree"].str.replace("@r0", "").to_list()
        known = found["value"].drop_nulls()
        assert report.rows == {"scores": len(rows)}
        assert report.numbers == {
            "scored_share": pytest.approx(len(known) / len(rows)),
            "mean": pytest.approx(known.mean()),
        }

    def test_numbers_by_token(self, work, tmp_path, suffix):
        numbers = pl.col("token_ids").list.eval(pl.element() / 8)
        said = nodes_of(work).filter(pl.col("origin") == "sample").select("tree", "node", token_values=numbers)
        write_scores(work, ScoresConfig("waad", file_of(tmp_path, said, suffix)))
        found = stored(work, "waad")
        assert found.height == said.height < nodes_of(work).height
        beside = said.join(found, on=["tree", "node"])
        assert beside["token_values"].cast(pl.List(pl.Float32)).equals(beside["token_values_right"])

    def test_texts(self, work, tmp_path, suffix):
        said = nodes_of(work).select("tree", "node", text=pl.lit("[1, 0]"))
        report = write_scores(work, ScoresConfig("useful", file_of(tmp_path, said, suffix)))
        assert set(stored(work, "useful")["text"]) == {"[1, 0]"}
        assert report.numbers == {"scored_share": 1.0}


class TestStage:
    def write(self, work, folder, *rows, name="critic_q"):
        return write_scores(work, ScoresConfig(name, lines(folder, *rows)))

    def first(self, work) -> str:
        return nodes_of(work)["tree"][0]

    def test_the_same_file_is_stored_once_and_another_takes_its_place(self, work, tmp_path):
        row = {"tree": self.first(work), "node": 1, "value": 0.5}
        assert [self.write(work, tmp_path, row).fresh for _ in range(2)] == [1, 0]
        assert self.write(work, tmp_path, row | {"node": 2}).fresh == 1
        assert stored(work, "critic_q")["node"].to_list() == [2]
        assert not list(Path(work.store.root).glob(".scores-*"))

    def test_a_shard_of_which_nothing_is_said_is_empty(self, tmp_path):
        with scripted(tmp_path, Pupil()) as small:
            large = changed(small, size=("train = 3", "train = 70"))
            write_tasks(large)
            write_rollouts(large, RolloutConfig(group=1))
            trees = nodes_of(large)["tree"].unique().sort()
            rows = [{"tree": tree, "node": 0, "value": 1.0} for tree in trees]
            assert self.write(large, tmp_path, *rows).shards == 2
            assert sorted(large.store.rows("scores", at) for at in large.places("scores")) == [6, 64]
            self.write(large, tmp_path, rows[0])
            assert sorted(large.store.rows("scores", at) for at in large.places("scores")) == [0, 1]
            with pytest.raises(BadInput, match=f"row 70: node 9999 of tree '{trees[69]}' is not in round r0 of three"):
                self.write(large, tmp_path, *rows[:69], rows[69] | {"node": 9999})
            assert sorted(large.store.rows("scores", at) for at in large.places("scores")) == [0, 1]

    @pytest.mark.parametrize(
        ("name", "row", "said"),
        [
            pytest.param(
                "critic_q", {"node": 9999, "value": 1}, "row 2: node 9999 of tree '.*@r0' is not in", id="node"
            ),
            pytest.param("critic_q", {"tree": "x@r0", "value": 1}, "row 2: node 1 of tree 'x@r0' is not in", id="tree"),
            pytest.param("critic_q", {"node": None, "value": 1}, "row 2: node None of tree", id="no node"),
            pytest.param(
                "critic_q", {"node": 0, "value": 1}, "row 2: node 0 of .* a second time; give one row", id="twice"
            ),
            pytest.param("waad", {"token_values": [1.0]}, "row 2: node 1 .* not as many token_values as", id="length"),
            pytest.param("useful", {"text": "[1,"}, "row 2: node 1 .* a text that is no JSON; give JSON", id="text"),
            pytest.param(
                "critic_q", '{"tree": ', "line 2: error parsing line.*; give an object with tree", id="no JSON"
            ),
            pytest.param("critic_q", {"value": "high"}, "line 2: cannot parse 'high'", id="no number"),
            pytest.param("waad", {"token_values": 1.0}, "line 2: unexpected value", id="no list"),
            pytest.param("critic_q", "[1]", "line 2: NDJSON line expected to contain JSON object", id="no object"),
        ],
    )
    def test_a_bad_row_is_named_and_nothing_is_written(self, work, tmp_path, name, row, said):
        first = {"tree": self.first(work), "node": 0}
        second = {**first, "node": 1, **row} if isinstance(row, dict) else row
        with pytest.raises(BadInput, match=rf"said\.jsonl, {said}"):
            self.write(work, tmp_path, first, second, name=name)
        assert not work.places("scores")
        assert not list(Path(work.store.root).glob(".scores-*"))

    @pytest.mark.parametrize(
        ("name", "column", "values", "said"),
        [
            pytest.param("critic_q", "value", [0.5, np.nan], "row 2: node 1 .* no finite value; give null", id="NaN"),
            pytest.param("critic_q", "value", [np.inf, 0.5], "row 1: node 0 .* no finite value", id="infinite"),
            pytest.param("critic_q", "value", ["a", "b"], "column value holds String; give numbers in it", id="texts"),
            pytest.param(
                "critic_q", "token_values", [[0.5], [1]], "column value is not there; give numbers", id="other"
            ),
            pytest.param(
                "waad", "token_values", [[1e39], None], "row 1: .* a token value that is not fin", id="too large"
            ),
            pytest.param(
                "critic_q", "value", [None, None], "no row says anything; give it in a column value", id="nulls"
            ),
        ],
    )
    def test_a_bad_column_is_named(self, work, tmp_path, name, column, values, said):
        nodes = nodes_of(work).filter(pl.col("tree") == self.first(work)).head(2)
        if column == "token_values" and name == "waad":
            values = [values[0] * len(nodes["token_ids"][0]), None]
        path = file_of(tmp_path, nodes.select("tree", "node", pl.Series(column, values)), ".parquet")
        with pytest.raises(BadInput, match=rf"scores\.parquet(:|,) {said}"):
            write_scores(work, ScoresConfig(name, path))
        assert not work.places("scores")

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (
                ScoresConfig("critic", "x.jsonl"),
                "name of scores 'critic' does not exist; did you mean 'critic_values'?",
            ),
            (ScoresConfig("step_soft", "x.jsonl"), "'step_soft' does not exist; .*choose one of reference_logprobs"),
            (ScoresConfig("critic_q"), "no file is given; name it with --file"),
        ],
    )
    def test_what_is_asked_wrongly(self, work, config, said):
        with pytest.raises(BadConfig, match=said):
            write_scores(work, config)

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "torn.parquet").write_bytes(b"PAR1")
        for name, said in {"x.csv": "is no .parquet or .jsonl", "x.jsonl": "does not exist; correct --file"}.items():
            with pytest.raises(BadInput, match=said):
                score_file(str(tmp_path / name), "value")
        with pytest.raises(BadInput, match=r"torn\.parquet cannot be read: .*; write it again"):
            score_file(str(tmp_path / "torn.parquet"), "value").sort_out({"a": pl.Series(["t"])}, tmp_path)


def credited_and_read(work: Work) -> None:
    write_credit(work, CreditConfig(("archer",)))
    refuse_replaced(work, "credit")


def test_names_are_the_inputs_that_stand_in_the_table():
    assert "critic_q" in NAMES
    assert {INPUTS[name].source.split(".")[0] for name in NAMES} == {"scores"}


class TestStanding:
    def scored(self, work: Work, folder: Path, *, value: float = 0.5) -> None:
        for name, shift in (("critic_q", value), ("critic_v", 0.0)):
            rows = nodes_of(work).select("tree", "node", value=shift + pl.col("node"))
            write_scores(work, ScoresConfig(name, file_of(folder, rows, ".parquet")))

    def faults(self, work: Work) -> dict[str, str]:
        store = work.store
        found = [*audit(store), *audit_standing(store)]
        return {one.table: one.detail for one in found if not one.passed}

    def test_credit_reads_them_and_passes_every_check(self, work, tmp_path):
        self.scored(work, tmp_path)
        write_credit(work, CreditConfig(("archer",)))
        credit = work.store.read("credit", work.places("credit", stage="archer"))
        steps = credit.filter(pl.col("node") > 0)
        assert steps.height > 0
        assert set(steps["advantage"]) == {0.5}
        refuse_replaced(work, "credit")
        assert self.faults(work) == {}

    def test_credit_of_replaced_scores_is_refused(self, work, tmp_path):
        self.scored(work, tmp_path)
        write_credit(work, CreditConfig(("archer",)))
        self.scored(work, tmp_path, value=0.75)
        with pytest.raises(
            BadTable, match=r"archer of three.* before scores critic_q changed; run `branchpoint credit --m"
        ):
            refuse_replaced(work, "credit")
        assert self.faults(work).keys() == {"credit"}
        write_credit(work, CreditConfig(("archer",)))
        refuse_replaced(work, "credit")

    def test_credit_of_replaced_labels_is_refused(self, work):
        write_credit(work, CreditConfig(("capo",)))
        (place,) = work.places("step_labels")
        entry, labels = work.store.entry("step_labels", place), work.store.read("step_labels", [place])
        work.store.write("step_labels", labels.head(1), place, inputs=entry.inputs)
        with pytest.raises(BadTable, match=r"capo of three.* before step_labels monte_carlo changed"):
            refuse_replaced(work, "credit")

    def test_scores_of_replaced_nodes_are_refused(self, work, tmp_path):
        self.scored(work, tmp_path)
        write_credit(work, CreditConfig(("archer",)))
        (place,) = work.places("nodes", stage="interventions")
        entry, nodes = work.store.entry("nodes", place), work.store.read("nodes", [place])
        work.store.write("nodes", nodes.head(0), place, inputs=entry.inputs)
        stale = r"critic_q of three.* before nodes changed; run `branchpoint scores --name critic_q --file FILE "
        with pytest.raises(BadTable, match=stale):
            refuse_replaced(work, "scores")
        write_verdicts(work)
        with pytest.raises(BadTable, match=stale):
            credited_and_read(work)
        self.scored(work, tmp_path)
        refuse_replaced(work, "scores")

    def test_the_command(self, work, tmp_path, monkeypatch, capsys):
        row = {"tree": nodes_of(work)["tree"][0], "node": 1, "value": 0.5}
        monkeypatch.setenv("BRANCHPOINT_STORE", str(work.settings.store))
        monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
        arguments = ["scores", "--name", "critic_q", "--file", lines(tmp_path, row), "--suite", "three", "--json"]
        assert cli.main(arguments) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == {"scores": 1}
        assert cli.main(["scores", "--suite", "three"]) == cli.BAD_USE
        assert "choose one of reference_logprobs" in capsys.readouterr().err

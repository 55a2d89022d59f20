"""Rows that process reward models are trained on: from small trees by hand, and from a round."""

from __future__ import annotations

import polars as pl
import pytest
from scripted_round import Pupil, read, run, scripted

from pipeline import cli
from pipeline.builders.prm_rows import marked_text, stored_row
from pipeline.builders.prm_steps import COLUMNS, OUTCOME, step_rows
from pipeline.errors import BadConfig, BadTable
from pipeline.stages.prm_steps import PrmStepsConfig, write_prm_steps
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.work import Work
from schemas import PrmSteps

ORDER = ("node", "parent", "depth", "origin", "kind", "token_ids", "finish")
#       0        prompt 7 8
#     1   4      two samples; the second ends at once
#   2  3         the end of the first, and a branch
TREE = [
    (0, None, 0, "prompt", "prompt", [7, 8], None),
    (1, 0, 1, "sample", "step", [1, 2], None),
    (2, 1, 2, "sample", "step", [3], "stop"),
    (3, 1, 2, "branch", "step", [4, 5, 6], "stop"),
    (4, 0, 1, "sample", "step", [9], "length"),
]
LABELS = pl.DataFrame(
    {"tree": ["t@r", "t@r", "t@r"], "node": [1, 2, 4], "hard": [True, None, False], "soft": [0.5, None, 0.0]},
    schema={"tree": pl.String, "node": pl.Int32, "hard": pl.Boolean, "soft": pl.Float32},
)
VERDICTS = pl.DataFrame(
    {"tree": ["t@r", "t@r"], "node": [2, 3], "reward": [1.0, 0.0]},
    schema={"tree": pl.String, "node": pl.Int32, "reward": pl.Float32},
)


def nodes(*rows: tuple) -> pl.DataFrame:
    """A tree of these rows; the text of a node is its number."""
    frame = pl.DataFrame([dict(zip(ORDER, row, strict=True)) for row in rows], infer_schema_length=None)
    return frame.with_columns(
        pl.col("node", "parent", "depth").cast(pl.Int32),
        pl.col("token_ids").cast(pl.List(pl.Int32)),
        token_count=pl.col("token_ids").list.len().cast(pl.Int32),
        task=pl.lit("t"),
        tree=pl.lit("t@r"),
        context=pl.lit(0, pl.Int32),
        text=pl.col("node").cast(pl.String),
    ).select(COLUMNS)


def rows(said: pl.DataFrame, labeller: str = "monte_carlo", tree: pl.DataFrame | None = None, **options) -> list[dict]:
    frame = step_rows(nodes(*TREE) if tree is None else tree, said, suite="s", labeller=labeller, **options)
    PrmSteps.validate(frame)
    return frame.to_dicts()


class TestStepRows:
    def test_a_row_an_attempt(self):
        first, second = rows(LABELS)
        assert first == {
            "task": "t",
            "row": "t@r/monte_carlo/2",
            "suite": "s",
            "tree": "t@r",
            "node": 2,
            "labeller": "monte_carlo",
            "prompt": "0",
            "steps": ["1", "2"],
            "step_nodes": [1, 2],
            "hard": [True, None],
            "soft": [0.5, None],
            "input_ids": [7, 8, 1, 2, 3],
            "step_ends": [3, 4],
        }
        assert (second["node"], second["hard"], second["input_ids"], second["step_ends"]) == (
            4,
            [False],
            [7, 8, 9],
            [2],
        )

    def test_outcomes_are_laid_on_every_step(self):
        one, two = rows(VERDICTS, OUTCOME, origins=("sample", "branch"))
        assert (one["node"], one["hard"], one["soft"]) == (2, [True, True], [1.0, 1.0])
        assert (two["node"], two["hard"], two["soft"]) == (3, [False, False], [0.0, 0.0])
        assert (two["step_nodes"], two["step_ends"]) == ([1, 3], [3, 6])

    def test_foreign_shapes(self):
        row = stored_row(rows(LABELS)[0])
        assert row._asdict() == {"prompt": "0", "completions": ["1", "2"], "labels": [True, None]}
        assert marked_text(row) == ("0 1 ки\n2 ки", "0 1 +\n2 ки")

    def test_enough_labels(self):
        assert rows(LABELS, least=2) == []
        assert [row["node"] for row in rows(VERDICTS, OUTCOME, least=2)] == [2]

    def test_a_step_without_tokens_has_no_place(self):
        emptied = [*TREE[:2], (2, 1, 2, "sample", "step", [], "stop"), *TREE[3:]]
        first = rows(LABELS, tree=nodes(*emptied))[0]
        assert (first["node"], first["step_nodes"], first["step_ends"]) == (2, [1], [3])

    def test_what_hangs_below_other_prompts_is_passed_over(self):
        below = [*TREE, (5, 4, 2, "prompt", "prompt", [7], None), (6, 5, 3, "guided_retry", "step", [1], "stop")]
        assert [row["node"] for row in rows(LABELS, tree=nodes(*below))] == [2, 4]

    def test_what_was_shown_between_turns_is_no_step(self):
        """Labels of it, as outcomes are laid on every node, tell nothing."""
        shown = [*TREE[:2], (2, 1, 2, "sample", "prompt", [3, 3], None), (3, 2, 3, "sample", "step", [5], "stop")]
        (row,) = rows(VERDICTS, OUTCOME, tree=nodes(*shown))
        assert (row["steps"], row["step_nodes"], row["hard"]) == (["1", "2\n3"], [1, 3], [False, False])
        assert (row["input_ids"], row["step_ends"]) == ([7, 8, 1, 2, 3, 3, 5], [3, 6])

    def test_an_attempt_in_a_context_of_its_own_is_passed_over(self):
        moved = nodes(*TREE).with_columns(context=pl.when(pl.col("node") == 4).then(4).otherwise(0).cast(pl.Int32))
        assert [row["node"] for row in rows(LABELS, tree=moved)] == [2]

    def test_no_labels_no_rows(self):
        assert rows(LABELS.clear()) == []


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


class TestStage:
    def test_rows_are_the_tokens_of_the_tree(self, work: Work):
        report = write_prm_steps(work)
        found, of = read(work, "prm_steps", "monte_carlo"), read(work, "nodes")
        assert report.rows == {"prm_steps": len(found)} == {"prm_steps": 12}
        tokens = dict(zip(of.select("tree", "node").iter_rows(), of["token_ids"], strict=True))
        labels = read(work, "step_labels", "monte_carlo")
        hard = dict(zip(labels.select("tree", "node").iter_rows(), labels["hard"], strict=True))
        for row in found.iter_rows(named=True):
            path = [0, *row["step_nodes"]]
            assert row["input_ids"] == [token for node in path for token in tokens[row["tree"], node]]
            for node, end, said in zip(row["step_nodes"], row["step_ends"], row["hard"], strict=True):
                assert row["input_ids"][end] == tokens[row["tree"], node][-1]
                assert said == hard.get((row["tree"], node))

    def test_labels_and_outcomes_stand_side_by_side(self, work: Work):
        write_prm_steps(work)
        write_prm_steps(work, PrmStepsConfig(OUTCOME, branches=True))
        assert {row.split("/")[-2] for row in read(work, "prm_steps")["row"]} == {"monte_carlo", OUTCOME}
        rewards = {
            (tree, node): reward
            for tree, node, reward in read(work, "verdicts").select("tree", "node", "reward").rows()
        }
        for row in read(work, "prm_steps", OUTCOME).iter_rows(named=True):
            assert set(row["soft"]) == {rewards[row["tree"], row["node"]]}

    def test_current_rows_are_left_alone(self, work: Work):
        write_prm_steps(work)
        assert write_prm_steps(work).fresh == 0
        assert write_prm_steps(work, PrmStepsConfig(least=3)).fresh == 1

    def test_a_label_a_step_by_the_order_of_labellers(self, work: Work):
        write_step_labels(work, StepLabelConfig("tool"))
        write_prm_steps(work, PrmStepsConfig("chosen"))
        labels = {name: read(work, "step_labels", name) for name in ("tool", "monte_carlo")}
        known = labels["tool"].drop_nulls("hard").select("tree", "node", "hard")
        tools = {(tree, node): hard for tree, node, hard in known.iter_rows()}
        told = [
            (hard, tools[row["tree"], node])
            for row in read(work, "prm_steps", "chosen").iter_rows(named=True)
            for node, hard in zip(row["step_nodes"], row["hard"], strict=True)
            if (row["tree"], node) in tools
        ]
        assert told
        assert all(hard == tool for hard, tool in told)
        write_prm_steps(work, PrmStepsConfig("chosen", trusted=("monte_carlo",), threshold=0.2))
        sure = read(work, "prm_steps", "chosen")["hard"].explode()
        bounds = labels["monte_carlo"].filter((pl.col("low") > 0.2) | (pl.col("high") < 0.2))
        assert 0 < sure.count() <= bounds.height

    def test_the_command_takes_an_order_of_labellers(self, work: Work, capsys):
        config = ["--suite", str(work.settings.suites / "three.toml"), "--store", str(work.settings.store), "--quiet"]
        assert cli.main(["prm-steps", *config, "--labels", "chosen", "--trusted", "monte_carlo", "tool"]) == 0
        assert "right_share" in capsys.readouterr().out
        for given, said in {
            "--labels chosen --trusted nobody tool": "trusted labeller 'nobody' does not exist",
            "--labels chosen --trusted human": "no step labels of human",
            "--trusted tool": "trusted and threshold say nothing of labels monte_carlo; give them with labels chosen",
            "--labels tol": "labels 'tol' does not exist; did you mean 'tool'?",
        }.items():
            assert cli.main(["prm-steps", *config, *given.split()]) == 2
            assert said in capsys.readouterr().err

    def test_refusals(self, work: Work):
        with pytest.raises(BadTable, match="no step labels of human; run `branchpoint step-labels`, or choose of"):
            write_prm_steps(work, PrmStepsConfig("human"))
        with pytest.raises(BadConfig, match="least is 0"):
            write_prm_steps(work, PrmStepsConfig(least=0))

"""Answers one by one: unpaired rows, the best to imitate, prompts with pass rates; by hand and from a round."""

from __future__ import annotations

import polars as pl
import pytest
from scripted_round import Pupil, read, run, scripted

from pipeline.builders.answers import NODE_COLUMNS, judged_answers
from pipeline.builders.best_answers import best_rows
from pipeline.builders.rl_prompts import prompt_rows
from pipeline.builders.unpaired import unpaired_rows
from pipeline.errors import BadConfig
from pipeline.stages.best_answers import BestAnswerConfig, write_best_answers
from pipeline.stages.rl_prompts import RlPromptConfig, write_rl_prompts
from pipeline.stages.unpaired import UnpairedConfig, write_unpaired
from pipeline.stages.work import Work
from schemas import Nodes, RlPrompts, Sft, Tasks, Unpaired
from schemas.base import column_types

ORDER = ("node", "parent", "depth", "origin", "kind", "token_ids", "finish")
#         0           prompt 7 8
#   1   3   4   5     samples: 3 and 4 are the same tokens, 5 reads a prompt before it ends
#   2           6
#               7
TREE = [
    (0, None, 0, "prompt", "prompt", [7, 8], None),
    (1, 0, 1, "sample", "step", [1, 2], None),
    (2, 1, 2, "sample", "step", [3], "stop"),
    (3, 0, 1, "sample", "step", [9], "stop"),
    (4, 0, 1, "sample", "step", [9], "stop"),
    (5, 0, 1, "sample", "step", [4], None),
    (6, 5, 2, "prompt", "prompt", [5], None),
    (7, 6, 3, "sample", "step", [6], "stop"),
    (8, 0, 1, "sample", "step", [2], "stop"),
    (9, 0, 1, "branch", "step", [3], "length"),
]
VERDICTS = pl.DataFrame(
    {"tree": ["t@r"] * 6, "node": [2, 3, 4, 7, 8, 9], "reward": [1.0, 1.0, 1.0, 1.0, 0.0, None]},
    schema={"tree": pl.String, "node": pl.Int32, "reward": pl.Float32},
)
TASK = dict.fromkeys(column_types(Tasks)) | {
    "task": "t",
    "suite": "s",
    "band": "easy",
    "split": "train",
    "question": "1 + 1?",
    "answer": "2",
    "verifier": "math",
}


@pytest.fixture
def nodes() -> pl.DataFrame:
    rows = [dict(zip(ORDER, row, strict=True)) for row in TREE]
    whole = [
        dict.fromkeys(column_types(Nodes))
        | row
        | {"task": "t", "tree": "t@r", "context": 0, "token_count": len(row["token_ids"]), "text": f"n{row['node']}"}
        | {"policy": None if row["kind"] == "prompt" else "p"}
        for row in rows
    ]
    return pl.DataFrame(whole, schema=column_types(Nodes), orient="row").select(NODE_COLUMNS)


@pytest.fixture
def answers(nodes) -> pl.DataFrame:
    return judged_answers(nodes, VERDICTS, origins=("sample",), separator="\n")


class TestByHand:
    def test_an_answer_is_its_path(self, answers):
        assert answers["node"].to_list() == [2, 3, 4, 8], "several turns, and what nobody judged, are no answers"
        assert answers.row(0, named=True) == {
            "task": "t",
            "tree": "t@r",
            "node": 2,
            "policy": "p",
            "reward": 1.0,
            "prompt": "n0",
            "prompt_ids": [7, 8],
            "answer": "n1\nn2",
            "answer_ids": [1, 2, 3],
            "said": [1.0, 1.0, 1.0],
        }

    def test_episodes_train_what_was_said(self, nodes):
        answers = judged_answers(nodes, VERDICTS, origins=("sample",), separator="\n", turns=True)
        row = Sft.validate(best_rows(answers, suite="s", best=0)).filter(node=7).row(0, named=True)
        assert (row["input_ids"], row["weights"], row["answer"]) == ([7, 8, 4, 5, 6], [0, 0, 1, 0, 1], "n7")

    def test_unpaired(self, answers):
        rows = Unpaired.validate(unpaired_rows(answers, suite="s"))
        assert [*zip(rows["row"], rows["label"], strict=True)] == [
            ("t@r/2", True),
            ("t@r/3", True),
            ("t@r/8", False),
        ]
        few = unpaired_rows(answers, suite="s", per_label=1)
        assert few["row"].to_list() == ["t@r/2", "t@r/8"]

    def test_the_best_is_the_shortest_of_the_right(self, answers):
        rows = Sft.validate(best_rows(answers, suite="s"))
        assert rows.select("row", "input_ids", "weights", "role").row(0) == ("t@r/3", [7, 8, 9], [0.0, 0.0, 1.0], None)
        assert best_rows(answers, suite="s", best=0)["node"].to_list() == [2, 3]
        assert best_rows(answers, suite="s", least=2.0).is_empty()

    def test_prompts(self, nodes):
        tasks = pl.DataFrame([TASK, TASK | {"task": "u"}], schema=column_types(Tasks))
        (row,) = RlPrompts.validate(prompt_rows(tasks, nodes, VERDICTS)).to_dicts()
        assert (row["attempts"], row["policy"], row["prompt"], row["prompt_ids"]) == (5, "p", "1 + 1?", [7, 8])
        assert row["pass_rate"] == pytest.approx(4 / 5)
        assert row["pass_low"] < row["pass_rate"] < row["pass_high"]
        (untried,) = RlPrompts.validate(prompt_rows(tasks, nodes, VERDICTS.clear())).to_dicts()
        assert untried["pass_rate"] is untried["pass_low"] is untried["policy"] is None


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


class TestStages:
    def test_unpaired(self, work: Work):
        report = write_unpaired(work)
        rows, rewards = read(work, "unpaired"), read(work, "verdicts")
        assert report.rows == {"unpaired": len(rows)}
        assert 0 < report.numbers["right_share"] < 1
        known = {(tree, node): reward for tree, node, reward in rewards.select("tree", "node", "reward").iter_rows()}
        tokens = {(tree, node): ids for tree, node, ids in read(work, "nodes")["tree", "node", "token_ids"].iter_rows()}
        for row in rows.iter_rows(named=True):
            assert row["label"] == (known[row["tree"], row["node"]] >= 1)
            assert row["answer_ids"][-len(tokens[row["tree"], row["node"]]) :] == tokens[row["tree"], row["node"]]
        assert write_unpaired(work).fresh == 0
        assert write_unpaired(work, UnpairedConfig(least=1.5)).numbers["right_share"] == 0

    def test_best_answers(self, work: Work):
        report = write_best_answers(work)
        assert report.rows == {"sft": 3} == {"sft": report.numbers["tasks"]}
        assert set(read(work, "sft", "best_answers")["answer"].str.split("\n").list.last().str.slice(0, 4)) == {"####"}
        with pytest.raises(BadConfig, match="best is -1"):
            write_best_answers(work, BestAnswerConfig(best=-1))
        with pytest.raises(BadConfig, match=r"least is 2\.0; give a reward from 0 to 1"):
            write_best_answers(work, BestAnswerConfig(least=2.0))

    def test_prompts(self, work: Work):
        report = write_rl_prompts(work)
        assert report.rows == {"rl_prompts": 3}
        assert set(read(work, "rl_prompts")["pass_rate"]) == {0.5}
        assert write_rl_prompts(work, RlPromptConfig(low=0.6)).numbers["left_out"] == 3
        with pytest.raises(BadConfig, match=r"low is 0\.9, high is 0\.1"):
            write_rl_prompts(work, RlPromptConfig(0.9, 0.1))

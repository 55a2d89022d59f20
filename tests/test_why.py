"""`branchpoint why` walks from a training row to all it came from, and finds what does not agree."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from scripted_round import Pupil, changed, copied, read, run, scripted

from pipeline import cli
from pipeline.errors import BadConfig
from pipeline.generation import policies
from pipeline.generation.policies import find_policy
from pipeline.lineage.at_hand import AtHand
from pipeline.lineage.datasets import DATASETS
from pipeline.lineage.show_why import why_lines
from pipeline.lineage.why import Why, why
from pipeline.settings import Settings
from pipeline.stages.patches import PatchConfig, write_patches
from pipeline.stages.work import Work
from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types

ROUND = {"suite": "three", "round": "r0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A round, made once."""
    with scripted(tmp_path_factory.mktemp("why"), Pupil()) as work:
        run(work)
        yield work


@pytest.fixture
def to_spoil(made: Work, tmp_path: Path) -> Work:
    """A copy of it."""
    return copied(made, tmp_path)


def explain(work: Work, dataset: str, name: str, **options: str) -> Why:
    return why(work.store, dataset, name, at_hand=AtHand(work.settings, **options))[0]


def rows(work: Work, table: str, **having: Any) -> list[dict[str, Any]]:
    return [row for row in read(work, table).iter_rows(named=True) if having.items() <= row.items()]


def rewrite(work: Work, table: str, where: pl.Expr, **values: Any) -> None:
    """Put values into some rows, in whatever files they lie."""
    for place in work.store.places(table, **ROUND):
        found = work.store.read(table, [place])
        hit = found.select(where).to_series().to_list()
        if any(hit):
            columns = [
                pl.Series(name, [value if at else old for at, old in zip(hit, found[name])], dtype=found.schema[name])
                for name, value in values.items()
            ]
            work.store.write(table, found.with_columns(columns), place, inputs=work.store.entry(table, place).inputs)


def command(work: Work, capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["why", "--store", str(work.settings.store), *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


class TestPairs:
    def test_every_token_with_its_weight_and_node(self, made: Work):
        for row in rows(made, "pairs"):
            found = explain(made, "pairs", row["row"])
            assert found.agrees
            for answer, sign in zip(found.answers, (1.0, -1.0), strict=True):
                ids = row[f"{answer.name}_ids"]
                assert answer.tokens.ids == [*row["prompt_ids"], *ids]
                assert answer.tokens.weights == [*[0.0] * len(row["prompt_ids"]), *[sign] * len(ids)]
                owners = {step.node["node"]: step for step in answer.path}
                assert list(dict.fromkeys(answer.tokens.nodes)) == sorted(owners)
                assert answer.node == row[f"{answer.name}_node"] == answer.path[-1].node["node"]

    def test_what_was_said_and_asked(self, made: Work):
        row = rows(made, "pairs", source="outcome")[0]
        found = explain(made, "pairs", row["row"])
        assert found.made[:4] == ("three", "r0", "pairs", "train-000")
        assert found.made.config.items() >= {"outcome": 8, "retry": 1, "step": 4}.items()
        assert found.task["question"].startswith("State the final answer")
        chosen = found.answers[0]
        assert [step.node["origin"] for step in chosen.path] == ["prompt", *["sample"] * 4]
        assert [said.row["reward"] for said in chosen.path[-1].verdicts] == [1.0]
        methods = {said.row["method"]: said.made.config for said in chosen.path[1].credit}
        assert methods.keys() == {"grpo", "spo_tree", "tempo"}
        assert methods["grpo"]["convention"] == "grpo_verl"
        assert [said.row["k"] for said in chosen.path[1].labels] == [2]
        assert {request["request"] for request in found.requests} == {
            answer.path[-1].node["request"] for answer in found.answers
        }
        assert {request["stage"] for request in found.requests} >= {"rollouts"}
        assert set(found.policies.values()) == set(found.prompts.values()) == {"tiny"}
        assert {made_by.stage for made_by in found.grown} == {"rollouts", "trees", "retries", "interventions"}

    def test_token_pieces_are_the_text(self, made: Work):
        row = rows(made, "pairs", source="outcome")[0]
        chosen = explain(made, "pairs", row["row"]).answers[0]
        answer = "".join(chosen.tokens.pieces[len(row["prompt_ids"]) :])
        assert answer == f"{row['chosen']}<|end|>"

    def test_a_retry_names_its_reflection(self, made: Work):
        row = rows(made, "pairs", source="retry")[0]
        found = explain(made, "pairs", row["row"])
        assert [varied.row["variant"] for varied in found.variants] == [f"{row['tree']}/retry/{row['rejected_node']}"]
        assert json.loads(found.variants[0].report)["root_cause_analysis"] == "a slip"
        assert found.variants[0].made.config["per_task"] == 1
        assert all(step.node["copied_from"] is not None for step in found.answers[0].path[1:])
        assert {"rollouts", "retries"} <= {request["stage"] for request in found.requests}
        assert len(found.requests) == 3  # the failed attempt, the reflection, the guided retry


class TestPatches:
    def test_trained_where_labelled(self, made: Work):
        for row in rows(made, "patches"):
            found = explain(made, "patches", row["row"])
            assert found.agrees
            tokens = found.answers[0].tokens
            assert tokens.ids == row["input_ids"]
            assert [weight == 1 for weight in tokens.weights] == [label != -100 for label in row["labels"]]
            assert tokens.pieces is not None
            assert [varied.row["first_node"] for varied in found.variants] == [row["node"]]
            assert found.variants[0].row["edit"] == found.answers[0].path[-1].node["text"]

    def test_a_suffix_is_traced_to_its_leaf(self, to_spoil: Work):
        write_patches(to_spoil, PatchConfig(clone="with_suffix"))
        for row in rows(to_spoil, "patches"):
            found = explain(to_spoil, "patches", row["row"])
            assert found.agrees
            assert found.answers[0].path[-1].node["finish"] == "stop"
            assert None not in found.answers[0].tokens.nodes

    def test_a_label_of_another_token_is_named(self, to_spoil: Work):
        row = rows(to_spoil, "patches")[0]
        labels = [*row["labels"][:-1], row["labels"][-1] + 1]
        rewrite(to_spoil, "patches", pl.col("row") == row["row"], labels=labels)
        found = explain(to_spoil, "patches", row["row"])
        token = row["input_ids"][-1]
        assert found.answers[0].difference == (
            f"token {len(labels) - 1} is {token} in the row and {token + 1} in its labels"
        )


class TestDifferences:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            pytest.param(
                lambda ids: [*ids[:-1], 7], "token {last} is {token} in the row and 7 in node {node}", id="other"
            ),
            pytest.param(lambda ids: ids[:-1], "the nodes end at token {last}, where the row goes on with", id="fewer"),
            pytest.param(
                lambda ids: [*ids, 7], "the row ends at token {end}, where node {node} goes on with 7", id="more"
            ),
        ],
    )
    def test_a_tampered_node_is_named(self, to_spoil: Work, capsys, change, said):
        row = rows(to_spoil, "pairs", source="outcome")[0]
        leaf = (pl.col("tree") == row["tree"]) & (pl.col("node") == row["chosen_node"])
        node = rows(to_spoil, "nodes", tree=row["tree"], node=row["chosen_node"])[0]
        ids = change(node["token_ids"])
        rewrite(to_spoil, "nodes", leaf, token_ids=ids, token_count=len(ids), logprobs=[-0.5] * len(ids))
        end = len(row["prompt_ids"]) + len(row["chosen_ids"])
        expected = said.format(last=end - 1, end=end, token=row["chosen_ids"][-1], node=row["chosen_node"])
        assert explain(to_spoil, "pairs", row["row"]).answers[0].difference.startswith(expected)
        code, out, _ = command(to_spoil, capsys, "pairs", row["row"])
        assert code == 1
        assert f"DIFFERS: {expected}" in out

    def test_a_node_that_is_gone_is_named(self, to_spoil: Work):
        row = rows(to_spoil, "pairs", source="outcome")[0]
        for place in to_spoil.store.places("nodes", **ROUND, stage="rollouts"):
            kept = to_spoil.store.read("nodes", [place]).filter(
                (pl.col("tree") != row["tree"]) | (pl.col("node") != row["chosen_node"])
            )
            to_spoil.store.write("nodes", kept, place, inputs=to_spoil.store.entry("nodes", place).inputs)
        chosen, rejected = explain(to_spoil, "pairs", row["row"]).answers
        assert chosen.difference == f"node {row['chosen_node']} is not in the store"
        assert rejected.difference is None


class TestOtherDatasets:
    """Tables whose builders are elsewhere: rows made by hand from an attempt of the round."""

    @pytest.fixture
    def attempt(self, to_spoil: Work) -> dict[str, Any]:
        """The columns every table has, and the tokens of a right attempt."""
        pair = rows(to_spoil, "pairs", source="outcome")[0]
        return {
            "task": pair["task"],
            "tree": pair["tree"],
            "suite": "three",
            "node": pair["chosen_node"],
            "prompt": pair["prompt_ids"],
            "answer": pair["chosen_ids"],
        }

    def stored(self, work: Work, table: str, row: dict[str, Any]) -> Why:
        at = Place("three", "r0", table, "train-000")
        frame = pl.DataFrame([row], schema=column_types(TABLES[table]), orient="row")
        work.store.write(table, frame, at, inputs={"version": "1", "config": '{"method": "spo_tree"}'})
        return explain(work, table, row["row"])

    def test_sft(self, to_spoil: Work, attempt):
        prompt, answer = attempt.pop("prompt"), attempt.pop("answer")
        weights = [*[0.0] * len(prompt), *[0.25] * len(answer)]
        texts = {"prompt": "", "answer": ""}
        row = {"row": f"{attempt['tree']}/1", "input_ids": [*prompt, *answer], "weights": weights, **texts, **attempt}
        found = self.stored(to_spoil, "sft", row)
        assert found.agrees
        assert found.answers[0].tokens.weights == weights
        assert found.made.config == {"method": "spo_tree"}

    def test_rl_samples(self, to_spoil: Work, attempt):
        prompt, answer = attempt.pop("prompt"), attempt.pop("answer")
        rest = len(answer) - 2
        row = {
            "row": f"{attempt['tree']}/spo_tree/1",
            "policy": "p",
            "method": "spo_tree",
            "prompt_ids": prompt,
            "answer_ids": answer,
            "loss_mask": [False, True, *[True] * rest],
            "logprobs": [None, -1.0, *[-1.0] * rest],
            "advantages": [None, None, *[0.5] * rest],
            "reward": 1.0,
            **attempt,
        }
        found = self.stored(to_spoil, "rl_samples", row)
        assert found.agrees
        assert found.answers[0].tokens.weights == [*[0.0] * len(prompt), 0.0, None, *[0.5] * rest]
        assert "weight null" in "\n".join(why_lines(found))

    def test_prm_steps(self, to_spoil: Work, attempt):
        prompt, answer = attempt.pop("prompt"), attempt.pop("answer")
        ends = [len(prompt) + 3, len(prompt) + len(answer) - 1]
        row = {
            "row": f"{attempt['tree']}/monte_carlo/1",
            "labeller": "monte_carlo",
            "prompt": "?",
            "steps": ["one", "two"],
            "step_nodes": [1, 2],
            "hard": [True, None],
            "soft": [1.0, None],
            "input_ids": [*prompt, *answer],
            "step_ends": ends,
            **attempt,
        }
        found = self.stored(to_spoil, "prm_steps", row)
        assert found.agrees
        scored = {at: weight for at, weight in enumerate(found.answers[0].tokens.weights) if weight != 0}
        assert scored == {ends[0]: 1.0, ends[1]: None}

    def test_both_sides_of_token_rewards(self, to_spoil: Work, attempt):
        prompt, answer = attempt.pop("prompt"), attempt.pop("answer")
        name = f"{attempt['tree']}/outcome/1/2"
        row = {"row": name, "prompt_ids": prompt, "answer_ids": answer, **attempt}
        both = [
            {**row, "side": side, "rewards": [sign * 0.5] * len(answer)}
            for side, sign in (("chosen", 1), ("rejected", -1))
        ]
        frame = pl.DataFrame(both, schema=column_types(TABLES["token_rewards"]), orient="row")
        to_spoil.store.write("token_rewards", frame, Place("three", "r0", "token_rewards", "train-000"), inputs={})
        found = why(to_spoil.store, "token_rewards", name, at_hand=AtHand(to_spoil.settings))
        assert [one.row["side"] for one in found] == ["chosen", "rejected"]
        assert [one.answers[0].tokens.weights[-1] for one in found] == [0.5, -0.5]
        assert all(one.agrees for one in found)

    @pytest.mark.parametrize("dataset", DATASETS)
    def test_columns_exist(self, dataset):
        columns = TABLES[dataset].column_names()
        for answer in DATASETS[dataset].answers:
            assert {answer.node, *answer.ids, *([answer.labels] if answer.labels else [])} <= set(columns)


class TestCommand:
    def test_text(self, made: Work, capsys):
        row = rows(made, "pairs", source="retry")[0]
        code, out, err = command(made, capsys, "pairs", row["row"])
        assert (code, err) == (0, "")
        for said in (
            "those of the nodes",
            "credit grpo",
            "root_cause_analysis",
            "tiny: ",
            "weight +1",
            "weight -1",
            "#### |",
        ):
            assert said in out

    def test_json_is_one_object(self, made: Work, capsys):
        row = rows(made, "patches")[0]
        code, out, _ = command(made, capsys, "patches", row["row"], "--json")
        assert code == 0
        assert out.count("\n") == 1
        found = json.loads(out)["rows"][0]
        assert found["answers"][0]["tokens"]["ids"] == row["input_ids"]
        assert found["made"]["stage"] == "patches"
        assert found["agrees"] is True

    @pytest.mark.parametrize(
        ("dataset", "change", "said"),
        [
            ("pair", lambda name: name, "dataset 'pair' does not exist; did you mean 'pairs'?"),
            ("pairs", lambda name: name.replace("outcome", "outcom"), "did you mean '{name}'?"),
            ("pairs", lambda name: name.replace("@r0", "@r1"), "did you mean '{name}'?"),
            ("pairs", lambda name: name[::-1], "did you mean"),
            ("sft", lambda name: name, "the store has no sft"),
        ],
    )
    def test_what_is_not_there_is_refused_in_one_line(self, made: Work, capsys, dataset, change, said):
        name = rows(made, "pairs", source="outcome")[0]["row"]
        code, out, err = command(made, capsys, dataset, change(name))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said.format(name=name) in err

    def test_text_of_a_model_is_shown_not_obeyed(self, to_spoil: Work, capsys):
        row = rows(to_spoil, "pairs", source="outcome")[0]
        node = (pl.col("tree") == row["tree"]) & (pl.col("node") == row["chosen_node"])
        rewrite(to_spoil, "nodes", node, text="\x1b[31mred\u202e")
        _, out, _ = command(to_spoil, capsys, "pairs", row["row"])
        assert "\x1b" not in out
        assert "\\x1b[31mred\\u202e" in out


def test_only_the_shards_of_the_task_are_opened(to_spoil: Work):
    for table in ("nodes", "credit", "requests", "verdicts"):
        for place in to_spoil.store.places(table, **ROUND):
            replace(place, shard="train-001").path(to_spoil.settings.store, table).write_bytes(b"damaged")
    pairs = to_spoil.store.read("pairs", to_spoil.store.places("pairs", **ROUND))
    assert explain(to_spoil, "pairs", pairs["row"][0]).agrees


def test_a_policy_that_is_gone_leaves_ids_alone(made: Work, monkeypatch):
    monkeypatch.setattr(policies, "EMBEDDED", {})
    monkeypatch.setattr("pipeline.lineage.at_hand.EMBEDDED", {})
    row = rows(made, "pairs", source="outcome")[0]
    found = explain(made, "pairs", row["row"])
    assert found.agrees
    assert found.answers[0].tokens.pieces is None
    assert set(found.policies.values()) == {None}
    text = "\n".join(why_lines(found))
    assert "not at hand" in text
    assert "weight +1" in text


def test_a_policy_may_be_named(made: Work, tmp_path: Path):
    shutil.copytree(find_policy("tiny", policies=tmp_path).path, tmp_path / "mine")
    config = tmp_path / "mine" / "config.json"
    config.write_text(config.read_text() + "\n")  # another fingerprint
    row = rows(made, "pairs", source="outcome")[0]
    found = explain(made, "pairs", row["row"], policy=str(tmp_path / "mine"))
    assert found.answers[0].tokens.pieces[-1] == "<|end|>"
    assert set(found.policies.values()) == {"tiny"}


def test_prompts_that_changed_since_are_told(to_spoil: Work):
    row = rows(to_spoil, "pairs", source="outcome")[0]
    text = (to_spoil.settings.suites / "three.toml").read_text()
    try:
        changed(to_spoil, prompts=('prompts = "tiny"', 'prompts = "instruct"'))
        assert set(explain(to_spoil, "pairs", row["row"]).prompts.values()) == {None}
    finally:
        (to_spoil.settings.suites / "three.toml").write_text(text)


def test_an_empty_store_has_no_rows(tmp_path: Path):
    (tmp_path / "store").mkdir()
    with pytest.raises(BadConfig, match="the store has no pairs"):
        why(Store(tmp_path / "store"), "pairs", "a@r0/outcome/1/2", at_hand=AtHand(Settings()))

"""The report on drift, with tokenizers, templates and prompts that really differ from those a round was made with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from scripted_round import Pupil, changed, copied, read, run, scripted

from pipeline import cli
from pipeline.generation.policies import EMBEDDED
from pipeline.lineage import compare
from pipeline.lineage.at_hand import AtHand
from pipeline.lineage.compare import KINDS
from pipeline.lineage.drift import NO_PACK, Drift, find_drift
from pipeline.lineage.prompts import NO_ATTEMPT, NO_REFERENCE, NO_TASK, UNKNOWN
from pipeline.lineage.show_drift import drift_detail, drift_lines
from pipeline.stages.work import Work
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store

ROUND = {"suite": "three", "round": "r0"}
END, MERGED = 1, 177
UNUSED = "ð"
CONTROL = {"id": 300, "content": "3 -", "special": True} | dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized"), False
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A round, made once."""
    with scripted(tmp_path_factory.mktemp("drift"), Pupil()) as work:
        run(work)
        yield work


@pytest.fixture
def to_spoil(made: Work, tmp_path: Path) -> Work:
    """A copy of it."""
    return copied(made, tmp_path)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A copy of the policy it was made with, to be changed."""
    return Path(shutil.copytree(EMBEDDED["tiny"], tmp_path / "policy"))


def drift_of(work: Work, policy: Path | str = "") -> Drift:
    (found,) = find_drift(work.store, AtHand(work.settings, policy=str(policy)))
    return found


def edit_tokenizer(policy: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = policy / "tokenizer.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def swap(content: dict[str, Any]) -> None:
    """1 and 2 change places in the vocabulary."""
    vocabulary = content["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]


def merge(content: dict[str, Any]) -> None:
    """1 before 2 comes to be one token, in the place of one that nobody uses."""
    vocabulary = content["model"]["vocab"]
    vocabulary["12"] = vocabulary.pop(UNUSED)
    content["model"]["merges"] = [["1", "2"]]


def rewrite(work: Work, stage: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change nodes of a stage as they lie in the store."""
    for place in work.store.places("nodes", **ROUND, stage=stage):
        nodes = work.store.read("nodes", [place])
        rows = [row | change(row) for row in nodes.iter_rows(named=True)]
        frame = pl.DataFrame(rows, schema=nodes.schema, orient="row")
        work.store.write("nodes", frame, place, inputs=work.store.entry("nodes", place).inputs)


def byte(letter: str) -> int:
    """The token of a byte, by the letter that byte-level vocabularies write for it."""
    return json.loads((EMBEDDED["tiny"] / "tokenizer.json").read_text())["model"]["vocab"][letter]


def respell(work: Work, ids: list[int]) -> dict[str, Any]:
    """Put ids into the last step of the first sample, before its end token. Returns that node."""
    leaf = read(work, "nodes", "rollouts").filter(pl.col("finish") == "stop").row(0, named=True)

    def change(row: dict[str, Any]) -> dict[str, Any]:
        if (row["tree"], row["node"]) != (leaf["tree"], leaf["node"]):
            return {}
        new = [*row["token_ids"][:-1], *ids, END]
        return {"token_ids": new, "token_count": len(new), "logprobs": [-0.5] * len(new)}

    rewrite(work, "rollouts", change)
    return leaf


def counts(drift: Drift) -> dict[str, int]:
    return {kind: found.rows for kind, found in drift.kinds.items()}


class TestNoDrift:
    def test_everything_is_looked_at_and_is_the_same(self, made: Work):
        found, nodes = drift_of(made), read(made, "nodes")
        assert (found.suite, found.round, found.policy) == ("three", "r0", "tiny")
        assert found.kinds == found.not_looked_at == {}
        assert found.looked_at == {
            "prompts": nodes.filter(pl.col("kind") == "prompt").height,
            "answers": nodes.filter(pl.col("sampled") & pl.col("finish").is_not_null()).height,
            "written": nodes.filter(pl.col("origin") == "intervention").height,
        }
        assert min(found.looked_at.values()) > 0

    def test_every_role_was_rendered_again(self, made: Work):
        prompts = read(made, "nodes").filter(pl.col("kind") == "prompt")
        assert prompts["agent"].n_unique() == 3
        assert prompts.filter(pl.col("agent") == "solver")["parent"].null_count() == 3

    def test_answers_with_the_same_request_are_apart(self, made: Work):
        """The same request stands in a tree twice: as branch of a step and as the other arm of an intervention."""
        nodes = read(made, "nodes").filter(pl.col("sampled") & pl.col("finish").is_not_null())
        assert nodes.height > nodes.select("tree", "request").n_unique()


class TestTemplate:
    def test_a_changed_chat_template(self, made: Work, policy: Path):
        template = policy / "chat_template.jinja"
        template.write_text(template.read_text().replace("{{ message.content }}", "{{ message.content }}\n"))
        found = drift_of(made, policy)
        assert counts(found) == {"template": found.looked_at["prompts"]}
        assert found.kinds["template"].share == found.looked_at["prompts"] / found.rows
        first = found.kinds["template"].first
        assert first.node == 0
        assert "\n<|end|>" in first.now_text
        assert "\n" not in first.stored_text
        assert first.stored[compare.AROUND] == END

    def test_a_changed_prompt_pack(self, made: Work):
        file = made.settings.suites / "three.toml"
        text = file.read_text()
        try:
            work = changed(made, prompts=('prompts = "tiny"', 'prompts = "instruct"'))
            found = drift_of(work)
        finally:
            file.write_text(text)
        assert counts(found) == {"template": found.looked_at["prompts"]}

    def test_a_changed_question(self, to_spoil: Work):
        place = Place("three", EVERY_ROUND, "tasks", "train-000")
        tasks = to_spoil.store.read("tasks", [place])
        asked = tasks.with_columns(question=pl.col("question") + "?")
        to_spoil.store.write("tasks", asked, place, inputs={})
        found = drift_of(to_spoil)
        assert counts(found) == {"template": found.looked_at["prompts"]}
        assert found.kinds["template"].first.now_text.count("?") == 1

    def test_a_template_that_refuses(self, made: Work, policy: Path):
        template = policy / "chat_template.jinja"
        refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        template.write_text(refusal + template.read_text())
        found = drift_of(made, policy)
        roles = ("reflect", "retry", "intervene")
        assert found.not_looked_at.keys() == {f"prompts to {role} that the chat template refuses" for role in roles}
        assert found.looked_at["prompts"] == 3
        assert found.kinds == {}


class TestTokens:
    def test_a_changed_vocabulary(self, made: Work, policy: Path):
        """The ids read other digits now: their text would be written with other ids."""
        edit_tokenizer(policy, swap)
        found, nodes = drift_of(made, policy), read(made, "nodes")
        with_digits = nodes.filter(pl.col("token_ids").list.eval(pl.element().is_in([21, 22])).list.any())
        assert counts(found).keys() == {"tokens"}
        assert counts(found)["tokens"] > with_digits.filter(pl.col("kind") == "prompt").height > 0
        first = found.kinds["tokens"].first
        assert sorted((first.stored[compare.AROUND], first.now[compare.AROUND])) == [21, 22]

    def test_a_changed_merge(self, made: Work, policy: Path):
        """The same text in fewer tokens."""
        edit_tokenizer(policy, merge)
        found = drift_of(made, policy)
        assert counts(found).keys() == {"tokens"}
        assert found.looked_at == drift_of(made).looked_at
        first = found.kinds["tokens"].first
        assert first.now[compare.AROUND] == MERGED
        assert first.stored[compare.AROUND :][:2] == [21, 22]
        assert first.stored_text.startswith(first.now_text[:5])

    def test_an_answer_spelt_in_its_own_way(self, to_spoil: Work):
        """` + ` letter by letter, where the tokenizer has one token for it."""
        leaf = respell(to_spoil, [byte("Ġ"), byte("+"), byte("Ġ")])
        found = drift_of(to_spoil)
        assert counts(found) == {"tokens": 1}
        first = found.kinds["tokens"].first
        assert (first.tree, first.node, first.position) == (leaf["tree"], leaf["node"], len(leaf["token_ids"]) - 1)


class TestSpecial:
    def test_a_control_token_that_stands_as_text(self, to_spoil: Work):
        leaf = respell(to_spoil, [32, 96, 73, 82, 72, 96, 34])
        found = drift_of(to_spoil)
        assert counts(found) == {"special": 1}
        first = found.kinds["special"].first
        assert (first.tree, first.node, first.position) == (leaf["tree"], leaf["node"], len(leaf["token_ids"]) - 1)
        assert first.stored[compare.AROUND :][:4] == [32, 96, 73, 82]
        assert first.now[compare.AROUND] == END

    def test_text_that_became_a_control_token(self, made: Work, policy: Path):
        edit_tokenizer(policy, lambda content: content["added_tokens"].append(CONTROL))
        found = drift_of(made, policy)
        assert counts(found).keys() == {"special"}
        assert CONTROL["id"] in found.kinds["special"].first.now

    def test_a_token_that_came_to_be_called_one(self, made: Work, policy: Path):
        """The same ids, whatever they are called."""

        def declare(content: dict[str, Any]) -> None:
            for token in content["added_tokens"]:
                token["special"] = True

        edit_tokenizer(policy, declare)
        assert drift_of(made, policy).kinds == {}


class TestText:
    def test_a_part_of_a_character(self, to_spoil: Work):
        leaf = respell(to_spoil, [byte("â")])
        found = drift_of(to_spoil)
        assert counts(found) == {"text": 1}
        first = found.kinds["text"].first
        assert (first.node, first.position) == (leaf["node"], len(leaf["token_ids"]) - 1)
        assert "\ufffd" in first.stored_text


class TestNotLookedAt:
    def test_tasks_that_are_gone(self, to_spoil: Work):
        to_spoil.store.drop("tasks", Place("three", EVERY_ROUND, "tasks", "train-000"))
        found = drift_of(to_spoil)
        assert found.not_looked_at == {NO_TASK: drift_of_prompts(to_spoil)}
        assert found.looked_at["prompts"] == 0 < found.looked_at["answers"]

    def test_references_that_are_gone(self, to_spoil: Work):
        place = Place("three", EVERY_ROUND, "tasks", "train-000")
        tasks = to_spoil.store.read("tasks", [place]).with_columns(reference_solution=pl.lit(None, pl.String))
        to_spoil.store.write("tasks", tasks, place, inputs={})
        editors = read(to_spoil, "nodes").filter((pl.col("agent") == "editor") & (pl.col("kind") == "prompt")).height
        found = drift_of(to_spoil)
        assert (found.not_looked_at, found.kinds) == ({NO_REFERENCE: editors}, {})

    def test_prompts_to_others(self, to_spoil: Work):
        rewrite(
            to_spoil,
            "retries",
            lambda row: {"agent": "editor"} if row["kind"] == "prompt" and row["text"][0] == "{" else {},
        )
        found = drift_of(to_spoil)
        assert found.not_looked_at.keys() == {UNKNOWN}
        assert found.not_looked_at[UNKNOWN] > 0

    def test_attempts_that_are_gone(self, to_spoil: Work):
        (place,) = to_spoil.store.places("nodes", **ROUND, stage="rollouts")
        nodes = to_spoil.store.read("nodes", [place])
        inputs = to_spoil.store.entry("nodes", place).inputs
        to_spoil.store.write("nodes", nodes.filter(pl.col("depth") != 1), place, inputs=inputs)
        assert drift_of(to_spoil).not_looked_at.keys() == {NO_ATTEMPT}

    def test_a_suite_that_is_gone(self, to_spoil: Work, tmp_path: Path):
        away = replace(to_spoil, settings=replace(to_spoil.settings, suites=tmp_path / "none"))
        assert drift_of(away).not_looked_at == {NO_PACK: drift_of_prompts(away)}

    def test_a_policy_that_is_gone(self, made: Work, monkeypatch):
        monkeypatch.setattr("pipeline.lineage.at_hand.EMBEDDED", {})
        found = drift_of(made)
        assert (found.policy, found.rows) == (None, 0)
        ((reason, rows),) = found.not_looked_at.items()
        assert "name one with --policy" in reason
        assert rows == read(made, "nodes").height


def drift_of_prompts(work: Work) -> int:
    return read(work, "nodes").filter(pl.col("kind") == "prompt").height


class TestReport:
    def test_command(self, made: Work, policy: Path, capsys):
        edit_tokenizer(policy, merge)
        arguments = ["drift", "--store", str(made.settings.store), "--policy", str(policy), "--suite", "three"]
        # The suite's file lies beside the store, not where the command looks.
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        assert "three r0, read as policy reads" in out
        assert f": {KINDS['tokens']}" in out
        assert cli.main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["kinds"]["tokens"]["rows"] == found["differ"] > 0
        assert found["kinds"]["tokens"]["first"]["tree"].startswith("three/sums/train/")
        assert found["not_looked_at"] == {NO_PACK: drift_of_prompts(made)}

    @pytest.mark.parametrize("where", [("--suite", "four"), ("--round", "r1")])
    def test_nodes_that_are_not_there(self, made: Work, capsys, where):
        assert cli.main(["drift", "--store", str(made.settings.store), *where]) == 2
        assert "the store has no such nodes" in capsys.readouterr().err
        assert list(find_drift(made.store, AtHand(made.settings), **{where[0][2:]: where[1]})) == []

    def test_one_line(self, made: Work):
        found = drift_of(made)
        assert drift_detail(found) == f"{found.rows} rows encoded again, 0 to other tokens"
        assert next(drift_lines(found)).startswith("three r0, read as tiny reads: ")

    def test_rounds_apart(self, to_spoil: Work):
        shutil.copytree(
            to_spoil.settings.store / "nodes/suite=three/round=r0",
            to_spoil.settings.store / "nodes/suite=three/round=r1",
        )
        found = list(find_drift(Store(to_spoil.settings.store), AtHand(to_spoil.settings)))
        assert [one.round for one in found] == ["r0", "r1"]
        assert found[0].looked_at == found[1].looked_at

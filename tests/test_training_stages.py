"""Training as a stage and as a command: what is current is left alone, what is damaged is made again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from random_policy import one_thread

from pipeline.credit.t_reg import WORDING, revision_request
from pipeline.errors import BadConfig, BadInput, BadModel, StoreFull
from pipeline.generation.tokens import tokens_of
from pipeline.settings import Settings
from pipeline.stages.token_rewards import TokenRewardConfig
from pipeline.stages.work import Work, make_work
from pipeline.store.layout import Place
from schemas import Pairs, Patches, Sft
from schemas.base import column_types
from trainers import cli, saving, stages
from trainers.recipes import DpoRecipe, IntRecipe, SftRecipe, TRegRecipe
from trainers.runs import load_model
from trainers.stages import (
    build_token_rewards,
    train_dpo_policy,
    train_int_policy,
    train_sft_policy,
    train_treg_policy,
)
from trainers.tiny.train import CHECKPOINT, FIRST, TinyConfig, train

SHORT = {"steps": 2, "batch_size": 2}
INT = IntRecipe(**SHORT)
SHARED = {"task": "t", "suite": "chain_sum", "tree": "chain_sum/t@r0"}


def patch_rows(last: int = 9) -> pl.DataFrame:
    ids = [[5, 6, 7, 8, last], [6, 7, 8]]
    rows = [
        {**SHARED, "row": str(n), "node": n, "input_ids": row, "labels": [-100, *row[1:]], "accuracy": 1.0, "text": ""}
        for n, row in enumerate(ids)
    ]
    return pl.DataFrame(rows, schema=column_types(Patches), orient="row")


def pair_rows() -> pl.DataFrame:
    row = {"row": "0", "chosen_node": 1, "rejected_node": 2, "source": "outcome", "margin": 1.0}
    row |= {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [9]}
    row |= dict.fromkeys(("prompt", "chosen", "rejected"), "")
    return pl.DataFrame([SHARED | row], schema=column_types(Pairs), orient="row")


def sft_rows() -> pl.DataFrame:
    row = {"row": "0", "node": 1, "input_ids": [5, 6, 7], "weights": [0.0, 1.0, 0.5], "prompt": "", "answer": ""}
    return pl.DataFrame([SHARED | row], schema=column_types(Sft), orient="row")


def put(work: Work, table: str, rows: pl.DataFrame, *, stage: str = "") -> None:
    work.store.write(table, rows, Place("chain_sum", "r0", stage or table, "train"), inputs={})


_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


def open_round(folder: Path) -> Work:
    settings = Settings(store=folder / "store", policies=folder / "policies", release=folder / "release")
    return make_work(settings, suite="chain_sum", round="r0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round with rows to train on and a policy trained on its patches by INT; not for change."""
    folder = tmp_path_factory.mktemp("finished")
    work = open_round(folder)
    put(work, "patches", patch_rows())
    put(work, "pairs", pair_rows())
    put(work, "sft", sft_rows(), stage="best_answers")
    build_token_rewards(work)
    assert train_int_policy(work, INT).fresh == 1
    return folder


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Work:
    """A copy of the finished round."""
    shutil.copytree(finished, tmp_path / "round")
    return open_round(tmp_path / "round")


class TrainedAgain(Exception):
    """What `spied` raises in place of training."""


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_sft(*_, **__):
        raise TrainedAgain

    monkeypatch.setattr("trainers.sft.train_sft", train_sft)


@pytest.mark.parametrize(
    ("stage", "recipe"),
    [
        pytest.param(train_dpo_policy, DpoRecipe(**SHORT), id="dpo"),
        pytest.param(train_int_policy, replace(INT, seed=1), id="int"),
        pytest.param(train_sft_policy, SftRecipe(**SHORT), id="sft"),
        pytest.param(train_treg_policy, TRegRecipe(**SHORT), id="treg"),
        pytest.param(train_int_policy, replace(INT, packed=False), id="int through trl"),
    ],
)
def test_a_current_policy_is_not_trained_again(work: Work, stage, recipe):
    steps = []
    first = stage(replace(work, on_progress=steps.append), recipe)
    assert (first.fresh, [step.done for step in steps]) == (1, [1, 2])
    numbers = {"trained_rows", "steps", "passes", "first_loss", "mean_loss_last_20"}
    assert set(first.numbers) == numbers | ({"path_tokens", "unique_tokens"} if recipe.packed else set())
    folder = work.settings.policies / f"chain_sum-r0-{first.stage.removeprefix('policies/')}"
    lineage, card = json.loads((folder / "lineage.json").read_text()), (folder / "README.md").read_text()
    assert lineage["numbers"] == first.numbers
    assert lineage["method"] == first.stage.removeprefix("policies/")
    assert f"with `{lineage['method']}` from" in card
    assert f"| loss, mean of the last 2 steps | {first.numbers['mean_loss_last_20']:.4g} |" in card
    assert f"| loss, first batch | {first.numbers['first_loss']:.4g} |" in card
    assert "None" not in card
    again = stage(work, recipe)
    assert (again.fresh, again.seconds) == (0, 0.0)
    assert (again.numbers, again.rows, again.digest) == (first.numbers, first.rows, first.digest)


def test_token_rewards_are_those_of_the_two_requests(work: Work):
    report = build_token_rewards(work)
    assert (report.fresh, report.rows) == (0, {"token_rewards": 2})
    rows = work.store.read("token_rewards", work.places("token_rewards"))
    assert rows["side"].to_list() == ["chosen", "rejected"]
    assert rows["node"].to_list() == [1, 2]
    assert rows["rewards"].list.len().to_list() == [2, 1]
    tokens, model = tokens_of(work.policy), load_model(work.policy)
    for answer, said in zip(rows["answer_ids"].to_list(), rows["rewards"].to_list(), strict=True):
        logprobs = {}
        for aim in WORDING:
            prompt = tokens.render([{"role": "user", "content": revision_request("", "", aim=aim)}]).tolist()
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            logprobs[aim] = torch.log_softmax(logits, -1)[range(len(answer)), answer].double()
        expected = (logprobs["better"] - logprobs["worse"]).sigmoid() - 0.5
        assert said == pytest.approx(expected.tolist(), abs=1e-5)
        assert max(map(abs, said)) > 1e-3


def test_a_recipe_chooses_rows_and_a_name(work: Work):
    recipe = DpoRecipe(**SHORT, source="outcome", name="by-outcome")
    assert train_dpo_policy(work, recipe).fresh == 1
    assert (work.settings.policies / "chain_sum-r0-by-outcome").is_dir()
    with pytest.raises(BadConfig, match="source 'step'; choose one of those there are: outcome"):
        train_dpo_policy(work, replace(recipe, source="step"))
    with pytest.raises(BadConfig, match="agent 'verifier'; choose one of those there are: none"):
        train_sft_policy(work, SftRecipe(**SHORT, agent="verifier"))


def test_pairs_that_are_all_too_long_are_refused_before_trainers_are_loaded(work: Work, monkeypatch):
    monkeypatch.setitem(sys.modules, "trainers.dpo", None)
    with pytest.raises(BadInput, match="all 1 rows have more than max_length 3 tokens; raise max_length"):
        train_dpo_policy(work, DpoRecipe(**SHORT, max_length=3))


@pytest.mark.parametrize(
    ("stage", "recipe", "command"),
    [
        (train_dpo_policy, DpoRecipe(), "branchpoint pairs"),
        (train_treg_policy, TRegRecipe(), "branchpoint-train token-rewards"),
        (train_sft_policy, SftRecipe(rows="role_rows"), "branchpoint role-rows"),
    ],
)
def test_rows_that_are_not_there_are_told_with_the_command(work: Work, stage, recipe, command):
    said = f"round r9 of chain_sum has no rows of .*; run `{command} --suite chain_sum --round r9` first"
    with pytest.raises(BadConfig, match=said):
        stage(replace(work, round="r9"), recipe)


def test_pairs_that_are_too_long_to_score_get_no_rewards(work: Work):
    report = build_token_rewards(work, TokenRewardConfig(most_tokens=20))
    assert (report.fresh, report.rows, report.numbers["left_out"]) == (1, {"token_rewards": 0}, 2)


def change_rows(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    put(work, "patches", patch_rows(last=10))


def change_code(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "VERSION", "another")


@pytest.mark.parametrize("change", [change_rows, change_code])
def test_what_a_policy_was_made_from_changes(work: Work, spied, monkeypatch: pytest.MonkeyPatch, change):
    assert train_int_policy(work, INT).fresh == 0
    change(work, monkeypatch)
    with pytest.raises(TrainedAgain):
        train_int_policy(work, INT)


@pytest.mark.parametrize("field", [{"learning_rate": 2e-4}, {"seed": 1}, {"steps": 3}])
def test_another_recipe_is_another_policy(work: Work, spied, field: dict):
    with pytest.raises(TrainedAgain):
        train_int_policy(work, replace(INT, **field))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("lineage.json", "", id="empty"),
        pytest.param("lineage.json", "{}", id="of an earlier version"),
        pytest.param("lineage.json", "[1]", id="something else"),
        pytest.param("lineage.json", None, id="gone"),
        pytest.param("model.safetensors", None, id="no weights"),
    ],
)
def test_a_damaged_policy_is_stale(work: Work, spied, file: str, text: str | None):
    damaged = work.settings.policies / "chain_sum-r0-int" / file
    damaged.unlink()
    if text is not None:
        damaged.write_text(text)
    with pytest.raises(TrainedAgain):
        train_int_policy(work, INT)


def test_a_damaged_policy_is_replaced_by_the_same(work: Work):
    lineage = work.settings.policies / "chain_sum-r0-int" / "lineage.json"
    text = lineage.read_text()
    lineage.write_text(text[:40])
    assert [train_int_policy(work, INT).fresh for _ in range(2)] == [1, 0]
    assert lineage.read_text() == text


def test_a_run_killed_while_it_saves_leaves_the_policy_before(work: Work, monkeypatch: pytest.MonkeyPatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saving, "plot_curves", kill)
        with pytest.raises(KeyboardInterrupt):
            train_int_policy(work, replace(INT, seed=1))
    assert train_int_policy(work, INT).fresh == 0


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line a refused command says."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_commands_refuse_a_place_that_cannot_be_in_one_line(work: Work, monkeypatch: pytest.MonkeyPatch, capsys):
    taken = work.settings.store.parent / "notes.txt"
    taken.write_text("four years")
    monkeypatch.setattr(cli, "quiet_engines", lambda: None)
    monkeypatch.setenv("BRANCHPOINT_STORE", str(work.settings.store))
    monkeypatch.setenv("BRANCHPOINT_POLICIES", str(taken / "policies"))
    for method in ("dpo", "int"):
        said = refusal(capsys, method, "--quiet", "--steps", "1")
        assert said.startswith(
            f"branchpoint-train: cannot write {taken}/policies/chain_sum-r0-{method}: Not a directory"
        )
        assert "BRANCHPOINT_POLICIES" in said
    assert "--out" in refusal(capsys, "tiny", "--out", str(taken / "tiny"))


def test_the_help_lists_every_command_once():
    assert sorted(name for names in cli.GROUPS.values() for name in names) == sorted([*cli.RUNS, "tiny", "measure"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("dpo", "--siute", "x"),
            "'--siute' is not understood; did you mean '--suite'? see branchpoint-train dpo",
        ),
        (("dpo", "--batch", "4"), "'--batch' is not understood; did you mean '--batch-size'?"),
        (("int", "--steps", "x"), "argument --steps: invalid int value: 'x'; see branchpoint-train int --help"),
        ((), "no command is given; see branchpoint-train --help"),
        (("dpoo",), "command 'dpoo' does not exist; did you mean 'dpo'?"),
        (("dpo", "--suite", "mnie"), "suite 'mnie' does not exist; did you mean 'mine'? choose one of "),
        (("dpo", "--policy", "none"), "policy 'none' is neither"),
        (
            ("dpo", "--store", "notes.txt"),
            "store notes.txt cannot be: {place}/notes.txt is not a folder; choose",
        ),
        (("tiny",), "the following arguments are required: --out; see branchpoint-train tiny --help"),
    ],
)
def test_misuse_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "quiet_engines", lambda: None)
    monkeypatch.delenv("BRANCHPOINT_STORE", raising=False)
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(tmp_path))
    for name in ("mine.toml", "notes.txt"):
        (tmp_path / name).touch()
    said = refusal(capsys, *arguments)
    assert said.startswith(f"branchpoint-train: {message.format(place=tmp_path)}")
    if "--store" in arguments:
        monkeypatch.setenv("BRANCHPOINT_STORE", "notes.txt")
        assert refusal(capsys, "dpo") == said


def test_a_reader_that_leaves_is_no_traceback(work: Work, monkeypatch: pytest.MonkeyPatch):
    def write(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "_run", write)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli.main(["tiny"]) == 141


BRIEF = TinyConfig(
    layers=1,
    width=32,
    feed_forward=32,
    phases=(replace(FIRST, steps=2, cut=None, sampling=()),),
    batch_tokens=256,
    checkpoint_every=1,
)


def test_the_embedded_policy_goes_on_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    longer = replace(BRIEF, phases=(replace(BRIEF.phases[0], steps=3, cut=3),))
    train(BRIEF, out=tmp_path, say=said.append)
    assert json.loads((tmp_path / "recipe.json").read_text())["batch_tokens"] == 256
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train(BRIEF, out=tmp_path, say=said.append)
    assert said == [f"{tmp_path} is trained: all 2 steps are taken; to train anew, remove {tmp_path / CHECKPOINT}"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(longer, out=tmp_path, say=said.append)
    assert said[1:] == ["going on from step 2"]
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 3


@pytest.mark.parametrize("damage", [b"", b"four years", None])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: bytes | None):
    checkpoint = tmp_path / CHECKPOINT
    if damage is None:
        torch.save({"model": {}}, checkpoint)
    else:
        checkpoint.write_bytes(damage)
    with pytest.raises(BadModel, match="remove it") as caught:
        train(BRIEF, out=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit_the_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fill(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    train(replace(BRIEF, phases=(replace(BRIEF.phases[0], steps=1),)), out=tmp_path)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreFull, match="No space left on device"):
        train(BRIEF, out=tmp_path, say=lambda line: None)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 1
    assert not list(tmp_path.glob("*.part"))

"""Runs: killed and gone on with, stopped early, with adapters, accumulated; and what is refused before a step."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from training.killed_run import RECIPE, pairs
from transformers import AutoModelForCausalLM

from pipeline.errors import BadConfig, BadInput
from trainers import runs
from trainers.data import PAIR_COLUMNS, held_out_split
from trainers.dpo import train_dpo
from trainers.recipes import IntRecipe, SftRecipe, TRegRecipe
from trainers.scores.critic_recipe import CriticRecipe
from trainers.sft import train_sft
from trainers.treg import train_treg


def answers() -> pl.DataFrame:
    """Rows of `sft`, two a task."""
    rows = [
        {"task": str(row // 2), "row": str(row), "input_ids": [5, 6, 7 + row // 2, 20 + row, 21], "weights": weights}
        for row, weights in enumerate([[0.0, 0.0, 0.0, 1.0, 0.5]] * 8)
    ]
    return pl.DataFrame(rows, schema_overrides={"input_ids": pl.List(pl.Int32), "weights": pl.List(pl.Float32)})


def rewards() -> pl.DataFrame:
    """Rows of `token_rewards`."""
    rows = [
        {
            "task": str(pair),
            "row": str(pair),
            "side": side,
            "prompt_ids": [5, 6, 7 + pair],
            "answer_ids": [20, 30 + pair, end],
            "rewards": [0.0, 0.2, 0.4 if side == "chosen" else -0.4],
        }
        for pair in range(4)
        for side, end in (("rejected", 8), ("chosen", 9))
    ]
    lists = {"prompt_ids": pl.List(pl.Int32), "answer_ids": pl.List(pl.Int32), "rewards": pl.List(pl.Float32)}
    return pl.DataFrame(rows, schema_overrides=lists)


def curves(report: runs.TrainingReport) -> list[dict[str, float]]:
    timed = ("runtime", "per_second")
    return [{name: value for name, value in entry.items() if not name.endswith(timed)} for entry in report.curves]


def test_a_killed_run_goes_on_to_the_same_end(policy, tmp_path):
    command = [
        sys.executable,
        str(Path(__file__).with_name("killed_run.py")),
        str(policy),
        str(tmp_path / "killed"),
        "7",
    ]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    left = tmp_path / ".killed.training"
    assert (left / "checkpoint-6").is_dir()
    (left / "checkpoint-7").mkdir()  # begun, and not written to its end
    steps = []
    went_on = train_dpo(
        pairs(), policy=policy, out=tmp_path / "killed", recipe=RECIPE, on_progress=lambda p: steps.append(p.step)
    )
    undisturbed = train_dpo(pairs(), policy=policy, out=tmp_path / "whole", recipe=RECIPE)
    assert steps == [7, 8]
    assert curves(went_on) == curves(undisturbed)
    assert went_on.held_out == undisturbed.held_out
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_checkpoints_of_another_run_are_not_gone_on_with(policy, tmp_path):
    left = tmp_path / ".new.training" / "checkpoint-5"
    left.mkdir(parents=True)
    (left / "trainer_state.json").write_text("{}")
    (left.parent / "run.json").write_text("{}")
    report = train_sft(answers(), policy=policy, out=tmp_path / "new", recipe=SftRecipe(steps=1))
    assert report.steps == 1


def test_held_out_rows_stop_a_run(policy, tmp_path):
    recipe = replace(
        RECIPE, steps=30, checkpoint_every=1, patience=2, learning_rate=0.3, warmup_ratio=0.0, loss_type="ipo"
    )
    report = train_dpo(pairs(), policy=policy, out=tmp_path / "stopped", recipe=recipe)
    assert report.steps < 30
    seen = [entry["eval_loss"] for entry in report.curves]
    assert report.held_out[1] == pytest.approx(min(seen), rel=1e-5)
    assert all(loss >= min(seen) for loss in seen[-2:])
    assert report.rows == 8
    assert report.numbers["held_out_loss_before"] == report.held_out[0]


def test_no_task_stands_on_both_sides():
    train, held = held_out_split(pairs(), share=0.3, seed=0)
    assert (len(train), len(held)) == (8, 4)
    assert not set(train["task"]) & set(held["task"])
    with pytest.raises(BadConfig, match="leaves none"):
        held_out_split(pairs(), share=0.05, seed=0)


def test_packs_of_a_step_are_one_batch(policy, tmp_path):
    one = replace(RECIPE, held_out=0.0, steps=2, batch_size=12, sft_weight=0.0, warmup_ratio=0.0)
    whole = train_dpo(pairs(), policy=policy, out=tmp_path / "whole", recipe=one)
    parts = train_dpo(pairs(), policy=policy, out=tmp_path / "parts", recipe=replace(one, batch_size=5, accumulate=3))
    thrifty = train_dpo(
        pairs(), policy=policy, out=tmp_path / "thrifty", recipe=replace(one, gradient_checkpointing=True)
    )
    for name in ("loss", "grad_norm", "rewards/margins", "kl"):
        for other in (parts, thrifty):
            assert [entry[name] for entry in other.curves] == pytest.approx(
                [entry[name] for entry in whole.curves], rel=1e-3, abs=1e-6
            )
    assert whole.curves[0]["kl"] == 0
    assert whole.curves[1]["kl"] > 0
    assert whole.numbers["path_tokens"] == 2 * 12 * 9
    assert whole.numbers["unique_tokens"] == 6 * 6 + 12 * (1 + 2 + 2)


def test_adapters_are_merged(policy, tmp_path):
    recipe = SftRecipe(steps=4, learning_rate=1e-2, lora_rank=2, checkpoint_every=2)
    report = train_sft(answers(), policy=policy, out=tmp_path / "lora", recipe=recipe)
    assert report.last_loss < report.first_loss
    with runs.quiet():
        before, after = (
            AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (policy, tmp_path / "lora")
        )
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "_proj" in name}


def test_the_seed_draws_adapters(policy):
    recipe, drawn = SftRecipe(lora_rank=2, packed=False), []
    for seed in (0, 0, 1):
        model = runs.adapted(runs.load_model(runs.read_policy(policy)), replace(recipe, seed=seed))
        drawn.append(next(one for name, one in model.named_parameters() if "lora_A" in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_adapters_are_no_wider_than_the_model(policy):
    with pytest.raises(BadConfig, match="lora_rank is 4096, the model is"):
        runs.adapted(runs.load_model(runs.read_policy(policy)), SftRecipe(lora_rank=4096))


def test_weights_that_are_no_numbers_are_refused():
    model = torch.nn.Linear(2, 2)
    runs.check_weights(model)
    with torch.no_grad():
        model.bias[1] = torch.inf
    with pytest.raises(BadConfig, match="bias with weights that are no numbers; lower learning_rate"):
        runs.check_weights(model)


def test_bfloat16(policy, tmp_path):
    report = train_sft(answers(), policy=policy, out=tmp_path / "half", recipe=SftRecipe(steps=1, bf16=True))
    exact = train_sft(answers(), policy=policy, out=tmp_path / "single", recipe=SftRecipe(steps=1))
    assert report.first_loss == pytest.approx(exact.first_loss, rel=0.02)
    assert report.first_loss != exact.first_loss


def test_treg_follows_its_rewards(policy, tmp_path):
    recipe = TRegRecipe(steps=10, learning_rate=1e-3, sft_weight=0.0)
    report = train_treg(rewards(), policy=policy, out=tmp_path / "treg", recipe=recipe)
    assert report.curves[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert report.curves[-1]["rewards/margins"] > report.curves[0]["rewards/margins"]
    plain = train_treg(rewards(), policy=policy, out=tmp_path / "plain", recipe=replace(recipe, alpha=0.0))
    assert plain.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert json.loads((tmp_path / "treg" / "lineage.json").read_text())["method"] == "treg"


@pytest.mark.parametrize("loss_type", ["tdpo1", "tdpo2"])
def test_tdpo_trains(policy, tmp_path, loss_type):
    recipe = replace(RECIPE, held_out=0.0, batch_size=12, loss_type=loss_type, sft_weight=0.0, beta=0.5)
    report = train_dpo(pairs(), policy=policy, out=tmp_path / "tdpo", recipe=recipe)
    assert report.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert report.last_loss < report.first_loss


def test_a_curriculum_begins_with_what_is_easy(policy, tmp_path):
    margins = [1.0, 0.0] * 6  # easiness 1 and 1/2
    rows = pairs().with_columns(margin=pl.Series(margins))
    recipe = replace(RECIPE, held_out=0.0, batch_size=12, steps=3, learning_rate=1e-9, sft_weight=0.0, curriculum=2)
    report = train_dpo(rows, policy=policy, out=tmp_path / "taught", recipe=recipe)
    weights = [entry["loss"] / math.log(2) for entry in report.curves]
    assert weights == pytest.approx([0.75, 0.875, 1.0], abs=1e-4)
    with pytest.raises(BadInput, match="margin"):
        train_dpo(pairs(), policy=policy, out=tmp_path / "no", recipe=recipe)


def test_held_out_pairs_count_alike_under_a_curriculum(policy, tmp_path):
    rows = pairs().with_columns(margin=pl.lit(0.0))  # easiness 1/2
    recipe = replace(RECIPE, held_out=0.3, steps=1, learning_rate=1e-9, sft_weight=0.0, curriculum=2)
    report = train_dpo(rows, policy=policy, out=tmp_path / "taught", recipe=recipe)
    assert report.first_loss == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert report.held_out == pytest.approx((math.log(2), math.log(2)), abs=1e-4)


def test_negative_weights_unlearn(policy, tmp_path):
    weights = [[0.0, 0.0, 0.0, 1.0 - row % 2 * 2, 0.0] for row in range(8)]
    rows = answers().with_columns(weights=pl.Series(weights, dtype=pl.List(pl.Float32)))
    report = train_sft(rows, policy=policy, out=tmp_path / "sft", recipe=SftRecipe(steps=5, learning_rate=1e-3))
    assert report.last_loss < report.first_loss


def with_weight(value: float | None) -> pl.DataFrame:
    rows = answers().to_dicts()
    rows[3]["weights"][4] = value
    return pl.DataFrame(rows, schema=answers().schema)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param(with_weight(math.nan), "row 3: weights hold what is no number", id="NaN"),
        pytest.param(with_weight(None), "row 3: weights hold what is no number", id="null"),
        pytest.param(answers().with_columns(weights=pl.lit([1.0, 0.0])), "not one for each", id="too few"),
        pytest.param(answers().with_columns(weights=pl.lit([0.0] * 5)), "no token is trained", id="nothing to learn"),
        pytest.param(
            answers().with_columns(weights=pl.lit([1.0, 0.0, 0.0, 0.0, 0.0])),
            "no token is trained",
            id="the first token alone, which nothing comes before",
        ),
        pytest.param(
            answers().with_columns(input_ids=pl.lit([3] * 129), weights=pl.lit([1.0] * 129)),
            "129 tokens, the policy has 128",
            id="beyond the context",
        ),
        pytest.param(answers().with_columns(answer=pl.lit("two apples")), "its tokens spell", id="another tokenizer"),
    ],
)
def test_refused_before_the_first_step(policy, tmp_path, rows, words):
    with pytest.raises(BadInput, match=words):
        train_sft(rows, policy=policy, out=tmp_path / "out", recipe=SftRecipe(steps=1), on_progress=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_that_fits_no_pack_is_refused(policy, tmp_path):
    with pytest.raises(BadInput, match="a pack takes 8"):
        train_dpo(pairs(), policy=policy, out=tmp_path / "out", recipe=replace(RECIPE, max_tokens=8))


def test_rewards_that_are_no_numbers_or_lack_a_side(policy, tmp_path):
    rows = rewards().with_columns(rewards=pl.col("rewards").list.eval(pl.element() / 0 * 0))
    with pytest.raises(BadInput, match="rewards hold what is no number"):
        train_treg(rows, policy=policy, out=tmp_path / "out", recipe=TRegRecipe())
    with pytest.raises(BadInput, match="row 0: one of its two answers"):
        train_treg(rewards()[1:], policy=policy, out=tmp_path / "out", recipe=TRegRecipe())


def test_an_empty_split_is_refused(policy, tmp_path):
    with pytest.raises(BadConfig, match="leaves none"):
        train_dpo(pairs(), policy=policy, out=tmp_path / "out", recipe=replace(RECIPE, held_out=0.01))
    empty = pairs()[:0].select(PAIR_COLUMNS)
    with pytest.raises(BadInput, match="no rows"):
        train_dpo(empty, policy=policy, out=tmp_path / "out", recipe=RECIPE)


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (IntRecipe(max_tokens=0), "max_tokens"),
        (IntRecipe(patience=1), "held_out"),
        (IntRecipe(held_out=0.1, packed=False), "packed"),
        (replace(RECIPE, loss_type="tdpo2", held_out=0.0, packed=False), "loss_type"),
        (TRegRecipe(packed=False), "packed"),
        (TRegRecipe(base_loss="orpo"), "base_loss"),
        (IntRecipe(learning_rate=1.5), "learning_rate is 1.5"),
        (IntRecipe(seed=-1), "seed is -1"),
        (IntRecipe(seed=2**32), "seed is"),
        (IntRecipe(name="../other"), "name is '../other'"),
        (SftRecipe(rows="best"), "rows is best; set rows to one of best_answers, role_rows"),
        (CriticRecipe(name=".."), "critic name is '..'"),
        (CriticRecipe(seed=-1), "critic seed"),
    ],
)
def test_recipes_that_cannot_be(recipe, field):
    with pytest.raises(BadConfig, match=field):
        recipe.check()

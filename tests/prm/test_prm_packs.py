"""A process reward model trained on packs, beside the same on rows apart."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from random_policy import one_thread, save_random_policy
from safetensors.torch import load_file
from torch.nn.functional import softplus
from transformers import PreTrainedModel, TrainingArguments

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import EMBEDDED
from pipeline.labels.prm import find_prm
from pipeline.labels.prm_model import score_steps
from trainers import runs
from trainers.packed.bench import worst_difference
from trainers.packed.bench_rows import Shape, draw
from trainers.packed.losses import label_loss
from trainers.packed.rows import Packed
from trainers.prm import PackedPrmTrainer, collate, labelled_rows, load_backbone, prm_packs, train_prm
from trainers.prm_loss import prm_loss
from trainers.prm_recipe import PrmRecipe

RECIPE = PrmRecipe(target="soft", batch_size=9, max_tokens=50)
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_random_policy(tmp_path_factory.mktemp("policies") / "fresh")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """The embedded policy under a head."""
    return load_backbone(runs.read_policy(EMBEDDED["tiny"]), seed=0)


def forest(seed: int) -> pl.DataFrame:
    """Attempts of three trees, some of them twice, whose steps end at drawn places: where attempts share a token, each
    has a label of its own, another one, or none."""
    shapes = [Shape(20, (2, 3), 8), Shape(7, (2,), 12), Shape(1, (2, 1, 2), 5)]
    drawn, rng = draw(shapes, vocabulary=300, seed=seed), np.random.default_rng(seed)
    rows = []
    for (start, end), tree in zip(pairwise(drawn.rows.offsets), drawn.tree, strict=True):
        for _ in range(rng.integers(1, 3)):
            ends = np.sort(rng.choice(end - start, size=rng.integers(1, 6), replace=False))
            soft = [None if draw < 0.2 else float(draw) for draw in rng.random(len(ends))]
            row = {"task": str(tree), "input_ids": drawn.rows.values[start:end].tolist(), "step_ends": ends.tolist()}
            rows.append(row | {"soft": soft})
    lists = {"input_ids": pl.List(pl.Int32), "step_ends": pl.List(pl.Int32), "soft": pl.List(pl.Float64)}
    return labelled_rows(pl.DataFrame(rows, schema_overrides=lists), target="soft")


def trainer_of(model: PreTrainedModel, packed: Packed, folder: Path) -> PackedPrmTrainer:
    arguments = TrainingArguments(**runs.run_arguments(RECIPE, folder=folder, held_out=False))
    return PackedPrmTrainer(model, arguments, packed.batches, loss=label_loss(), held_out=packed.batches)


def apart(model: PreTrainedModel, rows: pl.DataFrame) -> tuple[torch.Tensor, float]:
    """Mean loss over the labels of padded rows, and the share of them that is met."""
    model.set_attn_implementation("sdpa")
    batch = collate(rows.to_dicts())
    found = prm_loss(model(batch["input_ids"], batch["attention_mask"], use_cache=False).logits, batch["labels"])
    return found.total / found.labels, float(found.right / found.labels)


@pytest.mark.parametrize("seed", range(3))
def test_loss_gradients_and_held_out_figures_are_those_of_rows_apart(model, tmp_path, seed):
    rows, gradients = forest(seed), {}
    packed = prm_packs(rows, RECIPE)
    assert len(packed.packs) > 3, "a tree is cut"
    trainer = trainer_of(model, packed, tmp_path)
    items = sum(batch["items"] for batch in packed.batches)
    assert items == rows["targets"].explode().is_not_null().sum()
    model.zero_grad()
    total = sum(trainer.score(model, batch).total / items for batch in packed.batches)
    total.backward()
    gradients["packed"] = {name: one.grad.clone() for name, one in model.named_parameters()}
    evaluated = trainer.evaluate()
    model.zero_grad()
    loss, met = apart(model, rows)
    loss.backward()
    gradients["apart"] = {name: one.grad.clone() for name, one in model.named_parameters()}
    assert total.item() == pytest.approx(loss.item(), abs=1e-6)
    assert worst_difference(**gradients) < 1e-5
    assert min(one.norm() for one in gradients["apart"].values()) > 0
    assert evaluated["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert evaluated["eval_mean_token_accuracy"] == pytest.approx(met)


def test_each_row_s_label_of_a_shared_step_counts(model, tmp_path):
    ids, ends = [[5, 6, 7], [5, 6, 7], [5, 6, 8], [5, 6, 9]], [[1, 2], [1], [1], [1, 2]]
    targets = [[1.0, 0.0], [1.0], [0.0], [None, 1.0]]
    rows = pl.DataFrame({"task": "t", "input_ids": ids, "step_ends": ends, "targets": targets}, strict=False)
    (batch,) = prm_packs(rows, RECIPE).batches
    assert batch["token_ids"].tolist() == [5, 6, 7, 8, 9]
    assert batch["needed"].tolist() == [1, 2, 4]
    assert sorted(zip(batch["entries"].tolist(), batch["labels"].tolist())) == [(0, 0), (0, 1), (0, 1), (1, 0), (2, 1)]
    with torch.no_grad():
        scored = trainer_of(model, Packed([], [batch]), tmp_path).score(model, batch)
        model.set_attn_implementation("sdpa")
        first, last = (model(torch.tensor([[5, 6, end]])).logits[0].diff(dim=-1)[:, 0] for end in (7, 9))
    shared = 2 * softplus(-first[1]) + softplus(first[1])
    torch.testing.assert_close(scored.total, shared + softplus(first[2]) + softplus(-last[2]), atol=1e-5, rtol=0)
    assert batch["items"] == 5


def test_a_step_is_the_same_whatever_it_is_made_of(policy, tmp_path):
    rows = forest(0)
    recipe = replace(RECIPE, steps=3, batch_size=len(rows), max_tokens=4096, learning_rate=1e-3, warmup_ratio=0.0)
    ways = {
        "packed": recipe,
        "packs": replace(recipe, max_tokens=90, accumulate=len(prm_packs(rows, replace(recipe, max_tokens=90)).packs)),
        "rows": replace(recipe, packed=False),
        "batches": replace(recipe, packed=False, batch_size=-(-len(rows) // 2), accumulate=2),
    }
    losses = {
        name: [entry["loss"] for entry in train_prm(rows, policy=policy, out=tmp_path / name, recipe=way).curves]
        for name, way in ways.items()
    }
    assert losses["packed"][0] > losses["packed"][-1]
    for name, found in losses.items():
        assert found == pytest.approx(losses["rows"], abs=1e-5), name


def test_what_packing_saves_is_told(policy, tmp_path, caplog):
    rows = pl.DataFrame({"task": "t", "input_ids": [[5, 6, 7, 8], [5, 6, 7, 9]], "step_ends": [[3], [3]]})
    rows = rows.with_columns(hard=pl.Series([[True], [False]]))
    with caplog.at_level(logging.INFO, "trainers"):
        report = train_prm(rows, policy=policy, out=tmp_path / "prm", recipe=PrmRecipe(steps=1))
    assert "prm: 8 path tokens, 5 unique, 1.6x, 1 pack" in caplog.text
    assert (report.numbers["path_tokens"], report.numbers["unique_tokens"]) == (8, 5)


@pytest.mark.parametrize("packed", [True, False])
def test_adapters_are_merged_under_a_head_trained_whole(policy, tmp_path, packed):
    recipe = replace(RECIPE, steps=2, batch_size=64, max_tokens=4096, lora_rank=2, packed=packed, learning_rate=1e-2)
    train_prm(forest(0), policy=policy, out=tmp_path / "prm", recipe=recipe)
    before, after = load_file(policy / "model.safetensors"), load_file(tmp_path / "prm" / "model.safetensors")
    changed = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("proj.weight")}
    head = load_backbone(runs.read_policy(policy), seed=recipe.seed).score.weight
    assert not torch.equal(after["score.weight"], head)
    assert 0 < score_steps(find_prm(str(tmp_path / "prm"), policies=tmp_path), [[5, 6, 7]], [[2]])[0] < 1


def test_held_out_tasks_choose_the_model(policy, tmp_path):
    recipe = replace(RECIPE, steps=4, checkpoint_every=2, held_out=0.34)
    report = train_prm(forest(0), policy=policy, out=tmp_path / "prm", recipe=recipe)
    assert report.rows < len(forest(0))
    assert [entry["step"] for entry in report.curves if "eval_loss" in entry] == [2, 4]
    assert report.held_out[1] == pytest.approx(min(e["eval_loss"] for e in report.curves if "eval_loss" in e))
    with pytest.raises(BadConfig, match="packed is False"):
        replace(recipe, packed=False).check()


def test_layers_that_look_at_more_than_a_mask_train_row_by_row(policy, tmp_path):
    windowed = shutil.copytree(policy, tmp_path / "windowed")
    config = json.loads((policy / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (windowed / "config.json").write_text(json.dumps(config))
    recipe = replace(RECIPE, steps=1)
    with pytest.raises(BadModel, match=r"window 8; train without packing"):
        train_prm(forest(0), policy=windowed, out=tmp_path / "prm", recipe=recipe)
    report = train_prm(forest(0), policy=windowed, out=tmp_path / "prm", recipe=replace(recipe, packed=False))
    assert (report.steps, report.forecast) == (1, None)

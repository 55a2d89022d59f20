"""A process reward model: its loss in numbers, its folder, and that what is scored is what was trained."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from random_policy import one_thread, save_random_policy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from pipeline.errors import BadConfig, BadInput, BadModel
from pipeline.generation.policies import EMBEDDED, find_policy
from pipeline.labels.prm import CLASSES, Prm, find_prm, prm_folder
from pipeline.labels.prm_model import load_prm, score_steps
from schemas import PrmSteps
from schemas.base import column_types
from trainers import runs
from trainers.data import token_digest
from trainers.prm import collate, labelled_rows, train_prm
from trainers.prm_loss import prm_loss
from trainers.prm_recipe import PrmRecipe

NA = float("nan")
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy with weights drawn at random."""
    return save_random_policy(tmp_path_factory.mktemp("policies") / "fresh", key_value_heads=2, positions=32)


def prm_rows(count: int = 40) -> pl.DataFrame:
    """Two steps of two tokens each; a step is wrong where it ends with token 12, right where with 11."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        ends = draw.integers(11, 13, size=2).tolist()
        rows.append(
            {
                "row": f"t@r/m/{number}",
                "node": number,
                "steps": ["", ""],
                "step_nodes": [1, 2],
                "hard": [ends[0] == 11, ends[1] == 11],
                "soft": [0.75 if end == 11 else 0.25 for end in ends],
                "input_ids": [5, 6, 7, 20 + number % 5, ends[0], 21 + number % 3, ends[1]],
                "step_ends": [4, 6],
                **dict.fromkeys(("task", "suite", "tree", "labeller", "prompt"), "t"),
            }
        )
    return pl.DataFrame(rows, schema=column_types(PrmSteps), orient="row")


@pytest.fixture(scope="module")
def trained(policy, tmp_path_factory) -> Prm:
    policies = tmp_path_factory.mktemp("trained")
    recipe = PrmRecipe(steps=120, batch_size=16, learning_rate=1e-2)
    report = train_prm(prm_rows(), policy=policy, out=prm_folder("judge", policies=policies), recipe=recipe)
    assert (report.steps, report.rows) == (120, 40)
    assert report.first_loss == pytest.approx(math.log(2), abs=0.2)
    assert report.late_mean("loss") < 0.1
    assert report.late_mean("mean_token_accuracy") > 0.95
    return find_prm("judge", policies=policies)


class TestLoss:
    def test_numbers(self):
        logits = torch.tensor([[[0.0, 0.0], [9.0, 9.0], [1.0, 3.0]]], requires_grad=True)
        found = prm_loss(logits, torch.tensor([[1.0, NA, 0.25]]))
        expected = [math.log(2), -(0.25 * math.log(1 / (1 + math.exp(-2))) + 0.75 * math.log(1 / (1 + math.exp(2))))]
        assert found.total.item() == pytest.approx(sum(expected), abs=1e-6)
        assert (found.right.item(), found.labels.item()) == (0, 2)
        found.total.backward()
        assert logits.grad[0, 1].tolist() == [0, 0]

    def test_is_the_cross_entropy_of_two_classes(self):
        torch.manual_seed(0)
        logits, labels = torch.randn(4, 5, 2), torch.randint(0, 2, (4, 5))
        expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 2), labels.reshape(-1), reduction="sum")
        torch.testing.assert_close(prm_loss(logits, labels.float()).total, expected)

    def test_nothing_labelled_is_no_loss(self):
        assert prm_loss(torch.randn(1, 2, 2), torch.full((1, 2), NA)).total.item() == 0.0

    def test_labels_met(self):
        logits = torch.tensor([[[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, 1.0]]])
        assert prm_loss(logits, torch.tensor([[1.0, 0.0, 0.2, 0.5]])).right.item() == 3


class TestBatch:
    def test_labels_stand_at_the_ends_of_steps(self):
        rows = [
            {"input_ids": [1, 2, 3, 4], "step_ends": [1, 3], "targets": [1.0, None]},
            {"input_ids": [5, 6], "step_ends": [1], "targets": [0.0]},
        ]
        batch = collate(rows)
        assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
        np.testing.assert_array_equal(batch["labels"], [[NA, 1, NA, NA], [NA, 0, NA, NA]])

    def test_attempts_without_a_label_are_left_out(self):
        rows = prm_rows(3).with_columns(hard=pl.Series([[None, None], [None, True], [False, True]]))
        found = labelled_rows(rows, target="hard")
        assert found["targets"].to_list() == [[None, 1.0], [0.0, 1.0]]
        with pytest.raises(BadInput, match="no step has a hard label"):
            labelled_rows(rows.head(1), target="hard")


class TestFolder:
    def test_it_is_a_model_of_its_own_kind(self, trained: Prm, policy):
        assert {path.name for path in trained.path.iterdir()} >= {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "lineage.json",
            "README.md",
            "curves.png",
        }
        lineage = json.loads((trained.path / "lineage.json").read_text())
        assert (lineage["method"], lineage["parent"], lineage["rows"]) == ("prm", "fresh", 40)
        assert lineage["data_digest"] == token_digest(prm_rows(), ("input_ids", "step_ends", "hard"))
        assert "pipeline_tag: token-classification\n" in (trained.path / "README.md").read_text()
        config = json.loads((trained.path / "config.json").read_text())
        assert tuple(config["id2label"].values()) == CLASSES
        with pytest.raises(BadModel):
            find_policy(str(trained.path), policies=trained.path.parent)
        with pytest.raises(BadModel, match="classes"):
            find_prm(str(policy), policies=trained.path.parent)

    def test_it_is_found_by_name_or_path(self, trained: Prm):
        assert find_prm(str(trained.path), policies=trained.path).fingerprint == trained.fingerprint
        with pytest.raises(BadModel, match="give one of judge"):
            find_prm("none", policies=trained.path.parent.parent)
        with pytest.raises(BadModel, match="run `branchpoint-train prm` first"):
            find_prm("", policies=trained.path)

    def test_lacking_weights_are_refused(self, trained: Prm, tmp_path):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "config.json").write_bytes((trained.path / "config.json").read_bytes())
        weights = load_file(trained.path / "model.safetensors")
        weights.pop("score.weight")
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BadModel, match=r"lacks weights: score\.weight"):
            load_prm(find_prm(str(broken), policies=tmp_path))


class TestScores:
    def test_it_learnt_what_it_was_told(self, trained: Prm):
        rows = prm_rows()
        soft = score_steps(trained, rows["input_ids"].to_list(), rows["step_ends"].to_list())
        assert ((soft > 0.5) == rows["hard"].explode().to_numpy()).all()

    def test_a_batch_is_as_each_alone(self, trained: Prm):
        draw = np.random.default_rng(3)
        rows = [draw.integers(0, 300, size=size).tolist() for size in (5, 31, 12, 3, 0)]
        ends = [[1, 4], [0, 15, 30], [11], [], []]
        model = AutoModelForTokenClassification.from_pretrained(trained.path).eval()
        expected = []
        for ids, places in zip(rows, ends, strict=True):
            if places:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
                expected += torch.softmax(logits, dim=-1)[places, 1].tolist()
        np.testing.assert_allclose(score_steps(trained, rows, ends), expected, atol=1e-5)

    def test_what_lies_beyond_the_positions_is_unknown(self, trained: Prm):
        found = score_steps(trained, [[5] * 40], [[3, 31, 32, 39]])
        assert np.isnan(found).tolist() == [False, False, True, True]

    def test_foreign_tokens_are_refused(self, trained: Prm):
        with pytest.raises(BadModel, match="attempt 1 has token 99999"):
            score_steps(trained, [[5], [99999]], [[0], [0]])


def test_soft_labels_are_chances(policy, tmp_path):
    recipe = PrmRecipe(target="soft", steps=120, batch_size=16, learning_rate=1e-2)
    train_prm(prm_rows(), policy=policy, out=tmp_path / "soft", recipe=recipe)
    rows = prm_rows()
    found = score_steps(find_prm(str(tmp_path / "soft"), policies=tmp_path), rows["input_ids"], rows["step_ends"])
    np.testing.assert_allclose(found, rows["soft"].explode().to_numpy(), atol=0.1)


def test_same_seed_same_model(policy, tmp_path):
    for name in ("one", "two"):
        train_prm(prm_rows(), policy=policy, out=tmp_path / name, recipe=PrmRecipe(steps=2, batch_size=4))
    prints = {find_prm(str(tmp_path / name), policies=tmp_path).fingerprint for name in ("one", "two")}
    assert len(prints) == 1


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_that_was_cut_off_goes_on_to_the_same_end(policy, tmp_path, packed):
    recipe, steps = PrmRecipe(steps=6, batch_size=4, checkpoint_every=2, packed=packed), []

    def stop(progress: runs.TrainingProgress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_prm(prm_rows(), policy=policy, out=tmp_path / "cut", recipe=recipe, on_progress=stop)
    went_on = train_prm(
        prm_rows(), policy=policy, out=tmp_path / "cut", recipe=recipe, on_progress=lambda p: steps.append(p.step)
    )
    whole = train_prm(prm_rows(), policy=policy, out=tmp_path / "whole", recipe=recipe)
    assert steps == [5, 6]
    assert [entry["loss"] for entry in went_on.curves] == [entry["loss"] for entry in whole.curves]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "whole"}


def test_the_embedded_policy_becomes_one(tmp_path):
    recipe = PrmRecipe(steps=2, batch_size=4)
    report = train_prm(prm_rows(8), policy=EMBEDDED["tiny"], out=tmp_path / "tiny", recipe=recipe)
    soft = score_steps(find_prm(str(tmp_path / "tiny"), policies=tmp_path), [[3, 264, 23]], [[2]])
    assert report.first_loss == pytest.approx(math.log(2), abs=0.3)
    assert 0 < soft[0] < 1


@pytest.mark.parametrize(
    ("config", "rows", "error", "why"),
    [
        pytest.param({"max_length": 3}, prm_rows(2), BadInput, "more than max_length 3", id="all too long"),
        pytest.param({}, prm_rows(2).drop("step_ends"), BadInput, "lack step_ends", id="a column is missing"),
        pytest.param({}, prm_rows(2).clear(), BadInput, "no rows", id="no rows"),
        pytest.param(
            {}, prm_rows(1).with_columns(input_ids=pl.Series([[5] * 99])), BadInput, "32 positions", id="too long"
        ),
    ],
)
def test_rows_that_cannot_be_learnt(policy, tmp_path, config, rows, error, why):
    with pytest.raises(error, match=why):
        train_prm(rows, policy=policy, out=tmp_path / "out", recipe=PrmRecipe(steps=1, **config))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", ["steps", "batch_size", "learning_rate"])
def test_numbers_that_no_run_can_use(field):
    with pytest.raises(BadConfig, match=f"{field} is 0"):
        PrmRecipe(**{field: 0}).check()


def test_a_target_that_is_none():
    with pytest.raises(BadConfig, match="target 'firm' is not known; use one of hard, soft"):
        PrmRecipe(target="firm").check()

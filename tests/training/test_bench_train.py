"""The training bench: what it counts and that it is exact; its rates go to a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.bench.forest import StoredForest
from pipeline.bench.shape import Shape as ForestShape
from trainers import bench_train
from trainers.packed import bench
from trainers.packed.bench_rows import OBJECTIVES, Shape, drawn_model

COMPARED = {
    "train.path_unique_ratio",
    "train.loss_diff",
    "train.grad_rel_diff",
    "train.speedup",
    "train.speedup_over_ratio",
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench, "TREES", ([Shape(20, (2, 2), 6)],) * 3)
    monkeypatch.setattr(bench, "UNSHARED", [Shape(1, (2,), 8)] * 2)
    monkeypatch.setattr(bench, "LARGE", Shape(12, (2, 2), 6))

    def narrow(name, **given):
        return drawn_model("narrow", **{**given, "device": "cpu"})

    monkeypatch.setattr(bench, "drawn_model", narrow)


def test_packs_are_exact_by_objective(small, tmp_path):
    metrics = list(bench_train.measure(StoredForest(tmp_path, ForestShape(seed=3))))
    by_objective = {name: {m.metric: m for m in metrics if m.params["objective"] == name} for name in OBJECTIVES}
    for name, found in by_objective.items():
        assert set(found) >= COMPARED, name
        assert found["train.loss_diff"].value < 1e-6
        assert found["train.grad_rel_diff"].value < 1e-5
        ratio = found["train.path_unique_ratio"]
        assert 1 < ratio.value == ratio.numerator / ratio.denominator
        assert ratio.denominator == ratio.params["unique_tokens"]
    assert by_objective["dpo"]["train.ratio_to_trl"].value > 0


def test_all_that_a_gpu_is_asked_is_printed(small, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "drawn")
    assert cli.main(["bench", "train", "--device", "cuda", "--model", "qwen3-0.6b"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seen = [
        (line["params"]["model"], line["params"]["objective"]) for line in lines if line["metric"] == "train.speedup"
    ]
    assert seen == [(model, objective) for model in ("narrow", "qwen3-0.6b") for objective in OBJECTIVES]
    assert {line["params"]["objective"] for line in lines if line["metric"] == "train.ratio_to_trl"} == {"dpo", "sft"}
    assert all(line["params"]["device"] == "drawn" for line in lines)


def test_a_device_is_for_this_bench_alone(capsys):
    assert cli.main(["bench", "store", "--device", "cuda"]) == 2
    assert "for the bench train" in capsys.readouterr().err


def test_it_needs_no_more_than_torch_and_transformers():
    absent = ("accelerate", "dagster", "dataframely", "datasets", "peft", "polars", "pyarrow", "scipy", "trl")
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); from trainers.packed import bench; print(bench.LARGE)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr

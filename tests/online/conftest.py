"""A fresh two-layer Llama, and rows of two trees whose attempts share beginnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from random_policy import one_thread, save_random_policy
from transformers import LlamaForCausalLM

from schemas import RlSamples
from schemas.base import column_types
from trainers import runs

_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="package")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_policy(tmp_path_factory.mktemp("policies") / "fresh")


@pytest.fixture(scope="package")
def model(policy: Path) -> LlamaForCausalLM:
    """Its weights; who changes them puts them back."""
    return runs.load_model(runs.read_policy(policy)).eval()


def row(tree: int, leaf: int, answer: list[int], advantages: list[float | None], behaviour: list[float]) -> dict:
    mask = [one is not None for one in advantages]
    return {
        "task": f"t{tree}",
        "row": f"t{tree}/grpo/{leaf}",
        "suite": "three",
        "tree": f"t{tree}",
        "node": leaf,
        "policy": "p",
        "method": "grpo",
        "prompt_ids": [5 + tree, 6, 7],
        "answer_ids": answer,
        "loss_mask": mask,
        "logprobs": behaviour,
        "advantages": advantages,
        "reward": 1.0,
        "record": None,
        "group": None,
    }


@pytest.fixture
def rows() -> pl.DataFrame:
    """Three attempts of a tree that part after two, one and no tokens; three of another, the last without advantage.

    A token amid an answer is a tool's: it is in no loss.
    """
    draw = np.random.default_rng(1)
    answers = {
        0: [[20, 21, 22, 23], [20, 21, 30], [20, 40, 41, 42, 43]],
        1: [[50, 51, 52], [50, 51, 52, 53], [60, 61, 62]],
    }
    found = []
    for tree, several in answers.items():
        for leaf, answer in enumerate(several, start=1):
            idle = (tree, leaf) == (1, 3)
            said = [0.0 if idle else float(value) for value in draw.normal(size=len(answer)).round(3)]
            advantages = [None if (tree, place) == (0, 1) else value for place, value in enumerate(said)]
            behaviour = [float(value) for value in draw.uniform(-6.5, -5, len(answer))]
            found.append(row(tree, leaf, answer, advantages, behaviour))
    return pl.DataFrame(found, schema=column_types(RlSamples), orient="row")

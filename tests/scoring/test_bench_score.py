"""The scoring bench: what it counts, and that both ways agree. No timing bars."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from trainers.packed.bench_rows import Shape
from trainers.scores.bench import compare, drawn_nodes
from trainers.scores.contexts import contexts_of


def test_trees_against_paths():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    nodes = drawn_nodes([Shape(12, (3, 2), 6), Shape(8, (2,), 5)], vocabulary=64, seed=1)
    assert nodes["token_count"].to_list()[:1] == [12]
    assert np.bincount(nodes["depth"].to_numpy()).tolist() == [2, 5, 6]
    found = {
        metric.metric: metric
        for metric in compare(
            Qwen3ForCausalLM(config), nodes, rows_a_batch=3, max_tokens=4096, repeats=1, params={"model": "small"}
        )
    }
    rows = contexts_of(nodes).rows
    assert found["score.path_unique_ratio"].numerator == len(rows.values)
    assert found["score.path_unique_ratio"].denominator == nodes["token_count"].sum()
    assert found["score.logprob_diff"].value < 1e-5
    assert found["score.speedup_over_ratio"].value == pytest.approx(
        found["score.speedup"].value / found["score.path_unique_ratio"].value
    )

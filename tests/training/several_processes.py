"""Runs that several processes share: `several_processes.py PARENT OUT [sharded]`, started by torchrun.

accelerate shards models (FSDP2) on accelerators alone. With `sharded` it is told that there are some, and torch shards
on CPUs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from trainers.prm_recipe import PrmRecipe
from trainers.recipes import SftRecipe

LISTS = {name: pl.List(pl.Int32) for name in ("input_ids", "step_ends")}
SFT = SftRecipe(steps=3, batch_size=2, learning_rate=1e-3, warmup_ratio=0.0)
PRM = PrmRecipe(steps=3, batch_size=2, learning_rate=1e-3, warmup_ratio=0.0)


def answers() -> pl.DataFrame:
    """Rows of `sft`, a task each."""
    weights = [[0.0, 0.0, 0.0, 1.0, 0.5]] * 8
    rows = [
        {"task": str(row), "row": str(row), "input_ids": [5, 6, 7, 20 + row, 21], "weights": one}
        for row, one in enumerate(weights)
    ]
    return pl.DataFrame(rows, schema_overrides={**LISTS, "weights": pl.List(pl.Float32)})


def labelled() -> pl.DataFrame:
    """Rows of `prm_steps`, some of one label and some of two."""
    labels = [[True], [False, True], [None, False], [False, False]] * 2
    rows = [
        {"input_ids": [5, 6, 20 + row, 8], "step_ends": [2, 3][: len(hard)], "hard": hard}
        for row, hard in enumerate(labels)
    ]
    return pl.DataFrame(rows, schema_overrides=LISTS)


def shard() -> None:
    """Have accelerate shard models over the processes, as on accelerators."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    begin = AcceleratorState.__init__

    def pretend(state: AcceleratorState, *given: Any, **named: Any) -> None:
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        begin(state, *given, **named)

    AcceleratorState.__init__ = pretend


def train_all(parent: Path, out: Path, *, alone: bool) -> None:
    """Train a policy, one with adapters and process reward models, by one process or two on as many rows a step."""
    from trainers.prm import train_prm
    from trainers.sft import train_sft

    sft, prm = (replace(one, accumulate=2 if alone else 1) for one in (SFT, PRM))
    train_sft(answers(), policy=parent, out=out / "sft", recipe=sft)
    train_sft(answers(), policy=parent, out=out / "lora", recipe=replace(sft, lora_rank=2))
    train_prm(labelled(), policy=parent, out=out / "prm", recipe=prm)
    train_prm(labelled(), policy=parent, out=out / "prm_rows", recipe=replace(prm, packed=False))


def main(parent: str, out: str, *how: str) -> None:
    """Train as one of several processes."""
    import torch

    torch.set_num_threads(1)
    if how:
        shard()
    train_all(Path(parent), Path(out), alone=False)


if __name__ == "__main__":
    main(*sys.argv[1:])

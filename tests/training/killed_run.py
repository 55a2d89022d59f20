"""A run in a process of its own that is killed without warning at a step: `killed_run.py PARENT OUT STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import polars as pl

from trainers.recipes import DpoRecipe

RECIPE = DpoRecipe(steps=8, batch_size=2, learning_rate=1e-3, checkpoint_every=3, held_out=0.3)


def pairs() -> pl.DataFrame:
    """Pairs of six tasks that share their prompts."""
    rows = [
        {
            "task": str(row // 2),
            "row": f"pair {row}",
            "prompt_ids": [5 + row // 2] * 6,
            "chosen_ids": [30 + row, 31, 32],
            "rejected_ids": [30 + row, 41 + row, 2],
        }
        for row in range(12)
    ]
    return pl.DataFrame(
        rows, schema_overrides={name: pl.List(pl.Int32) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    )


def main(parent: str, out: str, step: str) -> None:
    """Train until the step, then die."""
    import torch

    from trainers.dpo import train_dpo

    torch.set_num_threads(1)

    def die(progress) -> None:
        if progress.step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    train_dpo(pairs(), policy=Path(parent), out=Path(out), recipe=RECIPE, on_progress=die)


if __name__ == "__main__":
    main(*sys.argv[1:])

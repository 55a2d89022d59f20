"""Bench `train`: packs against rows apart, and against TRL's trainers. Knows how to be asked, not how to measure.

Runs where torch, transformers and numpy are alone, and prints each figure when it is known:
`python -m trainers.bench_train --device cuda --model qwen3-0.6b`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.bench.metric import Metric

if TYPE_CHECKING:
    from pipeline.bench.forest import StoredForest

MODELS = ("wide", "qwen3-0.6b")
"""wide: two layers, 768 wide. Weights are drawn."""


def measure(forest: StoredForest) -> Iterator[Metric]:
    """On the CPU, of trees drawn with the forest's seed; nothing where torch is not installed."""
    if find_spec("torch") and find_spec("transformers"):
        from trainers.packed.bench import on_cpu

        yield from on_cpu(seed=forest.shape.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on a device and print a JSON object a figure."""
    parser = argparse.ArgumentParser(prog="python -m trainers.bench_train", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="", choices=MODELS, help="default wide on a CPU, qwen3-0.6b on a GPU")
    parser.add_argument("--seconds", type=float, default=240.0, help="after which nothing new is begun; default 240")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from trainers.packed.bench import on_cpu, on_gpu

    if options.device == "cpu":
        found = on_cpu(seed=options.seed)
    else:
        found = on_gpu(options.model or MODELS[-1], seed=options.seed, seconds=options.seconds)
    for metric in found:
        print(json.dumps(metric._asdict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

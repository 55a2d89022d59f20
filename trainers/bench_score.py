"""Bench `score`: scoring over trees against path by path. Knows how to be asked, not how to measure.

Runs where torch, transformers and numpy are alone, and prints each figure when it is known:
`python -m trainers.bench_score --device cuda`.
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


def measure(forest: StoredForest) -> Iterator[Metric]:
    """On the CPU, of trees drawn with the forest's seed; nothing where torch is not installed."""
    if find_spec("torch") and find_spec("transformers"):
        from trainers.scores.bench import on_cpu

        yield from on_cpu(seed=forest.shape.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on a device and print a JSON object a figure."""
    parser = argparse.ArgumentParser(prog="python -m trainers.bench_score", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from trainers.scores.bench import on_cpu, on_gpu

    found = on_cpu(seed=options.seed) if options.device == "cpu" else on_gpu("qwen3-0.6b", seed=options.seed)
    for metric in found:
        print(json.dumps(metric._asdict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

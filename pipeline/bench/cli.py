"""Bench `cli`: what the command costs before it does anything. Every time is that of a fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from pipeline.bench.clock import median_seconds
from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, figure, ratio

HELP_PROCESSES, DEFINITIONS_PROCESSES = 7, 3
HEAVY = ("dagster", "datasets", "duckdb", "numpy", "polars", "pyarrow", "torch", "transformers", "vllm")
HELP = "from pipeline.cli import main; main(['--help'])"
MODULES = f"""
import sys
before = len(sys.modules)
try:
    {HELP}
except SystemExit:
    pass
print(before, len(sys.modules), *sorted(set(sys.modules) & set({HEAVY})))
"""
DEFINITIONS = "from assets.definitions import defs; defs()"


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Milliseconds of `branchpoint --help`, modules it loads, seconds of the graph's definitions where dagster is."""
    del forest
    bare, shown = median_seconds(lambda: _run("pass"), lambda: _run(HELP), repeats=HELP_PROCESSES)
    of = {"processes": HELP_PROCESSES, "bare_python_ms": round(bare * 1000, 1)}
    yield ratio("cli.help_ms", shown, 0.001, unit="ms", params=of)
    before, loaded, *heavy = _run(MODULES).splitlines()[-1].split()
    of = {"bare_python": int(before), "heavy": " ".join(heavy) or "none"}
    yield figure("cli.modules_loaded", int(loaded), unit="modules", params=of)
    if find_spec("dagster") and find_spec("assets"):
        (seconds,) = median_seconds(lambda: _run(DEFINITIONS), repeats=DEFINITIONS_PROCESSES)
        yield figure("cli.definitions_s", seconds, unit="s", params={"processes": DEFINITIONS_PROCESSES})


def _run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout

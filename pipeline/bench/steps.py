"""A pass over very many step rows in bounded memory, in a process of its own. Part of bench `query`.

It is what a credit stage does: labels of steps are read in batches of whole tasks, each is centred on its tree's mean
and scaled by the tree's spread, and credit is written as it comes. All rows lie in one file, which is the hardest case.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.bench.draw import ROUND, task_name
from pipeline.bench.forest import StoredForest, place
from pipeline.bench.metric import Metric, ratio
from pipeline.credit.columns import moments
from pipeline.statistics import wilson
from pipeline.store.store import Store
from schemas import Credit, StepLabels
from schemas.base import arrow_schema, column_types

LABELS, CREDIT = place("monte_carlo", 0), place("centred", 0)
TASK_STEPS = 64
"""Steps of a task, in one tree."""
DRAWN_TASKS = 4_000
"""At once."""
BATCH_ROWS = 300_000
SAMPLES = 8
"""Continuations by which a step is labelled."""
STD_EPS = 1e-6
PASS = "import sys; from pipeline.bench.steps import credit_steps; credit_steps(sys.argv[1])"
STATUS = Path("/proc/self/status")


def measure_stream(forest: StoredForest) -> Iterator[Metric]:
    """Rows a second of the pass, and the most memory that its process held, the interpreter and libraries included."""
    store, tasks = Store(forest.root / "steps"), max(1, forest.sizes.rows // TASK_STEPS)
    write_labels(store, tasks, seed=forest.shape.seed)
    command = [sys.executable, "-c", PASS, str(store.root)]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    files = (LABELS.path(store.root, "step_labels"), CREDIT.path(store.root, "credit"))
    read, written = (file.stat().st_size for file in files)
    params = {"task_rows": TASK_STEPS, "batch_rows": BATCH_ROWS, "bytes_read": read, "bytes_written": written}
    yield ratio("query.stream_rows_per_s", said["rows"], said["seconds"], unit="rows/s", params=params)
    params = {"rows": said["rows"], "imported_mib": round(said["imported"] / 2**20), **params}
    yield ratio("query.stream_peak_mib", said["peak"], 2**20, unit="MiB", params=params)


def write_labels(store: Store, tasks: int, *, seed: int) -> None:
    """Draw Monte Carlo labels of the steps of some tasks into one file."""
    random = np.random.default_rng([seed, TASK_STEPS])
    with store.writer("step_labels", LABELS, inputs={}) as out:
        for first in range(0, tasks, DRAWN_TASKS):
            out.add(_labels(random, first, min(DRAWN_TASKS, tasks - first)))


def _labels(random: np.random.Generator, first: int, count: int) -> pl.DataFrame:
    null = pl.lit(None)
    names = pl.Series([task_name(task) for task in range(first, first + count)])
    chance = np.repeat(random.beta(1.0, 1.0, count), TASK_STEPS)
    successes = random.binomial(SAMPLES, chance)
    low, high = wilson(np.arange(SAMPLES + 1), SAMPLES)
    rows = pl.DataFrame(
        {
            "task": names.gather(np.repeat(np.arange(count), TASK_STEPS)),
            "node": np.tile(np.arange(1, TASK_STEPS + 1), count),
            "successes": successes,
            "hard": successes > 0,
            "soft": successes / SAMPLES,
            "low": low[successes],
            "high": high[successes],
        }
    ).with_columns(
        tree=pl.col("task") + f"@{ROUND}",
        labeller=pl.lit("monte_carlo"),
        version=pl.lit("1"),
        k=pl.lit(SAMPLES),
        rationale=null,
        tool_exit=null,
        tokens=pl.lit(400),
        created=null,
        unread=null,
    )
    return rows.select(pl.col(name).cast(dtype) for name, dtype in column_types(StepLabels).items())


def credit_steps(root: str) -> None:
    """Make the pass and print in JSON how it went; called in the process that is measured."""
    store, imported = Store(Path(root)), peak_bytes()
    start, rows = time.perf_counter(), 0
    columns = ["task", "tree", "node", "soft"]
    with store.writer("credit", CREDIT, inputs={}) as out:
        for batch in store.batches(
            "step_labels", [LABELS], columns=columns, dictionary=["task", "tree"], rows=BATCH_ROWS
        ):
            out.add(centred(batch))
            rows += batch.num_rows
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak_bytes(), "imported": imported}))


def centred(batch: pa.Table) -> pa.Table:
    """Credit of each step: its soft label less its tree's mean, over the tree's standard deviation.

    Args:
        batch: columns `task`, `tree`, `node`, `soft`; the first two dictionaries.
    """
    trees = batch["tree"].unify_dictionaries().combine_chunks()
    soft = batch["soft"].to_numpy().astype(np.float64)
    group = moments(soft, trees.indices.to_numpy(), count=len(trees.dictionary), ddof=1)
    advantage = group.centred / (np.nan_to_num(group.std[trees.indices.to_numpy()], nan=1.0) + STD_EPS)
    columns = {
        "task": batch["task"],
        "tree": batch["tree"],
        "node": batch["node"],
        "method": pa.array(["centred"]).take(pa.array(np.zeros(batch.num_rows, dtype=np.int8))),
        "value": batch["soft"],
        "advantage": pa.array(advantage.astype(np.float32)),
    }
    unsaid = [field for field in arrow_schema(Credit) if field.name not in columns]
    return pa.table({**columns, **{field.name: pa.nulls(batch.num_rows, field.type) for field in unsaid}})


def peak_bytes() -> int:
    """Most memory this process has held. `getrusage` would count the process that started it as well."""
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

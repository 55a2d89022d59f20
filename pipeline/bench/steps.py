"""The credit stage over very many steps in bounded memory, in a process of its own. Part of bench `query`.

It is the stage that `branchpoint credit` runs, under a method of METHODS, whose plain loop says what it should find.
All rows lie in one shard, which is the hardest case. Steps have neither tokens nor texts, which the method does not
read.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.bench.draw import ROUND, task_name
from pipeline.bench.forest import SUITE, StoredForest, place
from pipeline.bench.metric import Metric, figure, ratio
from pipeline.bench.row_loops import ROW_LOOPS, Row
from pipeline.settings import Settings
from pipeline.stages.credit import BATCH_ROWS, CreditConfig, write_credit
from pipeline.stages.work import Work
from pipeline.store.batches import ahead
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store
from pipeline.tasks.suites import load_suite
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from schemas import TABLES
from schemas.base import column_types

METHOD = "grpo"
ATTEMPTS, STEPS = 16, 16
"""Attempts of a task, and steps of each."""
TASK_STEPS = ATTEMPTS * STEPS
DRAWN_TASKS = 1_000
"""At once."""
CHECKED = 100
"""Tasks compared with the loop."""
PASS = "import sys; from pipeline.bench.steps import credit_steps; credit_steps(sys.argv[1], int(sys.argv[2]))"
STATUS = Path("/proc/self/status")


def measure_stream(forest: StoredForest) -> Iterator[Metric]:
    """Steps a second of the stage; the most memory that its process held, the interpreter and libraries included; the
    largest difference from the loop."""
    store, tasks = Store(forest.root / "steps"), max(1, forest.sizes.rows // TASK_STEPS)
    seed = forest.shape.seed
    write_steps(store, tasks, seed=seed)
    command = [sys.executable, "-c", PASS, str(store.root), str(tasks)]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    read = sum(place("rollouts", 0).path(store.root, table).stat().st_size for table in ("nodes", "verdicts"))
    written = place(METHOD, 0).path(store.root, "credit").stat().st_size
    params = {"method": METHOD, "task_rows": 1 + TASK_STEPS, "batch_rows": BATCH_ROWS}
    params |= {"bytes_read": read, "bytes_written": written}
    yield ratio("query.stream_rows_per_s", said["rows"], said["seconds"], unit="rows/s", params=params)
    params = {"rows": said["rows"], "imported_mib": round(said["imported"] / 2**20), **params}
    yield ratio("query.stream_peak_mib", said["peak"], 2**20, unit="MiB", params=params)
    params = {"checked_tasks": min(CHECKED, tasks), **params}
    yield figure("query.stream_max_abs_error", largest_error(store, tasks, seed=seed), unit="credit", params=params)


def write_steps(store: Store, tasks: int, *, seed: int) -> None:
    """Draw tasks, their attempts and the verdicts on those into one shard."""
    at = place("rollouts", 0)
    store.write("tasks", _tasks(tasks), Place(SUITE, EVERY_ROUND, "tasks", at.shard), inputs={})
    with store.writer("nodes", at, inputs={}) as nodes, store.writer("verdicts", at, inputs={}) as verdicts:
        for drawn_nodes, drawn_verdicts in ahead(_drawn(tasks, seed)):
            nodes.add(drawn_nodes)
            verdicts.add(drawn_verdicts)


def credit_steps(root: str, tasks: int) -> None:
    """Run the stage and print in JSON how it went; called in the process that is measured."""
    suite = replace(load_suite("chain_sum", folder=Path(root)), name=SUITE, shard_tasks=tasks)
    work, imported = Work(replace(Settings(), store=Path(root)), suite, ROUND), peak_bytes()
    start = time.perf_counter()
    (report,) = write_credit(work, CreditConfig((METHOD,)))
    seconds = time.perf_counter() - start
    said = {"rows": report.rows["credit"], "seconds": seconds, "peak": peak_bytes(), "imported": imported}
    print(json.dumps(said))


def largest_error(store: Store, tasks: int, *, seed: int) -> float:
    """Largest difference between the advantages that are stored and those of the loop, over some tasks.

    Raises:
        ValueError: a task has other rows, or one without an advantage, or there are other rows than were drawn.
    """
    if store.rows("credit", place(METHOD, 0)) != tasks * (1 + TASK_STEPS):
        raise ValueError(f"{METHOD} did not credit the {tasks} tasks that were drawn, a row a node")
    checked = np.linspace(0, tasks - 1, min(CHECKED, tasks)).astype(int).tolist()
    names = [task_name(task) for task in checked]
    stored = store.scan("credit", suite=SUITE, round=ROUND, stage=METHOD).filter(pl.col("task").is_in(names))
    found = stored.select("task", "node", "advantage").sort("task", "node").collect()
    defined = [ROW_LOOPS[METHOD](_rows(task, tasks, seed)).advantage for task in checked]
    if len(found) != len(checked) * (1 + TASK_STEPS) or found["advantage"].null_count():
        raise ValueError(
            f"{METHOD} did not credit every step of the tasks {names[0]} to {names[-1]} that were looked at"
        )
    return float(np.abs(found["advantage"].to_numpy() - np.concatenate(defined)).max())


def _rewards(first: int, tasks: int, seed: int) -> np.ndarray:
    """Verdicts on the attempts of the tasks that are drawn at once from the first on: `[count, ATTEMPTS]`, 0 or 1."""
    random, count = np.random.default_rng([seed, first]), min(DRAWN_TASKS, tasks - first)
    chance = random.beta(1.0, 1.0, count)
    return (random.random((count, ATTEMPTS)) < chance[:, None]).astype(np.float64)


def _rows(task: int, tasks: int, seed: int) -> list[Row]:
    """A task as its loop takes it."""
    first = task - task % DRAWN_TASKS
    rows = [Row(-1, 0, None, ())]
    for reward in _rewards(first, tasks, seed)[task - first].tolist():
        for step in range(STEPS):
            rows.append(Row(len(rows) - 1 if step else 0, 0, reward if step == STEPS - 1 else None, ()))
    return rows


def _drawn(tasks: int, seed: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Nodes and verdicts, some tasks at a time."""
    one = _attempts()
    for first in range(0, tasks, DRAWN_TASKS):
        rewards = _rewards(first, tasks, seed)
        names = pl.Series([task_name(task) for task in range(first, first + len(rewards))])
        nodes = pl.concat([one] * len(names), rechunk=True).with_columns(
            task=names.gather(np.repeat(np.arange(len(names)), len(one)))
        )
        verdicts = pl.DataFrame(
            {
                "task": names.gather(np.repeat(np.arange(len(names)), ATTEMPTS)),
                "node": np.tile(np.arange(1, ATTEMPTS + 1) * STEPS, len(names)),
                "reward": rewards.ravel(),
            }
        )
        yield (
            _filled("nodes", nodes, agent="solver", turn=0, sampled=False, token_count=0, token_ids=[], text=""),
            _filled("verdicts", verdicts, verifier="drawn", version=VERIFIER_VERSION),
        )


def _attempts() -> pl.DataFrame:
    """The nodes of a task: its prompt, and the steps of one attempt after the other."""
    node = np.arange(1 + TASK_STEPS)
    step, root = (node - 1) % STEPS, pl.Series(node == 0)
    rows = pl.DataFrame({"node": node, "above": np.where(step == 0, 0, node - 1), "depth": np.where(root, 0, step + 1)})
    return rows.with_columns(
        parent=pl.when(~root).then("above"),
        context=pl.lit(0),
        kind=pl.when(root).then(pl.lit("prompt")).otherwise(pl.lit("step")),
        origin=pl.when(root).then(pl.lit("prompt")).otherwise(pl.lit("sample")),
        finish=pl.when(~root & pl.Series(step == STEPS - 1)).then(pl.lit("stop")),
    )


def _tasks(count: int) -> pl.DataFrame:
    rows = pl.DataFrame({"task": [task_name(task) for task in range(count)]})
    said = {"band": "drawn", "split": "train", "question": "", "answer": "", "verifier": "drawn"}
    return _filled("tasks", rows, suite=SUITE, **said)


def _filled(table: str, rows: pl.DataFrame, **same: object) -> pl.DataFrame:
    """Rows in their table's columns: those that are the same in all, the tree, and null for the rest."""
    types = column_types(TABLES[table])
    columns = {
        **{name: pl.lit(None) for name in types},
        **dict.fromkeys(("tree", "episode"), pl.col("task") + f"@{ROUND}"),
        **{name: pl.lit(value) for name, value in same.items()},
        **{name: pl.col(name) for name in rows.columns},
    }
    return rows.select(columns[name].cast(dtype).alias(name) for name, dtype in types.items())


def peak_bytes() -> int:
    """Most memory this process has held. `getrusage` would count the process that started it as well."""
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

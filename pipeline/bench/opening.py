"""How long a store of many trees takes to open, in a process of its own. Part of bench `query`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from pipeline.bench.forest import DRAWN_TABLES, StoredForest, write_forest
from pipeline.bench.metric import Metric, figure
from pipeline.bench.shape import Shape
from pipeline.store.catalogue import FILE
from pipeline.store.store import Store

THIN = Shape(branching=(2,), prompt_tokens=4, step_tokens=2, shared_tokens=0.0)
"""Of the trees: that nothing is read of them shows only if there are many."""
OPEN = """
import json, sys, time
start = time.perf_counter()
from pathlib import Path
from pipeline.store.query import open_database
from pipeline.store.store import Store
imported = time.perf_counter()
open_database(Store(Path(sys.argv[1])))
print(json.dumps([imported - start, time.perf_counter() - start]))
"""


def measure_opening(forest: StoredForest) -> Iterator[Metric]:
    """Seconds from a bare interpreter to a database over the trees that can be asked, imports included.

    Once with the catalogue that was written with the store; once without, when every file is read and verified.
    """
    shape = replace(THIN, tasks=forest.sizes.trees, seed=forest.shape.seed, shard_tasks=forest.shape.shard_tasks)
    store = Store(forest.root / "trees")
    write_forest(store, shape)
    files = sum(len(store.places(table)) for table in DRAWN_TABLES)
    for catalogue in ("kept", "lost"):
        if catalogue == "lost":
            for part in store.files.local.glob(f"{FILE}*"):
                part.unlink()
        command = [sys.executable, "-c", OPEN, str(store.root)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        imports, seconds = json.loads(said)
        params = {"trees": shape.tasks, "files": files, "catalogue": catalogue, "imports_s": round(imports, 3)}
        yield figure("query.open_s", seconds, unit="s", params=params)

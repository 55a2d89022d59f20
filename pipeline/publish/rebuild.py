"""Builds rows of a release again from the nodes, verdicts and variants in it, and compares.

The forest is laid out as a store for a while; the very stages that built the rows run on it. What is held is a shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.credit import METHODS
from pipeline.errors import BadConfig
from pipeline.hygiene.leaving import REDACT
from pipeline.publish.check import Finding
from pipeline.publish.folder import Folder
from pipeline.settings import Settings
from pipeline.stages.earlier import ROLLOUTS
from pipeline.stages.work import Work, shards_of
from pipeline.store.batches import beside
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.tasks.suites import Suite
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from schemas import TABLES
from schemas.base import column_types
from schemas.words import SPLITS

TOLERANCE = 1e-5
"""By which floats may differ, for 1 or more relatively: other processors add in other orders."""
_SHOWN = 60


class Remade(NamedTuple):
    """A config that is built again.

    by:     column with the stage's name; empty: the stage is the table's own.
    ledger: rows are only ever added, so older ones may stand beside those that are built.
    """

    module: str
    function: str
    config: str
    by: str = ""
    ledger: bool = False


REMADE: dict[str, Remade] = {
    "step_labels": Remade(
        "pipeline.stages.step_labels", "write_step_labels", "StepLabelConfig", by="labeller", ledger=True
    ),
    "credit": Remade("pipeline.stages.credit", "write_credit", "CreditConfig", by="method"),
    "pairs": Remade("pipeline.stages.pairs", "write_pairs", "PairConfig"),
    "patches": Remade("pipeline.stages.patches", "write_patches", "PatchConfig"),
    "prm_steps": Remade("pipeline.stages.prm_steps", "write_prm_steps", "PrmStepsConfig", by="labeller"),
    "unpaired": Remade("pipeline.stages.unpaired", "write_unpaired", "UnpairedConfig"),
    "rl_prompts": Remade("pipeline.stages.rl_prompts", "write_rl_prompts", "RlPromptConfig"),
}
"""Configs that follow from the forest, labels before what reads them. A new one is one entry."""
_FOREST = {"nodes": "", "verdicts": "", "variants": "", "scores": "name", "step_labels": "labeller"}
"""What they are built from, with the column that names the stage; empty: all of one stage."""


def check_rebuilt(folder: Folder) -> Iterator[Finding]:
    """Every config that follows from the forest, built again; one finding a stage.

    Raises:
        BadConfig, BadTable: a stage refuses the forest.
    """
    there = [name for name in REMADE if name in folder.configs]
    why_not = _unbuildable(folder)
    if why_not:
        yield from (Finding(f"{name} from nodes", True, f"not built again: {why_not}") for name in there)
        return
    with TemporaryDirectory(prefix="branchpoint-verify-") as place:
        work = _work(folder, Path(place))
        shards = _shards(folder, work)
        for table, by in _FOREST.items():
            for stage in _stages(folder, table, by) if by else (ROLLOUTS,):
                _lay_out(folder, work, shards, table, stage, by)
        for table in there:
            made = REMADE[table]
            for stage in _stages(folder, table, made.by) if made.by else (table,):
                yield _compare_stage(folder, work, shards, table, stage)


def _unbuildable(folder: Folder) -> str:
    """Why nothing can be built again; empty where it can."""
    if not {"tasks", "nodes"} <= set(folder.configs):
        return "the release has no tasks or no nodes"
    if not folder.manifest.get("reading"):
        return "the manifest does not say how the suite's answers are read"
    versions = _stages(folder, "verdicts", "version")
    if versions and VERIFIER_VERSION not in versions:
        return f"its verdicts are of verifier {', '.join(versions)}, this is {VERIFIER_VERSION}"
    return ""


def _work(folder: Folder, place: Path) -> Work:
    manifest = folder.manifest
    suite = Suite(name=manifest["suite"], description="", bands=(), base=Path(), **manifest["reading"])
    return Work(Settings(place / "store", place, place, place), suite, manifest["round"])


@dataclass(frozen=True, slots=True)
class _Shard:
    """A slice of the tasks of a split."""

    name: str
    split: str
    tasks: pl.DataFrame


def _shards(folder: Folder, work: Work) -> list[_Shard]:
    """Write the tasks as they were cut, without redacted ones, whose nodes have no tokens; the shards in order."""
    rows = folder.read("tasks")
    if _hygiene(folder).get("private") == REDACT:
        redacted = folder.read("hygiene", columns=["task", "withheld"]).drop_nulls()
        rows = rows.join(redacted, on="task", how="anti", maintain_order="left")
    found = []
    for name, tasks in shards_of(rows, size=work.suite.shard_tasks).items():
        work.store.write("tasks", tasks, Place(work.suite.name, EVERY_ROUND, "tasks", name), inputs={})
        found.append(_Shard(name, tasks["split"][0], tasks.select("task")))
    return found


def _stages(folder: Folder, table: str, by: str) -> list[str]:
    """The names in a column."""
    read = (some for split in folder.splits(table) for some in folder.batches(table, split, columns=(by,)))
    return sorted({name for some in read for name in some[by].unique().to_pylist()})


def _by_shard(
    folder: Folder, shards: list[_Shard], table: str, stage: str, by: str
) -> Iterator[tuple[_Shard, pl.DataFrame]]:
    """The released rows of a stage, shard by shard."""
    for split in SPLITS:
        here = [shard for shard in shards if shard.split == split]
        tasks = (shard.tasks.to_arrow() for shard in here)
        for shard, (_, (rows,)) in zip(here, beside(tasks, folder.batches(table, split)), strict=True):
            found = pl.DataFrame(schema=column_types(TABLES[table])) if rows is None else pl.from_arrow(rows)
            found = found.join(shard.tasks, on="task", how="semi", maintain_order="left")
            yield shard, found.filter(pl.col(by) == stage) if by else found


def _lay_out(folder: Folder, work: Work, shards: list[_Shard], table: str, stage: str, by: str) -> None:
    """Write a table of the forest."""
    for shard, rows in _by_shard(folder, shards, table, stage, by):
        if rows.height or table in ("nodes", "verdicts"):
            work.store.write(table, rows, work.place(stage, shard.name), inputs={})


def _compare_stage(folder: Folder, work: Work, shards: list[_Shard], table: str, stage: str) -> Finding:
    made, what = REMADE[table], f"{table} from nodes" if table == stage else f"{table} {stage} from nodes"
    module, said = import_module(made.module), _said(folder, table, stage)
    if said.get("version") != module.VERSION:
        by = f"made by version {said.get('version')} of the stage, this is {module.VERSION}"
        return Finding(what, True, f"not built again: {by}")
    if table == "credit" and _hygiene(folder).get("rows") and _across_tasks(stage, said):
        return Finding(what, True, "not built again: it reads other tasks too, and some were withheld")
    try:
        getattr(module, made.function)(work, _config(getattr(module, made.config), table, stage, said, folder))
    except (ValueError, TypeError):
        return Finding(what, True, "not built again: its shards were made in different ways")
    except BadConfig as error:
        return Finding(what, True, f"not built again: {error.culprit}")
    rows = 0
    for shard, released in _by_shard(folder, shards, table, stage, made.by):
        built = work.store.read(table, [work.place(stage, shard.name)])
        difference = first_difference(table, released, built, ledger=made.ledger)
        if difference:
            return Finding(what, False, difference)
        rows += built.height
    return Finding(what, True, f"{rows:,} rows as the nodes give them")


def _hygiene(folder: Folder) -> dict[str, Any]:
    """What the manifest says of it; empty where it was not run."""
    return folder.manifest.get("hygiene") or {}


def _across_tasks(method: str, said: dict[str, str]) -> bool:
    """Whether numbers of a task depend on others; where the manifest does not say how they were made, they may."""
    try:
        params = METHODS[method].params(**json.loads(said.get("config") or "{}"))
    except (KeyError, ValueError, TypeError):
        return True
    return METHODS[method].across_tasks(params)


def _said(folder: Folder, table: str, stage: str) -> dict[str, str]:
    """What the manifest says that a stage made a table from."""
    stages = folder.manifest["stages"]
    return next((one["inputs"] for one in stages if one["name"] == stage and table in one["rows"]), {})


def _config(config: type, table: str, stage: str, said: dict[str, str], folder: Folder) -> Any:
    """The stage's configuration as it was.

    Raises:
        ValueError, TypeError: the manifest does not say it, its shards having been made in different ways.
    """
    values = json.loads(said.get("config") or "{}")
    if table == "credit":
        labellers = _stages(folder, "step_labels", "labeller")
        read = [name for name in labellers if said.get("labels", "").startswith(f"{name} ")] or labellers
        of = {"labeller": read[0]} if read else {}
        return config(method=(stage,), params=json.dumps(values) if values else "", **of)
    if table == "step_labels":
        return config(labeller=stage, params=json.dumps(values) if values else "")
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def first_difference(table: str, released: pl.DataFrame, built: pl.DataFrame, *, ledger: bool = False) -> str:
    """The first row that differs, and how; empty where none does.

    Args:
        ledger: whether released rows that were not built are no difference.
    """
    key = TABLES[table].primary_key()
    if released.equals(built):
        return ""
    if not ledger and (more := released.join(built, on=key, how="anti")).height:
        return f"row {_named(more, key)} does not follow from the nodes"
    if (lacking := built.join(released, on=key, how="anti")).height:
        return f"row {_named(lacking, key)} is missing"
    ours = built.sort(key)
    theirs = released.join(ours.select(key), on=key, how="semi").sort(key)
    for column in ours.columns:
        unlike = (~theirs[column].eq_missing(ours[column])).arg_true()
        for at in unlike:
            said, now = theirs[column][at], ours[column][at]
            if not _close(said, now):
                shown = f"{_short(said)} in the release, {_short(now)} from the nodes"
                return f"row {_named(theirs[at], key)}: {column} is {shown}"
    return ""


def _close(one: Any, other: Any) -> bool:
    """Whether two values are the same but for the last digits of floats; null is like null alone."""
    if isinstance(one, pl.Series) and isinstance(other, pl.Series):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return one == other


def _named(rows: pl.DataFrame, key: list[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in rows.select(key).row(0, named=True).items())


def _short(value: Any) -> str:
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

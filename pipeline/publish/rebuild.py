"""Builds rows of a release again from the nodes, verdicts and variants in it, and compares.

The forest is laid out as a store for a while; the very stages that built the rows run on it. Rows that a model was
asked for are held against what they were asked from. What is held is a shard.
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

from pipeline.builders.malt import ROLES
from pipeline.credit import METHODS
from pipeline.errors import BadConfig
from pipeline.hygiene.leaving import REDACT
from pipeline.publish.check import Compared
from pipeline.publish.folder import Folder
from pipeline.publish.sources import SOURCED, Sourced
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
    """A stage that is run again.

    table:  whose rows it makes.
    by:     column with the stage's name; empty: it is the module's STAGE.
    of:     rows that are its, where stages of several kinds share the table.
    ledger: rows are only ever added, so older ones may stand beside those that are built.
    """

    table: str
    module: str
    function: str
    config: str
    by: str = ""
    of: pl.Expr = pl.lit(True)
    ledger: bool = False


REMADE = (
    Remade(
        "step_labels", "pipeline.stages.step_labels", "write_step_labels", "StepLabelConfig", "labeller", ledger=True
    ),
    Remade("credit", "pipeline.stages.credit", "write_credit", "CreditConfig", "method"),
    Remade("pairs", "pipeline.stages.pairs", "write_pairs", "PairConfig"),
    Remade("patches", "pipeline.stages.patches", "write_patches", "PatchConfig"),
    Remade("prm_steps", "pipeline.stages.prm_steps", "write_prm_steps", "PrmStepsConfig", "labeller"),
    Remade("unpaired", "pipeline.stages.unpaired", "write_unpaired", "UnpairedConfig"),
    Remade("rl_prompts", "pipeline.stages.rl_prompts", "write_rl_prompts", "RlPromptConfig"),
    Remade("sessions", "pipeline.stages.sessions", "write_sessions", "SessionConfig"),
    Remade(
        "sft",
        "pipeline.stages.best_answers",
        "write_best_answers",
        "BestAnswerConfig",
        of=pl.col("role").is_null(),
    ),
    Remade("sft", "pipeline.stages.role_rows", "write_role_rows", "RoleRowConfig", of=pl.col("role").is_in(ROLES)),
    Remade(
        "rl_samples",
        "pipeline.stages.rl_samples",
        "write_rl_samples",
        "RlSampleConfig",
        "method",
        of=pl.col("group").is_null(),
    ),
    Remade(
        "rl_samples",
        "pipeline.stages.retry_rows",
        "write_retry_rows",
        "RetryRowConfig",
        of=pl.col("group").is_not_null(),
    ),
)
"""What follows from the forest, labels and credit before what reads them. A new stage is one entry."""
_FOREST = {"nodes": "", "verdicts": "", "variants": "", "scores": "name", "step_labels": "labeller"}
"""What they are built from, with the column that names the stage; empty: all of one stage."""
_ALWAYS = ("nodes", "verdicts", "credit")
"""Tables of which a stage wants a file of each shard, be it empty."""


def check_rebuilt(folder: Folder) -> Iterator[Compared]:
    """Every config that follows from the forest, built again; one finding a stage.

    Raises:
        BadConfig, BadTable: a stage refuses the forest.
    """
    there = [made for made in REMADE if made.table in folder.configs]
    why_not = _unbuildable(folder)
    if why_not:
        for table in dict.fromkeys(made.table for made in there):
            yield Compared(f"{table} from nodes", True, f"not built again: {why_not}")
        return
    with TemporaryDirectory(prefix="branchpoint-verify-") as place:
        work = _work(folder, Path(place))
        shards = _shards(folder, work)
        for table, by in _FOREST.items():
            for stage in _names(folder, table, by) if by else (ROLLOUTS,):
                _lay_out(folder, work, shards, table, stage, _where(by, stage))
        for made in there:
            for stage in _stages(folder, made):
                yield _compare_stage(folder, work, shards, made, stage)
        for rows in SOURCED:
            if rows.table in folder.configs:
                yield from _compare_sourced(folder, shards, rows)


def _unbuildable(folder: Folder) -> str:
    """Why nothing can be built again; empty where it can."""
    if not {"tasks", "nodes"} <= set(folder.configs):
        return "the release has no tasks or no nodes"
    if not folder.manifest.get("reading"):
        return "the manifest does not say how the suite's answers are read"
    versions = _names(folder, "verdicts", "version")
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
    if _hygiene(folder).get("policy") == REDACT:
        redacted = folder.read("hygiene", columns=["task", "withheld"]).drop_nulls()
        rows = rows.join(redacted, on="task", how="anti", maintain_order="left")
    found = []
    for name, tasks in shards_of(rows, size=work.suite.shard_tasks).items():
        work.store.write("tasks", tasks, Place(work.suite.name, EVERY_ROUND, "tasks", name), inputs={})
        found.append(_Shard(name, tasks["split"][0], tasks.select("task")))
    return found


def _stages(folder: Folder, made: Remade) -> list[str]:
    """The stages of a kind that made rows of a table."""
    if made.by:
        return _names(folder, made.table, made.by, of=made.of)
    stage = import_module(made.module).STAGE
    return [stage] if _said(folder, made.table, stage) or made.of.meta.is_literal() else []


def _names(folder: Folder, table: str, by: str, *, of: pl.Expr = pl.lit(True)) -> list[str]:
    """The names in a column, of some rows."""
    columns = tuple(dict.fromkeys((by, *of.meta.root_names())))
    read = (some for split in folder.splits(table) for some in folder.batches(table, split, columns=columns))
    return sorted({name for some in read for name in pl.DataFrame(some).filter(of)[by].unique()})


def _where(by: str, stage: str) -> pl.Expr:
    """The rows of a stage, by the column that names it."""
    return pl.col(by) == stage if by else pl.lit(True)


def _by_shard(
    folder: Folder, shards: list[_Shard], table: str, of: pl.Expr = pl.lit(True)
) -> Iterator[tuple[_Shard, pl.DataFrame]]:
    """Some of a table's released rows, shard by shard."""
    for split in SPLITS:
        here = [shard for shard in shards if shard.split == split]
        tasks = (shard.tasks.to_arrow() for shard in here)
        for shard, (_, (rows,)) in zip(here, beside(tasks, folder.batches(table, split)), strict=True):
            found = pl.DataFrame(schema=column_types(TABLES[table])) if rows is None else pl.from_arrow(rows)
            yield shard, found.join(shard.tasks, on="task", how="semi", maintain_order="left").filter(of)


def _lay_out(folder: Folder, work: Work, shards: list[_Shard], table: str, stage: str, of: pl.Expr) -> None:
    """Write released rows as if a stage had made them."""
    for shard, rows in _by_shard(folder, shards, table, of):
        if rows.height or table in _ALWAYS:
            work.store.write(table, rows, work.place(stage, shard.name), inputs={})


def _compare_stage(folder: Folder, work: Work, shards: list[_Shard], made: Remade, stage: str) -> Compared:
    table, of = made.table, made.of & _where(made.by, stage)
    what = f"{' '.join(dict.fromkeys((table, stage)))} from nodes"
    why_not = _run_again(folder, work, made, stage)
    if why_not:
        _lay_out(folder, work, shards, table, stage, of)
        return Compared(what, True, f"not built again: {why_not}")
    rows = 0
    for shard, released in _by_shard(folder, shards, table, of):
        built = work.store.read(table, [work.place(stage, shard.name)])
        difference = first_difference(table, released, built, ledger=made.ledger)
        if difference:
            return Compared(what, False, difference)
        rows += built.height
    return Compared(what, True, f"{rows:,} rows as the nodes give them")


def _labeller(folder: Folder, labels: str) -> str:
    """Whose labels were read. Of several shards the manifest has a digest alone, without the name.

    Raises:
        ValueError: it may be any of several.
    """
    labellers = _names(folder, "step_labels", "labeller")
    (read,) = [name for name in labellers if labels.startswith(f"{name} ")] or labellers
    return read


def _run_again(folder: Folder, work: Work, made: Remade, stage: str) -> str:
    """Let a stage make its rows of the forest as it did. Returns why it does not; empty: it did."""
    module, said = import_module(made.module), _said(folder, made.table, stage)
    if said.get("version") != module.VERSION:
        return f"made by version {said.get('version')} of the stage, this is {module.VERSION}"
    if made.table == "credit" and _hygiene(folder).get("rows") and _across_tasks(stage, said):
        return "it reads other tasks too, and some were withheld"
    try:
        getattr(module, made.function)(work, _config(getattr(module, made.config), made.table, stage, said, folder))
    except (ValueError, TypeError):
        return "its shards were made in different ways"
    except BadConfig as error:
        return error.culprit
    return ""


def _compare_sourced(folder: Folder, shards: list[_Shard], rows: Sourced) -> Iterator[Compared]:
    """Rows beside what they were asked from; nothing where there are none of the kind."""
    count, what = 0, f"{' '.join(dict.fromkeys((rows.table, rows.stage)))} from {rows.source}"
    sources = _by_shard(folder, shards, rows.source, rows.source_of)
    for (_, released), (_, asked) in zip(_by_shard(folder, shards, rows.table, rows.of), sources, strict=True):
        fault = rows.fault(released, asked)
        if fault:
            yield Compared(what, False, fault)
            return
        count += released.height
    if count:
        yield Compared(what, True, f"{count:,} rows fit the {rows.source}; what the model said was not asked again")


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
        of = {"labeller": _labeller(folder, said["labels"])} if "labels" in said else {}
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

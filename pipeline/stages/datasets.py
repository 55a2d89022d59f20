"""Stage: rows of the store as a dataset that a trainer loads: filtered, mixed, in the trainer's columns.

Two passes over the rows, batch by batch: the first counts and decides, the second writes. What is held between them
is some 20 bytes a row. Every row that is left out is counted under what left it out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.builders.mixture import balanced, lowest, row_keys, shared_out
from pipeline.builders.pair_figures import PairFigures
from pipeline.builders.recipe import Recipe, Source, check_recipe, read_filters, read_recipe
from pipeline.builders.row_filters import BALANCES, filter_rows
from pipeline.builders.shapes import SHAPES, Told
from pipeline.errors import BadConfig
from pipeline.hygiene.examine import ASKED, task_texts
from pipeline.hygiene.near import near_groups
from pipeline.hygiene.splits import held_out_groups
from pipeline.report import Report
from pipeline.stages.asked import told_of
from pipeline.stages.dataset_files import about_dataset, new_dataset, write_about
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.work import Work
from pipeline.store.layout import Place
from pipeline.tasks.suites import load_suite
from schemas import TABLES

STAGE = "build"
VERSION = "4"
BATCH_ROWS = 10_000
UNCLEAN, REPEATED, UNBALANCED, BEYOND = "unclean", "repeated", "unbalanced", "beyond_share"
_ID_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "answer_ids", "input_ids", "weights", "labels")


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """recipe: TOML file with shape, sources, filters, balance, clean, held_out; it stands in place of the options
    below. shape: whose columns the rows get: dpo, kto, sft, each as text or with _chat as messages, sft_tokens, prm,
    prm_soft, prm800k, math_shepherd, grpo, grpo_batch, verl_prompts or verl. filters: JSON object of filters by name,
    in the order in which they look at rows. balance: as many pairs whose chosen answer is the longer as pairs whose
    rejected one is; as many right as wrong answers. clean: leave out tasks that hygiene withholds. held_out: share of
    the tasks put aside as a split. folder: to write; empty: beside the releases.
    """

    recipe: str = ""
    shape: str = "dpo"
    filters: str = ""
    balance: bool = False
    clean: bool = False
    held_out: float = 0.0
    folder: str = ""


@dataclass(slots=True)
class _Part:
    """A source on its way: its rows counted, and what of those that passed the filters is decided by.

    keys, contents: `[N]` uint64. sides: `[N]` int8. kept: `[N]` bool.
    """

    source: Source
    work: Work
    places: list[Place]
    told: Told
    dropped: dict[str, int] = field(default_factory=dict)
    read: int = 0
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    contents: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    sides: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    def drop(self, why: str, kept: np.ndarray) -> None:
        """Keep no more than these."""
        self.dropped[why] = int((self.kept & ~kept).sum())
        self.kept &= kept

    def counted(self) -> dict[str, Any]:
        return {"name": self.source.name(), "read": self.read, "dropped": self.dropped, "kept": int(self.kept.sum())}


def write_dataset(work: Work, config: BuildConfig = BuildConfig()) -> Report:
    """Build a dataset from what the store holds; leave it where it was made from just this.

    Raises:
        BadConfig: the recipe cannot be built, no rows are there or left, or something else lies in the folder's place.
        BadTable: rows of a source were made from what is no longer in the store.
        StoreFull: the disk refused; what was in the folder is still there.
    """
    started, recipe = time.monotonic(), _recipe(config)
    folder = _folder(work, recipe, config.folder)
    parts = [_part(work, source, recipe) for source in recipe.sources]
    hygiene = _hygiene(parts) if recipe.clean or recipe.held_out else None
    made_from = _made_from(recipe, parts)
    about = about_dataset(folder)
    fresh = about is None or about.get("made_from") != made_from
    if fresh:
        about = _build(folder, recipe, parts, hygiene, made_from=made_from)
    return _report(work, recipe, about, fresh=fresh, seconds=time.monotonic() - started)


def _recipe(config: BuildConfig) -> Recipe:
    own = BuildConfig(recipe=config.recipe, folder=config.folder)
    if config.recipe and config != own:
        raise BadConfig(
            "--recipe is given and other options too", remedy="write them in the recipe, or leave the recipe out"
        )
    recipe = (
        read_recipe(Path(config.recipe))
        if config.recipe
        else Recipe(
            shape=config.shape,
            filters=read_filters(config.filters),
            balance=config.balance,
            clean=config.clean,
            held_out=config.held_out,
        )
    )
    check_recipe(recipe)
    return recipe


def _folder(work: Work, recipe: Recipe, asked: str) -> Path:
    """See `BuildConfig`. What is built beside takes the folder's place, so that it must have a name."""
    if not asked:
        return work.settings.release.parent / "datasets" / f"{work.suite.name}-{work.round}-{recipe.shape}"
    if Path(asked).name in ("", ".."):
        raise BadConfig(f"--folder {asked} does not name the dataset's folder", remedy="end it with a name")
    return Path(asked)


def _part(work: Work, source: Source, recipe: Recipe) -> _Part:
    source = msgspec.structs.replace(source, suite=source.suite or work.suite.name, round=source.round or work.round)
    suite = work.suite
    if source.suite != suite.name:
        suite = load_suite(source.suite, folder=work.settings.suites)
    of = replace(work, suite=suite, round=source.round)
    places = of.places(recipe.table, stage=source.stage or None)
    if not places:
        raise BadConfig(
            f"the store has no {recipe.table} of {source.name()}",
            remedy="run the stage that builds them first; `branchpoint tables` lists what there is",
        )
    refuse_replaced(of, recipe.table)
    return _Part(source, of, places, told_of(of))


def _hygiene(parts: list[_Part]) -> pl.DataFrame:
    """Columns `task`, `near_group`, `withheld` of all sources. What a round holds to be withheld is so in all of them.

    Raises:
        BadConfig: one of them was not examined.
    """
    found = []
    for part in parts:
        if not part.work.places("hygiene"):
            raise BadConfig(
                f"{part.source.suite}, round {part.source.round} was not examined",
                remedy=f"run `branchpoint hygiene --suite {part.source.suite} --round {part.source.round}` first",
            )
        refuse_replaced(part.work, "hygiene")
        found.append(
            part.work.store.read("hygiene", part.work.places("hygiene"), columns=("task", "near_group", "withheld"))
        )
    rows = pl.concat(found).group_by("task", maintain_order=True)
    return _grouped(parts, rows.agg(pl.col("near_group").first(), pl.col("withheld").drop_nulls().first()))


def _grouped(parts: list[_Part], hygiene: pl.DataFrame) -> pl.DataFrame:
    """The same, in groups over all suites: a group has the name of one suite's task."""
    suites = dict.fromkeys(part.source.suite for part in parts)
    if len(suites) < 2:
        return hygiene
    store = parts[0].work.store
    asked = pl.concat([store.tasks(suite).select("task", *ASKED) for suite in suites])
    near = near_groups(task_texts(hygiene.select("task").join(asked, on="task", how="left", maintain_order="left")))
    own = hygiene["near_group"].rank("dense").to_numpy() - 1
    count, places = len(hygiene), np.arange(len(hygiene))
    links = (np.concatenate([places, places]), np.concatenate([near.group, count + own]))
    size = 2 * count
    _, label = connected_components(coo_array((np.ones(2 * count), links), shape=(size, size)), directed=False)
    return hygiene.with_columns(pl.col("near_group").min().over(pl.Series(label[:count])))


def _made_from(recipe: Recipe, parts: list[_Part]) -> str:
    store = parts[0].work.store
    said: list[Any] = [VERSION, msgspec.to_builtins(recipe)]
    for part in parts:
        looked = part.work.places("hygiene") if recipe.clean or recipe.held_out else []
        said.append([part.source.name(), *(store.digest(recipe.table, place) for place in part.places)])
        said.append([store.digest("hygiene", place) for place in looked])
        said.append([part.told.separator, part.work.pack.digest, *_tasks(part)])
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _tasks(part: _Part) -> list[str]:
    """Digests of the tasks, whose words some shapes have."""
    store = part.work.store
    return [store.digest("tasks", place) for place in store.places("tasks", suite=part.source.suite)]


def _build(
    folder: Path, recipe: Recipe, parts: list[_Part], hygiene: pl.DataFrame | None, *, made_from: str
) -> dict[str, Any]:
    for part in parts:
        _look(part, recipe, hygiene)
    _decide(parts, recipe)
    _refuse_empty(parts)
    shape, aside, figures = SHAPES[recipe.shape], _aside(recipe, hygiene), PairFigures()
    with new_dataset(folder) as out:
        for number, part in enumerate(parts):
            at = 0
            for rows in _passing(part, recipe, hygiene):
                some = rows.filter(part.kept[at : at + len(rows)])
                at += len(rows)
                if recipe.table == "pairs":
                    figures.add(some)
                apart = some["task"].is_in(aside)
                for split, own in (("train", ~apart), ("held_out", apart)):
                    out.add(split, number, shape.shape(some.filter(own), part.told._replace(split=split)))
        about = {
            "recipe": msgspec.to_builtins(recipe),
            "table": recipe.table,
            "about": shape.about,
            "sources": [part.counted() for part in parts],
            "splits": dict(sorted(out.counts.items())),
            "preference": figures.figures(),
            "made_from": made_from,
        }
        out.finish(about)
        write_about(out, about)
    return about


def _aside(recipe: Recipe, hygiene: pl.DataFrame | None) -> list[str]:
    """Tasks of the split `held_out`."""
    if hygiene is None or not recipe.held_out:
        return []
    return hygiene.filter(
        pl.Series(held_out_groups(hygiene["near_group"].to_list(), share=recipe.held_out, seed=recipe.seed))
    )["task"].to_list()


def _passing(
    part: _Part, recipe: Recipe, hygiene: pl.DataFrame | None, *, count: bool = False
) -> Iterator[pl.DataFrame]:
    """The rows of a source that pass its filters, batch by batch."""
    withheld = [] if hygiene is None or not recipe.clean else hygiene.drop_nulls("withheld")["task"]
    shape = SHAPES[recipe.shape]
    for batch in part.work.store.batches(recipe.table, part.places, rows=BATCH_ROWS):
        read = pl.DataFrame(batch)
        rows = read.filter(~pl.col("task").is_in(withheld)) if recipe.clean else read
        dropped = {UNCLEAN: len(read) - len(rows)} if recipe.clean else {}
        for filters in (part.source.filters, recipe.filters):
            found = filter_rows(rows, recipe.table, filters)
            rows = found.rows
            dropped |= {name: dropped.get(name, 0) + lost for name, lost in found.dropped.items()}
        if shape.fits is not None:
            fitting = rows.filter(shape.fits(rows, part.told))
            dropped[shape.unfit], rows = len(rows) - len(fitting), fitting
        if count:
            part.read += len(read)
            for name, lost in dropped.items():
                part.dropped[name] = part.dropped.get(name, 0) + lost
        yield rows


def _look(part: _Part, recipe: Recipe, hygiene: pl.DataFrame | None) -> None:
    """The first pass over a source."""
    keys, contents, sides = [part.keys], [part.contents], [part.sides]
    side_of = BALANCES.get(recipe.table) if recipe.balance else None
    named = TABLES[recipe.table].primary_key()
    ids = [name for name in _ID_COLUMNS if name in TABLES[recipe.table].column_names()] + [*SHAPES[recipe.shape].apart]
    for rows in _passing(part, recipe, hygiene, count=True):
        names = rows.select(pl.concat_str(pl.col(named).cast(pl.String), separator="/")).to_series()
        keys.append(row_keys(names, seed=recipe.seed))
        contents.append(rows.select(ids).hash_rows().to_numpy())
        sides.append(np.zeros(len(rows), np.int8) if side_of is None else side_of(rows))
    part.keys, part.contents, part.sides = (np.concatenate(some) for some in (keys, contents, sides))
    part.kept = np.ones(len(part.keys), bool)


def _decide(parts: list[_Part], recipe: Recipe) -> None:
    """Which of the rows that passed are kept."""
    if recipe.distinct:
        first = np.zeros(sum(len(part.keys) for part in parts), bool)
        first[np.unique(np.concatenate([part.contents for part in parts]), return_index=True)[1]] = True
        for part, own in zip(parts, np.split(first, np.cumsum([len(part.keys) for part in parts])[:-1]), strict=True):
            part.drop(REPEATED, own)
    if recipe.balance:
        for part in parts:
            _thin(part, UNBALANCED, balanced(part.keys[part.kept], part.sides[part.kept]))
    if any(source.share for source in recipe.sources):
        counts = [int(part.kept.sum()) for part in parts]
        for part, count in zip(parts, shared_out(counts, [one.share for one in recipe.sources]), strict=True):
            _thin(part, BEYOND, lowest(part.keys[part.kept], count))


def _refuse_empty(parts: list[_Part]) -> None:
    """See `write_dataset`."""
    if any(part.kept.any() for part in parts):
        return
    dropped = {name: sum(part.dropped.get(name, 0) for part in parts) for part in parts for name in part.dropped}
    most = max(dropped, key=dropped.__getitem__, default="")
    why = f"{most} leaves out {dropped[most]:,}" if most and dropped[most] else "the store has none"
    raise BadConfig(
        f"no row of {parts[0].source.name()} is left: {why}", remedy="ask for less, or build more rows first"
    )


def _thin(part: _Part, why: str, chosen: np.ndarray) -> None:
    """Of the rows still kept, keep the chosen."""
    kept = np.zeros(len(part.kept), bool)
    kept[np.flatnonzero(part.kept)[chosen]] = True
    part.drop(why, kept)


def _report(work: Work, recipe: Recipe, about: dict[str, Any], *, fresh: bool, seconds: float) -> Report:
    sources, dropped = about["sources"], {}
    for source in sources:
        for name, lost in source["dropped"].items():
            dropped[name] = dropped.get(name, 0) + lost
    notes = tuple(
        f"{source['name']}: {source['read']:,} read, "
        + "".join(f"{lost:,} {name}, " for name, lost in source["dropped"].items())
        + f"{source['kept']:,} kept"
        for source in sources
    )
    splits = about["splits"]
    return Report(
        STAGE,
        work.suite.name,
        work.round,
        rows={f"{recipe.shape} {split}": count for split, count in splits.items()},
        numbers={"read": sum(source["read"] for source in sources), **dropped},
        fresh=int(fresh),
        shards=1,
        seconds=seconds,
        digest=about["made_from"],
        notes=notes,
    )

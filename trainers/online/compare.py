"""Recipes side by side, several seeds each, at equal decoded tokens: learning curves with intervals.

A run that is done is left alone, so a comparison that was cut off goes on, and one of more seeds adds to it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import BadConfig, check_counts
from pipeline.report import Report
from pipeline.stages.work import Work
from pipeline.statistics import difference_interval
from trainers.comparison_files import between, open_comparison, write_files
from trainers.online.judging import check_played
from trainers.online.recipe import load_recipe
from trainers.online.rounds import OnlineConfig, train_online
from trainers.online.warm_up import begun_from, warm_round
from trainers.online.watch import history, round_names
from trainers.stages import policy_name

STAGE = "online"
POINTS = 11
"""Places on the axis of tokens at which curves are read."""


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """recipes: names or files. seeds: runs of each. first_seed: the others count up from it. tokens: decoded that each
    run ends after. rounds: at most. changes: JSON object of fields that all recipes shall have otherwise. unanswered:
    share of a stage's requests that a round goes on without where the engine lost them and loses them again; they are
    not asked later. out: folder of the table and the picture.
    """

    recipes: tuple[str, ...] = ("grpo", "rloo")
    seeds: int = 5
    first_seed: int = 0
    tokens: int = 200_000
    rounds: int = 50
    changes: str = ""
    unanswered: float = 0.0
    out: str = "comparison"


class Curve(NamedTuple):
    """A run: `[K]` tokens decoded, seconds, and pass@1 (NaN where it was not measured), from before the first round."""

    tokens: np.ndarray
    seconds: np.ndarray
    passed: np.ndarray


def compare_recipes(work: Work, config: CompareConfig = CompareConfig()) -> Report:
    """Train every recipe with every seed, and write `curves.csv`, `curves.md` and `curves.png`.

    The first round of a run is called RECIPE-sSEED-ROUND, after the round of the work. Runs share nothing but the
    ledger, so several processes may make some each; one that is then asked for all finds them done.

    Raises:
        BadConfig: a recipe cannot be read or measures no pass@1, or a name is given twice.
    """
    check_counts(config, seeds=1, first_seed=0, tokens=1, rounds=1)
    names = [Path(name).stem for name in config.recipes]
    if len(set(names)) < len(names):
        raise BadConfig(f"recipes are {', '.join(names)}", remedy="name each once")
    for name in config.recipes:
        one = load_recipe(name, changes=config.changes)
        if not one.eval_samples or work.suite.environment is not None:
            raise BadConfig(
                f"recipe {name} measures no pass@1 on suite {work.suite.name}",
                remedy="set eval_samples above 0, on a suite that asks for answers",
            )
        if one.rows == "method":
            check_played(one.method, one.params_at(0), work.suite)
    open_comparison(Path(config.out), last_seed=config.first_seed + config.seeds - 1)
    started, curves = time.monotonic(), {}
    for seed in range(config.first_seed, config.first_seed + config.seeds):  # so that at any time all compare alike
        for name, recipe in zip(names, config.recipes, strict=True):
            first = replace(work, round=f"{name}-s{seed}-{work.round}")
            alike = {field: getattr(config, field) for field in ("rounds", "tokens", "changes", "unanswered")}
            asked = OnlineConfig(recipe, seed=seed, **alike)
            done = int(train_online(first, asked).numbers["rounds"])
            warmed = bool(load_recipe(recipe, changes=config.changes).start)
            curves[name, seed] = read_curve(first, done, warmed=warmed)
            write_comparison(curves, Path(config.out), tokens=config.tokens, suite=work.suite.name)
    last = table_of(curves, tokens=config.tokens).filter(pl.col("tokens") == config.tokens)
    report = Report("online-compare", work.suite.name, work.round, shards=len(curves), fresh=len(curves))
    report.numbers = dict(last.select("recipe", "pass@1").iter_rows())
    report.rows = {"curves": len(curves)}
    report.seconds = time.monotonic() - started
    return report


def read_curve(first: Work, rounds: int, *, warmed: bool = False) -> Curve:
    """A finished run from the store.

    Args:
        first: surroundings of its first round.
        rounds: that it has.
        warmed: there is a policy of its own before the first round, which took tokens too.
    """
    names = round_names(first.round, rounds)
    policies = [policy_name(replace(first, round=name), STAGE) for name in names]
    seen = history(first, names, policies)
    if warmed:
        warm, begun = warm_round(first.round), begun_from(first)
        before, spent, after = history(first, [warm, warm, names[0]], [first.policy.name, begun, begun])
        seen = [spent | after, *seen]
    else:
        (before,) = history(first, names[:1], [first.policy.name])
    passed = [one.get("pass@1") for one in (before, *seen)]
    return Curve(
        np.cumsum([0.0, *(one["decoded_tokens"] for one in seen)]),
        np.cumsum([0.0, *(one["seconds"] for one in seen)]),
        np.array([np.nan if value is None else value for value in passed], np.float64),
    )


def table_of(curves: dict[tuple[str, int], Curve], *, tokens: int) -> pl.DataFrame:
    """pass@1 of each recipe at equal decoded tokens, a mean over its seeds with a 95 % interval of Student's t.

    Between two measurements a curve is straight; after the last it stays.

    Returns:
        Columns `recipe`, `tokens`, `seeds`, `pass@1`, `low`, `high` (null with one seed).
    """
    grid, rows = np.linspace(0, tokens, POINTS), []
    for name in dict.fromkeys(name for name, _ in curves):
        runs = [curve for (one, _), curve in curves.items() if one == name]
        known = [~np.isnan(run.passed) for run in runs]
        read = [np.interp(grid, run.tokens[at], run.passed[at]) for run, at in zip(runs, known, strict=True)]
        for at, values in zip(grid, np.transpose(read), strict=True):
            rows.append((name, int(at), len(read), *difference_interval(list(values))))
    types = {"recipe": pl.String, "tokens": pl.Int64, "seeds": pl.Int64}
    return pl.DataFrame(rows, schema=types | dict.fromkeys(("pass@1", "low", "high"), pl.Float64), orient="row")


def write_comparison(curves: dict[tuple[str, int], Curve], out: Path, *, tokens: int, suite: str) -> None:
    """The table as CSV and Markdown, and the picture."""
    from trainers.online.picture import draw_curves

    table = table_of(curves, tokens=tokens)
    last = table.filter(pl.col("tokens") == tokens)
    lines = ["| recipe | seeds | tokens decoded | pass@1 | 95 % interval |", "|---|---|---|---|---|"]
    for row in last.iter_rows(named=True):
        interval = between(row["low"], row["high"])
        lines.append(f"| {row['recipe']} | {row['seeds']} | {row['tokens']:,} | {row['pass@1']:.3f} | {interval} |")
    draw = partial(draw_curves, table, curves, title=f"{suite}: pass@1 on held-out tasks")
    write_files(out, "curves", table=table, lines=lines, draw=draw)

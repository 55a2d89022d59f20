"""What variants are worth: success with a variant beside success without it, by task, with intervals; for print.

Nothing is drawn for it: every figure is of rows that the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

import polars as pl

from pipeline import show
from pipeline.comparison.ask import find_round
from pipeline.stages.verdicts import present
from pipeline.statistics import MeanInterval, difference_interval, share_interval
from pipeline.store.store import Store

KEY = ["tree", "node"]


class Line(NamedTuple):
    """A comparison over the tasks that have both sides.

    plain, variant: mean success over tasks, in [0, 1]. gain: mean difference within tasks; low, high: its 95 %
    interval. Of a share plain and gain are null, and the interval is the share's.
    """

    figure: str
    tasks: int
    plain: float | None
    variant: float | None
    gain: float | None
    low: float | None
    high: float | None


def ask_variants(store: Store, *, suite: str | None, round: str | None, as_json: bool, to: TextIO) -> None:
    """Print the comparisons of a round, a line each.

    Raises:
        BadConfig: there is no such round, or several.
    """
    varied, said = store.places("variants"), {"what": "variants", "command": "branchpoint retries"}
    suite, round = find_round(store, varied, suite=suite, round=round, **said)
    lines = variant_lines(store, suite=suite, round=round)
    if as_json:
        show.print_json(("suite", "round", *Line._fields), [(suite, round, *line) for line in lines], to=to)
        return
    if not lines:
        why = "the column dropped of the table variants says why"
        print(f"variants of suite {suite}, round {round}: none was carried out and judged; {why}", file=to)
        return
    print(f"variants of suite {suite}, round {round}; success by task, gains within tasks", file=to)
    show.print_table(
        ("figure", "tasks", "plain", "variant", "gain", "95 % interval"), [_cells(line) for line in lines], to=to
    )


def variant_lines(store: Store, *, suite: str, round: str) -> list[Line]:
    """The comparisons of a round; those that it has nothing for are left out."""
    of = {"suite": suite, "round": round}
    variants = store.read("variants", store.places("variants", **of))
    verdicts = present(store.read("verdicts", store.places("verdicts", **of))).select(*KEY, "reward")
    nodes = store.read("nodes", store.places("nodes", **of), columns=["task", *KEY, "origin"])
    judged = nodes.join(verdicts.unique(KEY, keep="last"), on=KEY)
    plain = judged.filter(pl.col("origin") == "sample")
    lines = [
        _retries(variants, plain),
        _interventions(variants),
        _regenerations(variants, judged),
        _roles(judged),
        *_summaries(variants, plain),
        *_rescues(variants, plain),
        *_parsed(variants),
    ]
    return [line for line in lines if line is not None and line.tasks]


def _retries(variants: pl.DataFrame, plain: pl.DataFrame) -> Line | None:
    """A retry of a failed attempt against the other samples of the task."""
    tried = _tried(variants, "retry")
    sources = tried.select("tree", node="source_leaf")
    others = plain.join(sources, on=KEY, how="anti").group_by("task").agg(plain=pl.col("reward").mean())
    return _line("retry after reflection against another sample", _means(tried).join(others, on="task"))


def _interventions(variants: pl.DataFrame) -> Line | None:
    """Continuations of the edited step against those of the original, from the same prefix."""
    both = _tried(variants, "intervention").drop_nulls("without_count")
    without = both.group_by("task").agg(plain=(pl.col("without_successes") / pl.col("without_count")).mean())
    return _line("edited step against the original one", _means(both).join(without, on="task"))


def _regenerations(variants: pl.DataFrame, judged: pl.DataFrame) -> Line | None:
    """A rejected version against the one drawn anew after the cut."""
    tried = _tried(variants, "regeneration")
    sources = tried.join(judged.select(*KEY, "reward"), left_on=["tree", "source_leaf"], right_on=KEY)
    before = sources.group_by("task").agg(plain=pl.col("reward").mean())
    return _line("revision against the rejected version", _means(sources).join(before, on="task"))


def _roles(judged: pl.DataFrame) -> Line | None:
    """What the third role answers against what the first does."""
    by_role = [
        judged.filter(pl.col("origin") == origin).group_by("task").agg(pl.col("reward").mean().alias(name))
        for origin, name in (("generate", "plain"), ("refine", "variant"))
    ]
    return _line("three roles against the first alone", by_role[0].join(by_role[1], on="task"))


def _summaries(variants: pl.DataFrame, plain: pl.DataFrame) -> Iterable[Line | None]:
    """Forced answers at each budget against the whole attempts."""
    cut = _tried(variants, "summary")
    for (budget,), at in sorted(cut.group_by("budget"), key=lambda group: group[0]):
        whole = at.join(plain.select(*KEY, "reward"), left_on=["tree", "source_leaf"], right_on=KEY)
        means = whole.group_by("task").agg(plain=pl.col("reward").mean())
        yield _line(f"answer forced within {budget} tokens against the whole", _means(whole).join(means, on="task"))


def _rescues(variants: pl.DataFrame, plain: pl.DataFrame) -> Iterable[Line | None]:
    """Of the tasks without a success among plain samples, the share that gains its first."""
    lost = plain.group_by("task").agg(pl.col("reward").max()).filter(pl.col("reward") < 1).select("task")
    arms = (
        ("retry", "with", "retries"),
        ("intervention", "without", "continuations of the original step"),
        ("intervention", "with", "continuations of the edited step"),
        ("regeneration", "with", "revisions"),
        ("refinement", "with", "roles"),
    )
    for kind, arm, name in arms:
        tried = variants.filter(pl.col("kind") == kind).drop_nulls(f"{arm}_count").join(lost, on="task", how="semi")
        gained = tried.group_by("task", maintain_order=True).agg(
            (pl.col(f"{arm}_successes") > 0).any().cast(pl.Float64)
        )
        draws = tried[f"{arm}_count"].sum() / max(1, gained.height)
        yield _share(f"unsolved tasks: first success by {name} ({draws:.1f} a task)", gained[f"{arm}_successes"])


def _parsed(variants: pl.DataFrame) -> Iterable[Line | None]:
    """The share of JSON answers that could be read, by kind."""
    asked = variants.drop_nulls("parsed")
    for (kind,), rows in sorted(asked.group_by("kind"), key=lambda group: group[0]):
        by_task = rows.group_by("task", maintain_order=True).agg((pl.col("parsed") != "failed").mean())
        yield _share(f"{kind}: JSON that could be read", by_task["parsed"])


def _tried(variants: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The variants of a kind that were carried out and judged."""
    return variants.filter(pl.col("kind") == kind).drop_nulls("with_count")


def _means(tried: pl.DataFrame) -> pl.DataFrame:
    """Success of each task's variants."""
    return tried.group_by("task").agg(variant=(pl.col("with_successes") / pl.col("with_count")).mean())


def _line(figure: str, by_task: pl.DataFrame) -> Line | None:
    """A comparison of the columns plain and variant."""
    if by_task.is_empty():
        return None
    rows = by_task.sort("task")
    gain = difference_interval((rows["variant"] - rows["plain"]).to_list())
    return Line(figure, rows.height, rows["plain"].mean(), rows["variant"].mean(), *gain)


def _share(figure: str, by_task: pl.Series) -> Line | None:
    share: MeanInterval = share_interval(by_task.to_list())
    return None if share.mean is None else Line(figure, len(by_task), None, share.mean, None, share.low, share.high)


def _cells(line: Line) -> Sequence[str]:
    plain, variant, gain = ("-" if value is None else f"{value:.3f}" for value in line[2:5])
    interval = "-" if line.low is None else f"{line.low:.3f} to {line.high:.3f}"
    return (line.figure, str(line.tasks), plain, variant, gain, interval)

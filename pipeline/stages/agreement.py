"""Stage: the credit report. Every credit method and labeller of a round on one and the same forest.

Measures agreement with the exact oracle of arithmetic steps, where tasks are sums; how alike methods are, how much
they say, how much of it is chance, and what they cost. The oracle is used here and nowhere upstream.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.comparison.lines import Figure
from pipeline.credit_report import SPEARMAN
from pipeline.credit_report.anew import credit_anew, label_anew
from pipeline.credit_report.calibration import calibration_error, hide_continuations
from pipeline.credit_report.cost import extra_tokens, passes_a_token, per_thousand
from pipeline.credit_report.lines import lines_of
from pipeline.credit_report.picture import draw_report
from pipeline.credit_report.scores import (
    degenerate_share,
    first_error_accuracy,
    oracle_auc,
    rank_correlations,
    zero_share,
)
from pipeline.credit_report.spread import resample_attempts, resample_spread
from pipeline.labels import LABELLERS
from pipeline.report import Report
from pipeline.stages.earlier import refuse_replaced, rollout_shards
from pipeline.stages.side_by_side import TABLES, Slice, Source, joined, numbered, read_sources, slices, some_tasks
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.write import disk_errors
from schemas import Evals
from schemas.base import column_types

STAGE = "agreement"
VERSION = "3"
SPLIT = "train"
MOST_TASKS = 2048
"""Tasks looked at; of a larger round as many, evenly over it. So memory is bounded: one shard, and the scores."""
SPREAD_TASKS, SPREAD_DRAWS = 32, 16


def write_agreement(work: Work) -> Report:
    """The credit report of the round, as rows of evaluations; no oracle, no figures against it.

    Raises:
        BadTable: there are no rollouts, or a table was made before they changed.
    """
    by_shard = rollout_shards(work)
    for table in TABLES:
        refuse_replaced(work, table)
    found = {table: work.places(table) for table in ("nodes", "verdicts", *TABLES)}
    made_from = inputs(
        VERSION,
        **{table: " ".join(work.store.digest(table, place) for place in places) for table, places in found.items()},
    )
    shards = Shards(work, STAGE, ("evals",))
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        rows = [
            {"policy": policy, "suite": work.suite.name, "split": SPLIT, "metric": metric, **figure._asdict()}
            for (policy, metric), figure in measured(work, by_shard).items()
        ]
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    evals = shards.read("evals").filter(pl.col("metric") == "oracle_auc").sort(-pl.col("value"), "policy")
    report = shards.finish(**dict(evals.select("policy", "value").iter_rows()))
    report.notes = ("figures: AUC against the oracle of steps; `branchpoint report credit` has the others",)
    return report


def draw_agreement(work: Work) -> Path:
    """Draw the round's report into the store's folder of this machine.

    Returns:
        The picture.
    """
    path = work.store.files.local / "pictures" / work.suite.name / work.round / "credit.png"
    with disk_errors(path, setting="BRANCHPOINT_STORE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        title = f"{work.suite.name}, round {work.round}"
        draw_report(lines_of(work.store.read("evals", work.places("evals", stage=STAGE))), path, title=title)
    return path


def measured(work: Work, by_shard: dict[str, pl.DataFrame]) -> dict[tuple[str, str], Figure]:
    """Every figure of the report, by policy and metric."""
    sources = read_sources(work)
    names = [source.policy for source in sources]
    parts, sampled, calibrated = [], [], [_Calibrated() for _ in sources]
    spent, seen = _Spent(), 0
    chosen = min(MOST_TASKS, sum(tasks.height for tasks in by_shard.values()))
    for part in slices(work, sources, by_shard, most=MOST_TASKS):
        parts.append(numbered(part, names, before=sum(len(scores.task) for scores in parts)))
        spent.add(part)
        _calibrate(part.nodes, sources, calibrated)
        sampled.append(some_tasks(part, names, every=ceil(chosen / SPREAD_TASKS), before=seen))
        seen += part.nodes["task"].n_unique()
    scores = joined(parts)
    figures: dict[tuple[str, str], Figure | None] = {}
    for number, source in enumerate(sources):
        say = {
            "oracle_auc": oracle_auc(scores, number),
            "first_error_accuracy": first_error_accuracy(scores, number, zero_is_wrong=source.table == "step_labels"),
            "calibration_error": calibrated[number].figure(),
            "degenerate_share": degenerate_share(scores, number),
        }
        zeros = zero_share(scores, number)
        if source.table == "credit":
            say["zero_share"] = zeros
        say["extra_tokens_per_1k"] = per_thousand(spent.tokens(source), zeros.count)
        say["extra_passes_per_1k"] = per_thousand(spent.passes(source), zeros.count)
        figures |= {(source.policy, metric): figure for metric, figure in say.items()}
    for (one, other), figure in rank_correlations(scores).items():
        figures[sources[one].policy, SPEARMAN + sources[other].policy] = figure
    figures |= {(policy, "resample_spread"): figure for policy, figure in _spread(sampled, sources).items()}
    return {key: figure for key, figure in figures.items() if figure is not None}


class _Spent:
    """What sources took beyond the plain attempts, shard after shard; None: not known."""

    def __init__(self):
        self._decoded, self._labels, self._read = Counter(), Counter(), Counter()

    def add(self, part: Slice) -> None:
        self._decoded.update(part.decoded)
        self._labels.update(part.labels)
        self._read.update(part.read)

    def tokens(self, source: Source) -> float | None:
        """Decoded."""
        if not self._known(source):
            return None
        labels = self._labels[source.labeller]
        if source.method is None:
            return labels
        return extra_tokens(source.method, self._decoded, labels=labels, scored=source.scored)

    def passes(self, source: Source) -> float | None:
        """Over each token that the source looks at, summed."""
        times = passes_a_token(source.scored, source.labeller) if self._known(source) else None
        return None if times is None else times * self._read[source.policy]

    def _known(self, source: Source) -> bool:
        """Whether it is ours, and the labels it is made from are there."""
        if source.table == "step_labels":
            return source.stage in LABELLERS
        return source.method is not None and (not source.labeller or source.labeller in self._labels)


class _Calibrated:
    """Values of a source and what came of them, shard after shard."""

    def __init__(self):
        self._values: list[np.ndarray] = []
        self._outcomes: list[np.ndarray] = []

    def add(self, value: np.ndarray, outcome: np.ndarray) -> None:
        self._values.append(value)
        self._outcomes.append(outcome)

    def figure(self) -> Figure | None:
        if not self._values:
            return None
        return calibration_error(np.concatenate(self._values), np.concatenate(self._outcomes))


def _calibrate(nodes: pl.DataFrame, sources: list[Source], calibrated: list[_Calibrated]) -> None:
    """Run once more what gives chances, on trees of which continuations are hidden."""
    valued = [number for number, source in enumerate(sources) if source.valued]
    hidden = hide_continuations(nodes) if valued else None
    if hidden is None or np.isnan(hidden.outcome).all():
        return
    rest = nodes.filter(pl.Series(hidden.kept))
    for labeller in sorted({sources[number].labeller for number in valued} - {""}):
        rest = label_anew(rest, labeller)
    outcome = hidden.outcome[hidden.kept]
    steps = ~np.isnan(outcome)
    for number in valued:
        source = sources[number]
        if source.method is None:
            value = rest[f"soft:{source.labeller}"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        elif said := credit_anew(rest, source.method, source.params, labeller=source.labeller):
            value = said.value
        else:
            continue
        calibrated[number].add(value[steps], outcome[steps])


def _spread(sampled: list[pl.DataFrame], sources: list[Source]) -> dict[str, Figure]:
    """How much the credit of every method moves where attempts are drawn anew; labellers look at one at a time."""
    nodes = pl.concat(sampled)
    resampled = resample_attempts(nodes, draws=SPREAD_DRAWS, seed=0)
    bounds = np.searchsorted(resampled.draw, np.arange(SPREAD_DRAWS + 1))
    found = {}
    for source in sources:
        if source.method is None:
            continue
        whole = [(0, len(resampled.nodes))]
        batches = pairwise(bounds) if source.method.across_tasks(source.params) else whole
        said = [
            credit_anew(resampled.nodes[int(a) : int(b)], source.method, source.params, labeller=source.labeller)
            for a, b in batches
        ]
        if all(said):
            stored = nodes[source.policy].cast(pl.Float64).fill_null(np.nan).to_numpy()
            found[source.policy] = resample_spread(np.concatenate([one.advantage for one in said]), resampled, stored)
    return found

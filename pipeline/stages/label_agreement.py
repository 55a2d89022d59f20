"""Stage: the label report. Every labeller of a round beside the others and the exact oracle of arithmetic steps.

The oracle is used here and nowhere upstream.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from pipeline.comparison.lines import Figure
from pipeline.errors import BadTable
from pipeline.label_report import KAPPA
from pipeline.label_report.lines import lines_of
from pipeline.label_report.measure import auc_figure, first_error_figure, kappa_figure
from pipeline.label_report.picture import draw_labels
from pipeline.labels.ledger import newest
from pipeline.report import Report
from pipeline.stages.earlier import ROLLOUTS, refuse_replaced, rollout_shards
from pipeline.stages.side_by_side import oracle_steps
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.write import disk_errors
from schemas import Evals
from schemas.base import column_types

STAGE = "label_agreement"
VERSION = "1"
SPLIT = "train"
MOST_TASKS = 2048
"""Tasks looked at, evenly over the round: memory is bounded by their attempts."""
_NODES = ("task", "tree", "node", "parent", "text", "finish", "kind")


def write_label_agreement(work: Work) -> Report:
    """The label report of the round, as rows of evaluations; no oracle, no figures against it.

    Raises:
        BadTable: there are no rollouts or no labels, or labels were made before they changed.
    """
    by_shard = rollout_shards(work)
    refuse_replaced(work, "step_labels")
    labelled = work.places("step_labels")
    if not labelled:
        raise BadTable(
            f"round {work.round} of {work.suite.name} has no step labels",
            remedy=f"run `branchpoint step-labels --suite {work.suite.name} --round {work.round}` first",
        )
    tables = {"nodes": work.places("nodes", stage=ROLLOUTS), "step_labels": labelled}
    digests = {table: " ".join(work.store.digest(table, place) for place in some) for table, some in tables.items()}
    names = sorted({place.stage for place in labelled})
    made_from = inputs(VERSION, labellers=" ".join(names), **digests)
    shards = Shards(work, STAGE, ("evals",))
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        rows = [
            {"policy": f"step_labels/{labeller}", "suite": work.suite.name, "split": SPLIT, "metric": metric}
            | figure._asdict()
            for (labeller, metric), figure in measured(work, by_shard, names).items()
        ]
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    evals = shards.read("evals").filter(pl.col("metric") == "oracle_kappa")
    kappas = dict(evals.select(pl.col("policy").str.strip_prefix("step_labels/"), "value").iter_rows())
    report = shards.finish(**kappas)
    report.notes = ("figures: Cohen's kappa with the oracle of steps; `branchpoint report labels` has the others",)
    return report


def draw_label_agreement(work: Work) -> Path:
    """Draw the round's report into the store's folder of this machine. Returns the picture."""
    path = work.store.files.local / "pictures" / work.suite.name / work.round / "labels.png"
    with disk_errors(path, setting="BRANCHPOINT_STORE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = lines_of(work.store.read("evals", work.places("evals", stage=STAGE)))
        draw_labels(lines, path, title=f"{work.suite.name}, round {work.round}")
    return path


def beyond_chance(work: Work) -> tuple[bool, str]:
    """Whether every labeller that the oracle can be held against agrees with it beyond chance, and who does not."""
    lines = lines_of(work.store.read("evals", work.places("evals", stage=STAGE)))
    known = {line.name: line.figures["oracle_kappa"] for line in lines if "oracle_kappa" in line.figures}
    poor = [name for name, figure in known.items() if figure.low is not None and figure.low <= 0]
    if poor:
        return False, f"no better than chance against the oracle: {', '.join(sorted(poor))}"
    return True, f"{len(known)} labellers agree with the oracle beyond chance" if known else "no task is a sum"


def measured(work: Work, by_shard: dict[str, pl.DataFrame], names: list[str]) -> dict[tuple[str, str], Figure]:
    """Every figure of the report, by labeller and metric."""
    steps, tokens = _steps(work, by_shard, names)
    unique = steps.unique(["tree", "node"], keep="first", maintain_order=True)
    task, right = unique["task"].rle_id().to_numpy().astype(np.int64), _numbers(unique["right"])
    lengths = steps.select(pl.struct("tree", "attempt").rle()).to_series().struct.field("len").to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    of_attempt = steps["task"].rle_id().to_numpy().astype(np.int64)[offsets[:-1]]
    hard = {name: _numbers(unique[f"hard:{name}"]) for name in names}
    judged = not np.isnan(right).all()
    found: dict[tuple[str, str], Figure] = {}
    for name in names:
        soft = _numbers(unique[f"soft:{name}"])
        told = ~np.isnan(soft) | ~np.isnan(hard[name])
        count = int(told.sum())
        if judged:
            found[name, "label_auc"] = auc_figure(soft, right, task)
            found[name, "first_error_f1"] = first_error_figure(
                _numbers(steps[f"hard:{name}"]), _numbers(steps["right"]), offsets, of_attempt
            )
            found[name, "oracle_kappa"] = kappa_figure(hard[name], right, task)
        found[name, "labelled_share"] = Figure(count / max(1, len(told)), len(told))
        found[name, "undecided_share"] = Figure(float(np.isnan(hard[name][told]).mean()) if count else None, count)
        found[name, "tokens_per_label"] = Figure(tokens[name] / count if count else None, count)
        for other in names:
            if other != name:
                found[name, KAPPA + other] = kappa_figure(hard[name], hard[other], task)
    return found


def _steps(work: Work, by_shard: dict[str, pl.DataFrame], names: list[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """The steps of attempts with what the oracle and each labeller say, and tokens decoded for each one's labels."""
    store, parts, tokens = work.store, [], dict.fromkeys(names, 0)
    every = max(1, -(-sum(tasks.height for tasks in by_shard.values()) // MOST_TASKS))
    done = 0
    for shard, tasks in by_shard.items():
        chosen = tasks["task"].gather_every(every, offset=-done % every)
        done += tasks.height
        here = pl.col("task").is_in(chosen.implode())
        nodes = store.read("nodes", [work.place(ROLLOUTS, shard)], columns=_NODES).filter(here)
        steps = oracle_steps(nodes, dict(tasks.select("task", "question").iter_rows()))
        steps = steps.join(nodes.select("task", "tree", "node"), on=["tree", "node"], how="left", maintain_order="left")
        for name in names:
            rows = newest(store.read("step_labels", [work.place(name, shard)]).filter(here))
            tokens[name] += int(rows["tokens"].sum() or 0)
            beside = rows.select("tree", "node", **{f"{said}:{name}": pl.col(said) for said in ("hard", "soft")})
            steps = steps.join(beside, on=["tree", "node"], how="left", maintain_order="left")
        parts.append(steps)
    return pl.concat(parts), tokens


def _numbers(values: pl.Series) -> np.ndarray:
    return values.cast(pl.Float64).fill_null(np.nan).to_numpy()

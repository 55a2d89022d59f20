"""Stage: a process reward model on held-out solutions: does it find the first wrong step, does it choose well?

The oracle of sums, or the labels of a file, are used here and nowhere upstream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.credit.ragged import rows_of
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engines import engine_fingerprint
from pipeline.labels.prm import Prm, find_prm
from pipeline.metrics.best_of_n import SELECTORS, chosen_rewards
from pipeline.metrics.processbench import best_threshold, f1_interval, first_below, report
from pipeline.metrics.processbench_files import processbench_files
from pipeline.metrics.rewardmath import reward_math, solution_scores
from pipeline.report import Progress, Report
from pipeline.stages.held_out import Solutions, filed_solutions, sampled_solutions
from pipeline.stages.tasks import note_empty
from pipeline.stages.work import Shards, Work, inputs
from pipeline.statistics import MeanInterval, auc_interval, difference_interval, share_interval
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from schemas import Evals
from schemas.base import column_types

VERSION = "1"
SPLIT = "held_out"
AGGREGATIONS = ("min", "prod", "last")
"""From the scores of steps to that of an answer that is chosen by it."""
TUNED_ON = 5
"""Every so manieth task says which threshold is best; figures are of the others."""
TUNED_SUBSET = "gsm8k"
"""Of ProcessBench, the subset whose threshold is kept for all."""
QUANTILES = 200
SHOWN = ("first_error_f1", "threshold", "step_auc", "rewardmath_mrr min")
SHOWN_CHOICES = ("best_min", "best_prod", "weighted_min", "majority", "pass", "best_min less majority")
"""Of the figures, what a report shows."""


@dataclass(frozen=True, slots=True)
class PrmEvalConfig:
    """prm: name, or folder of a process reward model. samples: answers a task. file: ProcessBench's .json, or a folder
    of several, in place of answers to held-out tasks. threshold: chance of being right below which a step counts as
    wrong; none: the best on some of the tasks, which no figure is of.
    """

    prm: str = ""
    samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    file: str = ""
    threshold: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a model says of solutions.

    scores:      `[P]` float64, chance that each step is right, solution after solution; NaN: none.
    threshold:   in force.
    predictions: `[M]` float64, place of the first step below it, -1 where there is none; NaN: there are no steps.
    counted:     `[M]` bool: figures are of these; the others chose the threshold.
    """

    scores: np.ndarray
    threshold: float
    predictions: np.ndarray
    counted: np.ndarray


Figures = dict[str, tuple[MeanInterval, int]]
"""By metric: value with interval, and how many solutions, steps or tasks are behind it."""


def write_prm_evals(work: Work, config: PrmEvalConfig = PrmEvalConfig()) -> Report:
    """Measure a model on the suite's held-out tasks, or on a file; where there are none, nothing is measured.

    Raises:
        BadConfig: the store has no tasks of the suite, or the threshold is no chance.
        BadInput: the file cannot be read.
        BadModel: there is no such model, or it does not know the tokens.
    """
    check_counts(config, samples=1)
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise BadConfig(f"threshold {config.threshold} is no chance", remedy="give one from 0 to 1")
    prm = find_prm(config.prm, policies=work.settings.policies)
    if not config.file and work.store.tasks(work.suite.name, split=SPLIT).is_empty() and work.shards():
        return Report(
            f"prm-{prm.name}", work.suite.name, work.round, rows={"evals": 0}, notes=(note_empty(work.suite, SPLIT),)
        )
    source = _file_inputs(config.file) if config.file else task_inputs(work)
    made_from = inputs(VERSION, config=config, prm=prm.fingerprint, prompts=work.pack.digest, **source)
    stage = f"prm-{prm.name}" + (f"-{Path(config.file).stem}" if config.file else "")
    shards = Shards(work, stage, ("evals",))
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        if config.file:
            solutions = filed_solutions(work, Path(config.file))
        else:
            sampling = {"temperature": config.temperature, "top_p": config.top_p}
            solutions = sampled_solutions(work, held_out_tasks(work), samples=config.samples, **sampling)
        judged = judge_solutions(work, prm, solutions, threshold=config.threshold)
        figures = step_figures(solutions, judged)
        if not config.file and config.samples > 1:
            figures |= choice_figures(solutions, judged)
        suite = Path(config.file).stem if config.file else work.suite.name
        rows = figure_rows(figures, policy=f"prm/{prm.name}", suite=suite)
        shards.write(name, parts, missed=solutions.missed, evals=rows)
    evals = dict(shards.read("evals").select("metric", "value").iter_rows())
    wanted = [*SHOWN, *(f"{name}@{config.samples}" for name in SHOWN_CHOICES)]
    if config.file:
        wanted = [name for name in evals if name.startswith("first_error_f1")] + ["threshold", "step_auc"]
    return shards.finish(**{name: evals[name] for name in wanted if name in evals})


def held_out_tasks(work: Work) -> pl.DataFrame:
    """The suite's held-out tasks.

    Raises:
        BadConfig: there are none.
    """
    return pl.concat(work.shards(SPLIT).values())


def task_inputs(work: Work) -> dict[str, str]:
    """What answers to held-out tasks are made from."""
    return {
        "policy": engine_fingerprint(work.engine, work.policy),
        "tasks": " ".join(work.store.tasks_digest(work.suite.name, shard) for shard in work.shards(SPLIT)),
        "reading": f"{work.suite.max_tokens} {work.suite.separator!r}",
        "verifier": VERIFIER_VERSION,
    }


def judge_solutions(work: Work, prm: Prm, solutions: Solutions, *, threshold: float | None = None) -> Judged:
    """Score every step, and name the first wrong one of each solution.

    Args:
        threshold: None: chosen on every TUNED_ON-th task, or where there is a subset TUNED_SUBSET, on that.
    """
    from pipeline.labels.prm_model import score_steps

    total = len(solutions.task)
    say = partial(Progress, f"prm-evals {prm.name}", "solutions")
    scores = score_steps(
        prm,
        solutions.input_ids,
        solutions.step_ends,
        on_progress=lambda done: work.on_progress(say(done, total, 0, 0, 0.0)),
    )
    offsets, counted = solutions.offsets, np.ones(total, bool)
    if threshold is None and not np.isnan(solutions.label).all():
        tuned = (
            (solutions.subset == TUNED_SUBSET) if TUNED_SUBSET in solutions.subset else solutions.task % TUNED_ON == 0
        )
        if TUNED_SUBSET not in solutions.subset:
            counted = ~tuned
        threshold = tuned_threshold(scores, solutions, tuned)
    threshold = 0.5 if threshold is None else threshold
    predictions = np.where(np.diff(offsets) > 0, first_below(scores, offsets, threshold), np.nan)
    return Judged(scores, threshold, predictions, counted)


def tuned_threshold(scores: np.ndarray, solutions: Solutions, some: np.ndarray) -> float:
    """The threshold with the best F1 on some solutions, among the quantiles of their scores; 0.5 where their labels
    are not of both kinds.

    Args:
        scores: `[P]` of all steps. some: `[M]` bool.
    """
    use = some & ~np.isnan(solutions.label)
    labels = solutions.label[use].astype(np.int64)
    if not (labels >= 0).any() or not (labels < 0).any():
        return 0.5
    steps = use[rows_of(solutions.offsets)]
    offsets = np.concatenate(([0], np.cumsum(np.diff(solutions.offsets)[use])))
    candidates = np.unique(np.nanquantile(scores[steps], np.linspace(0, 1, QUANTILES + 1)))
    # Between two scores, so that a step that is just as high as those seen is not taken for lower.
    middles = np.append((candidates[1:] + candidates[:-1]) / 2, 0.5)
    return best_threshold(scores[steps], offsets, labels=labels, candidates=middles)


def step_figures(solutions: Solutions, judged: Judged) -> Figures:
    """How well steps are judged: F1 of the first wrong one, over all and by subset, and the AUC of right steps against
    first wrong ones. Intervals are over tasks."""
    use = judged.counted & ~np.isnan(solutions.label)
    labels, predictions = solutions.label[use].astype(np.int64), judged.predictions[use]
    count = int(use.sum())
    if not count:
        return {}
    found: Figures = {"first_error_f1": (f1_interval(labels, predictions, solutions.task[use]), count)}
    by_subset = report(labels, predictions, solutions.subset[use])
    for subset, score in by_subset.scores.items():
        number = int((solutions.subset[use] == subset).sum())
        for name, value in score._asdict().items():
            found[f"first_error_{name.removesuffix('_accuracy')} {subset}"] = (_alone(value / 100), number)
    found["first_error_f1 mean of subsets"] = (_alone(by_subset.mean_f1 / 100), count)
    found["threshold"] = (_alone(judged.threshold), count)
    of, place = rows_of(solutions.offsets), np.arange(len(judged.scores))
    step, label = place - solutions.offsets[of], solutions.label[of]
    seen = use[of] & ~np.isnan(judged.scores) & ((label < 0) | (step <= label))
    area = auc_interval(judged.scores[seen], (step != label)[seen], solutions.task[of][seen])
    found["step_auc"] = (area, int(seen.sum()))
    return found


def choice_figures(solutions: Solutions, judged: Judged) -> Figures:
    """How well answers are chosen: best-of-n, weighted and plain majority vote and pass@n over all tasks, for n in
    powers of two; and RewardMATH's figures, of the first right answer of a task against its wrong ones."""
    tasks = int(solutions.task.max()) + 1
    rewards, answers = (column.reshape(tasks, -1) for column in (solutions.reward, solutions.answer))
    found: Figures = {}
    number = rewards.shape[1]
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= number]
    for aggregation in AGGREGATIONS:
        scores = solution_scores(judged.scores, solutions.offsets, aggregation=aggregation)
        for size in sizes:
            choose = partial(chosen_rewards, rewards, answers, scores.reshape(tasks, -1), size=size)
            earned = {selector: choose(selector=selector) for selector in SELECTORS}
            names = {"best": f"best_{aggregation}", "weighted": f"weighted_{aggregation}", "oracle": "pass"}
            for selector, values in earned.items():
                found[f"{names.get(selector, selector)}@{size}"] = _share(values)
            for selector in ("best", "weighted"):
                gain = earned[selector] - earned["majority"]
                count = int((~np.isnan(gain)).sum())
                found[f"{names[selector]} less majority@{size}"] = (difference_interval(list(gain)), count)
        found |= _reward_math(solutions, scores, aggregation)
    return found


def figure_rows(figures: Figures, *, policy: str, suite: str) -> pl.DataFrame:
    """Rows of the evals table."""
    rows = [
        {"policy": policy, "suite": suite, "split": SPLIT, "metric": metric, "count": count}
        | {"value": found.mean, "low": found.low, "high": found.high}
        for metric, (found, count) in figures.items()
    ]
    return pl.DataFrame(rows, schema=column_types(Evals), orient="row")


def _reward_math(solutions: Solutions, scores: np.ndarray, aggregation: str) -> Figures:
    right, wrong = solutions.reward >= 1, solutions.reward < 1
    first, places = np.zeros(len(right), bool), np.flatnonzero(right)
    first[places[np.unique(solutions.task[places], return_index=True)[1]]] = True
    both = np.isin(solutions.task, solutions.task[first]) & np.isin(solutions.task, solutions.task[wrong])
    use = (first | wrong) & both
    if not use.any():
        return {}
    codes = np.unique(solutions.task[use], return_inverse=True)[1]
    found = reward_math(scores[use], first[use], codes, aggregation=aggregation)
    count = int((~np.isnan(found.per_task_mrr)).sum())
    hits = np.where(np.isnan(found.per_task_mrr), np.nan, found.per_task_mrr == 1)
    return {
        f"rewardmath_accuracy {aggregation}": (share_interval(list(hits)), count),
        f"rewardmath_mrr {aggregation}": (share_interval(list(found.per_task_mrr)), count),
    }


def _share(values: np.ndarray) -> tuple[MeanInterval, int]:
    return share_interval(list(values)), int((~np.isnan(values)).sum())


def _alone(value: float) -> MeanInterval:
    """A figure without an interval; NaN: undefined."""
    return MeanInterval(None if np.isnan(value) else float(value), None, None)


def _file_inputs(file: str) -> dict[str, str]:
    digests = []
    for one in processbench_files(Path(file)):
        with one.open("rb") as raw:
            digests.append(hashlib.file_digest(raw, "sha256").hexdigest())
    return {"file": " ".join(digests)}

"""The measure of process reward models: does one trained on tree labels find first errors better than one trained on
outcomes laid on every step, and does it choose answers better than a majority vote?

The oracle of held-out sums judges; it takes no part in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from pipeline.errors import BadConfig, check_counts
from pipeline.labels.prm import find_prm
from pipeline.metrics.best_of_n import chosen_rewards
from pipeline.metrics.processbench import f1_difference, f1_interval
from pipeline.metrics.rewardmath import solution_scores
from pipeline.report import Report
from pipeline.stages.held_out import Solutions, sampled_solutions
from pipeline.stages.prm_evals import (
    AGGREGATIONS,
    SPLIT,
    Figures,
    Judged,
    figure_rows,
    held_out_tasks,
    judge_solutions,
    task_inputs,
)
from pipeline.stages.work import Shards, Work, inputs
from pipeline.statistics import difference_interval, share_interval
from trainers.prm_recipe import PrmRecipe
from trainers.prm_stages import prm_name, train_prm_model

STAGE = "prm-compare"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class PrmCompareRecipe:
    """labels: labellers whose rows are learnt; the first is held against the others. target: hard|soft, the label that
    is learnt. seeds: models of each. samples: answers to a held-out task. packed: tokens that rows share are computed
    once.
    """

    labels: tuple[str, ...] = ("monte_carlo", "outcome_broadcast")
    target: str = "hard"
    seeds: int = 5
    samples: int = 8
    learning_rate: float = 1e-3
    steps: int = 400
    batch_size: int = 32
    packed: bool = True


def compare_prms(work: Work, recipe: PrmCompareRecipe = PrmCompareRecipe()) -> Report:
    """Train so many models on each kind of labels, the same but for the seed, and measure all on one set of answers.

    Figures are means over seeds; intervals are over tasks and, for F1, over seeds.

    Raises:
        BadConfig, BadInput, BadModel, BadTable: as training and measuring do, or there is but one kind of labels.
    """
    check_counts(recipe, seeds=1, samples=2)
    if len(set(recipe.labels)) < 2:
        raise BadConfig("there is nothing to compare", remedy="give two kinds of labels or more")
    trained = {labels: [_train(work, recipe, labels, seed) for seed in range(recipe.seeds)] for labels in recipe.labels}
    models = {
        labels: [find_prm(name, policies=work.settings.policies) for name in names] for labels, names in trained.items()
    }
    prints = {labels: " ".join(prm.fingerprint for prm in some) for labels, some in models.items()}
    shards = Shards(work, STAGE, ("evals",))
    made_from = inputs(VERSION, config=recipe, prompts=work.pack.digest, **task_inputs(work), **prints)
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        solutions = sampled_solutions(work, held_out_tasks(work), samples=recipe.samples)
        judged = {labels: [judge_solutions(work, prm, solutions) for prm in some] for labels, some in models.items()}
        rows = [
            figure_rows(figures, policy=f"prm/{work.suite.name}-{work.round}-{labels}", suite=work.suite.name)
            for labels, figures in compared(solutions, judged).items()
        ]
        shards.write(name, parts, missed=solutions.missed, evals=pl.concat(rows))
    evals = shards.read("evals")
    first = f"prm/{work.suite.name}-{work.round}-{recipe.labels[0]}"
    shown = evals.filter((pl.col("policy") == first) & pl.col("metric").str.contains(f"f1|best_.*@{recipe.samples}$"))
    return shards.finish(**dict(shown.select("metric", "value").iter_rows()))


def compared(solutions: Solutions, judged: dict[str, list[Judged]]) -> dict[str, Figures]:
    """Figures of each kind of labels; those of the first kind hold it against the others.

    Args:
        judged: by kind, what the models of all seeds said.
    """
    tasks = int(solutions.task.max()) + 1
    rewards, answers = (column.reshape(tasks, -1) for column in (solutions.reward, solutions.answer))
    size = rewards.shape[1]
    first, found = next(iter(judged)), {}
    use = judged[first][0].counted & ~np.isnan(solutions.label)
    labels, groups = solutions.label[use].astype(np.int64), solutions.task[use]
    predictions = {kind: np.stack([one.predictions[use] for one in some]) for kind, some in judged.items()}
    by_vote = chosen_rewards(rewards, answers, np.zeros(rewards.shape), size=size, selector="majority")
    for kind, some in judged.items():
        figures: Figures = {"first_error_f1": (f1_interval(labels, predictions[kind], groups), int(use.sum()))}
        if kind != first:
            other = f1_difference(labels, predictions[first], predictions[kind], groups)
            found[first][f"first_error_f1 less {kind}"] = (other, int(use.sum()))
        for aggregation in AGGREGATIONS:
            earned = np.mean(
                [
                    chosen_rewards(
                        rewards,
                        answers,
                        solution_scores(one.scores, solutions.offsets, aggregation=aggregation).reshape(tasks, -1),
                        size=size,
                        selector="best",
                    )
                    for one in some
                ],
                axis=0,
            )
            known = int((~np.isnan(earned)).sum())
            figures[f"best_{aggregation}@{size}"] = (share_interval(list(earned)), known)
            figures[f"best_{aggregation} less majority@{size}"] = (difference_interval(list(earned - by_vote)), known)
        figures[f"majority@{size}"] = (share_interval(list(by_vote)), tasks)
        found[kind] = figures
    return found


def _train(work: Work, recipe: PrmCompareRecipe, labels: str, seed: int) -> str:
    """The name of a trained model."""
    shared = {name: getattr(recipe, name) for name in ("target", "learning_rate", "steps", "batch_size", "packed")}
    one = PrmRecipe(labels=labels, seed=seed, **shared)
    one = replace(one, name=f"{prm_name(work, one)}-{recipe.target}-seed{seed}")
    train_prm_model(work, one)
    return one.name

"""Offline methods side by side: each trained with several seeds on one round's rows, and measured on held-out tasks.

Rows and starting policy are the same for all seeds. A seed draws the order of the rows, and so which come first; every
policy's answers are draws of their own, and the starting policy's are others for each seed. A run that is done is left
alone, so a comparison that was cut off goes on, and one of more seeds adds to it.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig, check_counts
from pipeline.metrics.best_of_n import chosen_rewards
from pipeline.report import Progress, Report
from pipeline.stages.evals import SPLIT, pass_interval
from pipeline.stages.prm_evals import held_out_tasks, task_inputs
from pipeline.stages.work import Shards, Work, inputs
from pipeline.statistics import MeanInterval, difference_interval, share_interval
from pipeline.store.digest import content_digest
from schemas import Evals
from schemas.base import column_types
from trainers.comparison_files import open_comparison
from trainers.offline.answers import Answers, held_out_answers
from trainers.offline.methods import METHODS, START, Lesson
from trainers.offline.table import GAIN, VOTED, VOTES, Figures, write_comparison
from trainers.offline.teach import Taught, add_up, teach
from trainers.stages import VERSION as TRAINING
from trainers.stages import policy_name

STAGE = "offline_compare"
VERSION = "2"


@dataclass(frozen=True, slots=True)
class OfflineConfig:
    """methods: keys of METHODS. seeds: runs of each. first_seed: the others count up from it. tokens: that a policy is
    trained on, over all its lessons. steps: over which they are spread. passes: over a lesson's rows at most; one of
    few rows ends earlier. tasks: held-out ones, evenly taken. samples: answers a task. role_samples: passes a task of
    methods of several roles, whose every answer costs three. out: folder of the table and the picture.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 5
    first_seed: int = 0
    tokens: int = 60_000
    steps: int = 60
    passes: int = 8
    tasks: int = 500
    samples: int = 8
    role_samples: int = 2
    temperature: float = 1.0
    out: str = "comparison"


class Run(NamedTuple):
    """A method with a seed."""

    method: str
    seed: int


def compare_methods(work: Work, config: OfflineConfig = OfflineConfig()) -> Report:
    """Train and measure every method with every seed; write `offline.csv`, `offline.md` and `offline.png`.

    Runs share nothing but the ledger, so several processes may make some seeds each; one that is then asked for all
    finds them done.

    Raises:
        BadConfig: a method is not known, or its rows are not there; names the commands that make them.
        BadTable: rows were made from what is no longer in the store.
    """
    check_counts(config, seeds=1, first_seed=0, tokens=1, steps=1, passes=1, tasks=2, samples=1, role_samples=1)
    for name in config.methods:
        check_choice("method", name, METHODS)
    names = list(dict.fromkeys((START, *config.methods)))
    lessons = read_lessons(work, names)
    digests = {lesson: content_digest(rows.to_arrow()) for lesson, rows in lessons.items()}
    tasks = _some(held_out_tasks(work), config.tasks)
    open_comparison(Path(config.out), last_seed=config.first_seed + config.seeds - 1)
    comparison = _Comparison(work, config, tasks, lessons)
    shards, shown = Shards(work, STAGE, ("evals",)), {}
    for seed in range(
        config.first_seed, config.first_seed + config.seeds
    ):  # seed by seed, so that what is there at any time compares alike
        runs = {f"{name}-s{seed}": Run(name, seed) for name in names}
        made_from = {shard: _made_from(work, config, run, digests) for shard, run in runs.items()}
        for shard, run, parts in shards.stale(runs, made_from.__getitem__):
            rows, missed = comparison.measured(run)
            shards.write(shard, parts, missed=missed, evals=rows)
        for shard in runs:
            rows = work.store.read("evals", [work.place(STAGE, shard)])
            for (policy,), figures in rows.group_by("policy", maintain_order=True):
                label = policy.removeprefix(_label(work, "")).removesuffix(f"-s{seed}")
                found = figures.select("metric", "value", "low", "high").iter_rows()
                shown[label, seed] = {metric: MeanInterval(*figure) for metric, *figure in found}
        table = write_comparison(shown, Path(config.out), suite=work.suite.name)
    return shards.finish(**dict(table.select("method", "pass@1").head(12).iter_rows()))


def read_lessons(work: Work, names: list[str]) -> dict[Lesson, pl.DataFrame]:
    """The rows of every lesson of these methods.

    Raises:
        BadConfig: some have none; names all such methods, and the commands that make their rows.
        BadTable: some were made from what is no longer in the store.
    """
    found, missing, remedies = {}, [], {}
    for name in names:
        try:
            for lesson in (lesson for chain in METHODS[name].values() for lesson in chain):
                found[lesson] = lesson.rows(work)
        except BadConfig as error:
            missing.append(f"{name}: {error.culprit}")
            remedies[error.remedy] = None
    if missing:
        raise BadConfig("; ".join(missing), remedy=f"run `{' && '.join(remedies)}`, or name --methods without them")
    return found


@dataclass(slots=True)
class _Comparison:
    """What all runs share.

    lessons: with their rows.
    before:  by seed, the starting policy's answers.
    """

    work: Work
    config: OfflineConfig
    tasks: pl.DataFrame
    lessons: dict[Lesson, pl.DataFrame]
    before: dict[int, Answers] = field(default_factory=dict)

    def measured(self, run: Run) -> tuple[pl.DataFrame, frozenset[str]]:
        """Rows of the evals table, of a method that is trained now; and the requests whose answers they lack, and
        another run may bring."""
        started = time.monotonic()
        policies, taught = self.trained(run)
        trained = time.monotonic()
        answers = self.answers(run, policies)
        spent = {"train_seconds": trained - started, "eval_seconds": time.monotonic() - trained}
        rows = []
        for role, said in answers.items():
            last = role == list(answers)[-1]
            figures = self.figures(run, said) | ({**taught._asdict(), **spent} if last else {})
            policy = f"{_label(self.work, run.method if last else f'{run.method}.{role}')}-s{run.seed}"
            for metric, figure in figures.items():
                shown = figure if isinstance(figure, MeanInterval) else MeanInterval(float(figure), None, None)
                rows.append((policy, self.work.suite.name, SPLIT, metric, *shown, len(self.tasks)))
        missed = frozenset().union(self.before[run.seed].missed, *(said.missed for said in answers.values()))
        return pl.DataFrame(rows, schema=column_types(Evals), orient="row"), missed

    def trained(self, run: Run) -> tuple[dict[str, str], Taught]:
        """The policy of each role, and what they were taught in all."""
        policies, taught = {}, []
        for role, chain in METHODS[run.method].items():
            policies[role] = self.work.policy_name
            for number, lesson in enumerate(chain, start=1):
                place = [role] * (len(METHODS[run.method]) > 1) + [str(number)] * (number < len(chain))
                name = f"{_label(self.work, '-'.join([run.method, *place]))}-s{run.seed}"
                taught.append(self._teach(run, policies[role], name, lesson, lessons=len(chain)))
                policies[role] = name
        return policies, add_up(taught)

    def _teach(self, run: Run, parent: str, name: str, lesson: Lesson, *, lessons: int) -> Taught:
        work, config = self.work, self.config

        def say(step: int, steps: int, seconds: float) -> None:
            work.on_progress(Progress(name, "steps", step, steps, 0, 0, seconds))

        return teach(
            replace(work, policy_name=parent),
            name,
            self.lessons[lesson],
            replace(lesson.recipe, seed=run.seed),
            tokens=max(1, config.tokens // lessons),
            steps=math.ceil(config.steps / lessons),
            passes=config.passes,
            say=say,
        )

    def answers(self, run: Run, policies: dict[str, str]) -> dict[str, Answers]:
        """To the held-out tasks."""
        samples = self.config.samples if len(policies) == 1 else self.config.role_samples
        options = {"samples": samples, "first": run.seed * samples, "temperature": self.config.temperature}
        return held_out_answers(self.work, self.tasks, policies, **options)

    def figures(self, run: Run, said: Answers) -> Figures:
        """pass@k and the vote of three over tasks, the paired difference from the starting policy of the same seed, and
        tokens an answer."""
        ks = (k for k in (1, 2, 4, 8, 16, 32) if k <= said.reward.shape[1])
        found = {f"pass@{k}": pass_interval(said.reward, k) for k in ks}
        if said.reward.shape[1] >= VOTES:
            found[VOTED] = _voted(said)
        if run.method == START:
            self.before[run.seed] = said
        else:
            found[GAIN] = difference_interval(list(_means(said.reward) - _means(self._start(run.seed).reward)))
        answered = said.tokens[said.tokens > 0]
        return found | {"answer_tokens": MeanInterval(float(answered.mean()) if len(answered) else None, None, None)}

    def _start(self, seed: int) -> Answers:
        """Of the starting policy, out of the ledger where they were drawn before."""
        if seed not in self.before:
            (self.before[seed],) = self.answers(Run(START, seed), {"solve": self.work.policy_name}).values()
        return self.before[seed]


def _made_from(work: Work, config: OfflineConfig, run: Run, digests: dict[Lesson, str]) -> dict[str, str]:
    chains = METHODS[run.method].items()
    lessons = {role: [(digests[one], asdict(one.recipe)) for one in chain] for role, chain in chains}
    return inputs(
        VERSION,
        config=replace(config, methods=(), seeds=0, first_seed=0, out=""),
        seed=str(run.seed),
        lessons=json.dumps(lessons, sort_keys=True),
        training=TRAINING,
        prompts=work.pack.digest,
        **task_inputs(work),
    )


def _label(work: Work, method: str) -> str:
    return policy_name(work, f"offline-{method}")


def _some(tasks: pl.DataFrame, count: int) -> pl.DataFrame:
    """So many of the tasks, evenly taken, so that every band has its share."""
    if count >= len(tasks):
        return tasks
    return tasks[np.linspace(0, len(tasks) - 1, count).round().astype(np.int64).tolist()]


def _voted(said: Answers) -> MeanInterval:
    """What the answer given most often by VOTES of them earns, in the mean over the subsets of those there are."""
    unscored = np.full(said.reward.shape, np.nan)
    return share_interval(list(chosen_rewards(said.reward, said.answer, unscored, size=VOTES, selector="majority")))


def _means(rewards: np.ndarray) -> np.ndarray:
    """`[N]` of what is known of each task; NaN where nothing is."""
    known = ~np.isnan(rewards)
    return np.where(known.any(axis=1), np.nansum(rewards, axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)

"""Online RL as rounds: each samples with the policy of the round before, credits, updates and evaluates.

A round is made by the very stages of the commands, so what a crash leaves is found again: requests in the ledger,
shards by what they were made from, the policy by its lineage. Only the update and its watching are new here.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipeline.credit import METHODS, labelled
from pipeline.errors import BadConfig, BadModel, BadTable, check_counts
from pipeline.generation.engines import close_engines
from pipeline.generation.policies import find_policy
from pipeline.report import Progress, Report
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.prm_scores import PrmScoresConfig, write_prm_scores
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.retry_rows import STAGE as RETRY_ROWS
from pipeline.stages.retry_rows import RetryRowConfig, write_retry_rows
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.rollouts import STAGE as ROLLOUTS
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import present, write_verdicts
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.write import disk_errors
from schemas import Evals
from schemas.base import column_types
from trainers.online.allocation import allotted_samples
from trainers.online.recipe import OnlineRecipe, load_recipe
from trainers.online.replay import chosen_rows
from trainers.online.round_work import RoundWork, chosen_shards
from trainers.online.watch import STAGE, Round, alarms, figure_rows, history, round_figures, round_names
from trainers.stages import policy_name

VERSION = "1"
SPLIT = "train"
_REPORTED = ("pass@1", "reward", "answer_tokens", "entropy", "kl", "clip_share", "zero_advantage_share", "oracle_auc")


@dataclass(frozen=True, slots=True)
class OnlineConfig:
    """recipe: name, or a TOML file. rounds: at most. tokens: decoded by the rounds' sampling, after which no round
    begins; 0: no end. seed: of shards, draws and order. method: credit method in place of the recipe's. changes: JSON
    object of fields of the recipe that shall be otherwise, such as {"group": 16}.
    """

    recipe: str = "grpo"
    method: str = ""
    rounds: int = 4
    tokens: int = 0
    seed: int = 0
    changes: str = ""


class Run(NamedTuple):
    """What all rounds of a run share. folder: beside the policies, of the optimiser's states."""

    work: Work
    recipe: OnlineRecipe
    seed: int
    names: list[str]
    folder: Path

    def at(self, number: int) -> RoundWork:
        """The surroundings of a round, with the policy that it samples from."""
        work = replace(self.work, round=self.names[number])
        policy = self.made(number - 1) if number else work.policy_name
        shards = chosen_shards(sorted(work.shards()), count=self.recipe.shards, round=number, seed=self.seed)
        said = {one.name: getattr(work, one.name) for one in fields(Work)} | {"policy_name": policy}
        return RoundWork(**said, chosen=shards, held=self.recipe.eval_shards, seed=self.seed)

    def made(self, number: int) -> str:
        """Name of the policy that a round makes."""
        return policy_name(replace(self.work, round=self.names[number]), STAGE)


def train_online(work: Work, config: OnlineConfig = OnlineConfig()) -> Report:
    """Train a policy in rounds; the round of the work is the first. Rounds that are done are left alone.

    Raises:
        BadConfig: the recipe cannot be, or the first round was begun with another recipe, seed or policy.
        BadModel: a policy, or the optimiser's state, cannot be read.
    """
    check_counts(config, rounds=1, tokens=0, seed=0)
    started, recipe = time.monotonic(), load_recipe(config.recipe, changes=config.changes)
    if config.method:
        recipe = replace(recipe, method=config.method, params={}, schedule={}, rows="method")
    write_tasks(work)
    names = round_names(work.round, config.rounds)
    folder = work.settings.policies / f".{policy_name(work, STAGE)}.run"
    run = Run(work, recipe, config.seed, names, folder)
    _begin(run)
    _evaluate(run.at(0), recipe)
    report, spent = Report(STAGE, work.suite.name, work.round), 0
    for number in range(config.rounds):
        report.fresh += make_round(run, number)
        report.shards += 1
        seen = history(work, names[: number + 1], [run.made(one) for one in range(number + 1)])
        spent += int(seen[-1]["decoded_tokens"])
        if config.tokens and spent >= config.tokens:
            break
    done = report.shards
    report.numbers = {"rounds": done, "decoded_tokens": spent}
    report.numbers |= {name: seen[-1][name] for name in _REPORTED if seen[-1].get(name) is not None}
    report.rows = {"evals": sum(map(len, seen))}
    report.digest = find_policy(run.made(done - 1), policies=work.settings.policies).fingerprint
    report.notes = tuple(alarms(seen))
    report.seconds = time.monotonic() - started
    if report.fresh:
        draw(work, seen)
    return report


def make_round(run: Run, number: int) -> int:
    """One round: data, update, evaluation, figures; each part is left alone where it is current.

    Returns:
        1 where the policy was made now, else 0.
    """
    work, recipe = run.at(number), run.recipe
    started = time.monotonic()
    source = sample_round(work, recipe, run.names[:number])
    numbers, fresh = update_round(run, number, source)
    after = replace(work, policy_name=run.made(number))
    if (number + 1) % recipe.eval_every == 0:
        _evaluate(after, recipe)
    shards = Shards(work, STAGE, ("evals",))
    made_from = inputs(VERSION, policy=after.policy.fingerprint, recipe=json.dumps(asdict(recipe), sort_keys=True))
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        found: Round = round_figures(work, source=source, method=recipe.method, agreement=recipe.agreement) | numbers
        found["seconds"] = time.monotonic() - started
        tasks = sum(len(tasks) for tasks in work.shards().values())
        rows = figure_rows(found, policy=run.made(number), suite=work.suite.name, count=tasks)
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    return fresh


def sample_round(work: Work, recipe: OnlineRecipe, before: list[str]) -> str:
    """Sample, judge, label and credit a round, and build its rows.

    Args:
        before: names of the rounds before.

    Returns:
        The stage whose rows of `rl_samples` are trained on.
    """
    if work.suite.environment is None:
        strategy, params = recipe.strategy, recipe.strategy_params
        if recipe.allocation == "knapsack":
            strategy, params = "allotted", {"counts": _allotted(work, before, group=recipe.group)}
        write_rollouts(work, RolloutConfig(strategy, recipe.group, recipe.temperature, params=_json(params)))
    else:
        write_episodes(work, EpisodeConfig(recipe.group, recipe.temperature))
    if recipe.rule:
        params = _json(recipe.rule_params)
        write_trees(work, TreeConfig(recipe.rule, recipe.attempts, recipe.branches, recipe.temperature, params=params))
    if recipe.retries:
        write_retries(work, RetryConfig(per_task=recipe.retries, temperature=recipe.temperature))
    if recipe.interventions:
        write_interventions(work, InterventionConfig(per_task=recipe.interventions))
    write_verdicts(work)
    if recipe.prm:
        write_prm_scores(work, PrmScoresConfig(prm=recipe.prm))
    elif labelled(METHODS[recipe.method]):
        write_step_labels(work, StepLabelConfig(recipe.labeller))
    if recipe.rows == RETRY_ROWS:
        write_retry_rows(work, RetryRowConfig(**recipe.params))
        return RETRY_ROWS
    write_credit(work, CreditConfig((recipe.method,), recipe.params_at(len(before)), recipe.labeller))
    write_rl_samples(work, RlSampleConfig(recipe.method, recipe.shared))
    return recipe.method


def update_round(run: Run, number: int, source: str) -> tuple[dict[str, float], int]:
    """The policy of a round: found, or trained on its rows and those kept of earlier rounds.

    Args:
        source: stage whose rows are trained on.

    Returns:
        Figures of the update, and 1 where it was made now, else 0.

    Raises:
        BadTable: no attempt has a trained token.
    """
    work, recipe = run.at(number), run.recipe
    store, out = work.store, work.settings.policies / run.made(number)
    window = range(max(0, number - recipe.replay_age), number + 1)
    places = {one: _places(run.at(one), source) for one in range(number + 1)}
    reference = run.work.policy if recipe.kl_weight else None
    made_from = inputs(
        VERSION,
        config=recipe,
        parent=work.policy.fingerprint,
        reference=reference.fingerprint if reference else "",
        seed=str([run.seed, number]),
        rows=" ".join(store.digest("rl_samples", place) for one in window for place in places[one]),
    )
    if (known := known_numbers(out, made_from)) is not None:
        return known, 0
    names = [store.read("rl_samples", places[one], columns=("task", "row")) for one in range(number + 1)]
    options = {"age": recipe.replay_age, "uses": recipe.replay_uses, "per_task": recipe.rows_per_task}
    taken = chosen_rows(names, seed=run.seed, **options)
    rows = pl.concat(
        store.read("rl_samples", places[one]).join(taken.filter(pl.col("round") == one), on="row", how="semi")
        for one in window
    )
    if rows.is_empty():
        raise BadTable(f"round {work.round} has no attempt to train on", remedy="sample more, or credit otherwise")
    from torch import cuda

    from trainers.online.update import update_policy

    if cuda.is_available():
        close_engines()  # the engine has most of the memory
    states = [run.folder / f"optimiser-{one}.safetensors" for one in range(number + 1)]
    found = update_policy(
        rows,
        policy=work.policy.path,
        out=out,
        recipe=recipe,
        seed=(run.seed, number),
        reference=reference.path if reference else None,
        state=states[-2] if number else None,
        new_state=states[-1],
        inputs=made_from,
        on_progress=lambda p: work.on_progress(Progress(STAGE, "steps", p.step, p.steps, 0, 0, p.seconds)),
    )
    for old in states[:-2]:
        old.unlink(missing_ok=True)
    return found, 1


def known_numbers(folder: Path, made_from: dict[str, Any]) -> dict[str, float] | None:
    """The numbers of the run that made this policy; None where there is no such policy, whole and of these inputs."""
    try:
        find_policy(str(folder.absolute()), policies=folder.parent)
        lineage = json.loads((folder / "lineage.json").read_text())
        return lineage["numbers"] if lineage["inputs"] == made_from else None
    except (BadModel, OSError, ValueError, KeyError, TypeError):
        return None


def picture_of(work: Work) -> Path:
    """Where the picture of the run that begins with the work's round is, in the store's folder of this machine."""
    return work.store.files.local / "pictures" / work.suite.name / work.round / "online.png"


def draw(work: Work, seen: list[Round]) -> None:
    """Draw the rounds' figures.

    Args:
        work: surroundings of the first round.
        seen: figures of all.
    """
    from trainers.online.picture import draw_rounds

    path = picture_of(work)
    with disk_errors(path, setting="BRANCHPOINT_STORE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_rounds(seen, path, title=f"{work.suite.name}, from round {work.round}")


def _begin(run: Run) -> None:
    """Note what the run is, or make sure that it is the one that began here."""
    said = {"recipe": asdict(run.recipe), "seed": run.seed, "policy": run.work.policy.fingerprint, "version": VERSION}
    text, file = json.dumps(said, indent=2, sort_keys=True), run.folder / "run.json"
    if file.exists():
        if file.read_text() != text:
            raise BadConfig(
                f"round {run.names[0]} was begun with another recipe, seed or policy",
                remedy=f"give another --round, such as {run.work.suite.name}-a0, or remove {run.folder}",
            )
        return
    with disk_errors(file, setting="BRANCHPOINT_POLICIES"):
        run.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(text)
        os.replace(part, file)


def _evaluate(work: Work, recipe: OnlineRecipe) -> None:
    """pass@k of the work's policy, where the suite asks for an answer at once; of an environment the rewards tell."""
    if recipe.eval_samples and work.suite.environment is None:
        write_evals(work, EvalConfig(samples=recipe.eval_samples))


def _allotted(work: Work, before: list[str], *, group: int) -> dict[str, int]:
    """Samples of each task of the round, by the verdicts of the rollouts before; as many of each in the first."""
    tasks = [task for shard in work.shards().values() for task in shard["task"]]
    if not before:
        return dict.fromkeys(tasks, group)
    store, suite = work.store, work.suite.name
    places = [store.places("verdicts", suite=suite, round=name, stage=ROLLOUTS) for name in before]
    return allotted_samples(tasks, [present(store.read("verdicts", found)) for found in places], group=group)


def _places(work: Work, source: str) -> list:
    """The shards of a round's rows, those of its chosen tasks."""
    chosen = work.shards()
    return [place for place in work.places("rl_samples", stage=source) if place.shard in chosen]


def _json(params: Any) -> str:
    return json.dumps(dict(params), sort_keys=True) if params else ""

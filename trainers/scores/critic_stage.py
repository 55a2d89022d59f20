"""Stage that trains a critic on a round's judged trees. A critic of the very same inputs is left alone."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import BadConfig, BadInput, BadModel
from pipeline.report import Progress, Report
from pipeline.stages.earlier import GENERATING, judged_from, rollout_shards
from pipeline.stages.work import Work, inputs
from trainers.scores.contexts import NODE_COLUMNS, Contexts, contexts_of, said
from trainers.scores.critic_recipe import FOLDER, CriticRecipe, find_critic
from trainers.scores.lessons import Steps, steps_of
from trainers.scores.rounds import verdicts_on

VERSION = "1"
STAGE = "critic"


def train_critic(work: Work, recipe: CriticRecipe = CriticRecipe()) -> Report:
    """Train a critic from the round's policy on its trees; some tasks are held out, on which its error is told.

    Raises:
        BadConfig, BadModel: the recipe or the policy cannot be used.
        BadInput: no step of the training tasks has a known return.
        BadTable: the round has no rollouts, or grew on nodes that were replaced.
        StoreFull: the critic cannot be written; one already there stays.
    """
    recipe.check()
    name = recipe.name or f"{work.suite.name}-{work.round}-{recipe.kind}"
    shards = list(rollout_shards(work, columns=()))
    nodes = {shard: json.dumps(judged_from(work, shard, of="credit"), sort_keys=True) for shard in shards}
    made_from = inputs(VERSION, config=recipe, parent=work.policy.fingerprint, **nodes)
    report = Report(f"{FOLDER}/{recipe.kind}", work.suite.name, work.round, shards=1)
    lineage = _lineage_of(work, name)
    if lineage is None or lineage["inputs"] != made_from:
        lineage = _train(work, name, recipe, made_from, shards)
        report.fresh, report.seconds = 1, lineage.pop("seconds")
    report.numbers, report.digest = lineage["numbers"], lineage["fingerprint"]
    return report


def _train(work: Work, name: str, recipe: CriticRecipe, made_from: dict[str, str], shards: list[str]) -> dict[str, Any]:
    """Train and save; the lineage, with the seconds that it took."""
    from trainers.scores.critic_files import save_critic
    from trainers.scores.critics import fit_critic
    from trainers.scores.forward import open_model

    started = time.monotonic()
    train, held = split_tasks(_token_counts(work, shards), recipe)
    if not train:
        raise BadInput("the round has no task with something said", remedy="gather rollouts first")
    if recipe.reward == "step_reward" and not _rewarded(work, shards):
        raise BadConfig(
            f"no step of round {work.round} of {work.suite.name} was rewarded by an environment",
            remedy="set reward to verdict, or play the suite with `branchpoint episodes`",
        )

    def told(epoch: int) -> None:
        work.on_progress(Progress(STAGE, "epochs", epoch, recipe.epochs, 0, 0, time.monotonic() - started))

    trained = recipe.backbone == "trained"
    if trained:
        open_model.cache_clear()
    model = open_model(work.policy)
    if trained:
        open_model.cache_clear()  # nobody else may take it for the policy
    fitted = fit_critic(
        model, _parts(work, shards, train, recipe), _parts(work, shards, held, recipe), recipe, on_epoch=told
    )
    lineage = {
        "kind": "critic",
        "parent": work.policy.name,
        "parent_fingerprint": work.policy.fingerprint,
        "config": asdict(recipe),
        "code_version": metadata.version("branchpoint"),
        "libraries": {library: metadata.version(library) for library in ("torch", "transformers")},
        "inputs": made_from,
        "numbers": {"tasks": len(train), "held_out_tasks": len(held), **fitted.numbers},
        "curve": fitted.curve,
    }
    folder = work.settings.policies / FOLDER / name
    fingerprint = save_critic(fitted.heads, model if trained else None, out=folder, lineage=lineage)
    return {**lineage, "fingerprint": fingerprint, "seconds": time.monotonic() - started}


def split_tasks(tokens: dict[str, int], recipe: CriticRecipe) -> tuple[set[str], set[str]]:
    """Tasks to train on and tasks held out, drawn with the seed until they have `most_tokens`; at least one each,
    where there are two and any is to be held out."""
    names = sorted(task for task, count in tokens.items() if count)
    drawn = [names[place] for place in np.random.default_rng(recipe.seed).permutation(len(names))]
    ends = np.cumsum([tokens[task] for task in drawn])
    drawn = drawn[: max(2, int(np.searchsorted(ends, recipe.most_tokens, side="right")))]
    count = min(len(drawn) - 1, max(1, round(recipe.held_share * len(drawn)))) if recipe.held_share else 0
    return set(drawn[max(0, count) :]), set(drawn[: max(0, count)])


def _token_counts(work: Work, shards: list[str]) -> dict[str, int]:
    """Tokens said in each task."""
    rows = work.store.read("nodes", _places(work, shards), columns=["task", "parent", "kind", "token_count"])
    return dict(rows.filter(pl.Series(said(rows))).group_by("task").agg(pl.col("token_count").sum()).iter_rows())


def _rewarded(work: Work, shards: list[str]) -> bool:
    """Whether an environment paid for any step."""
    rewards = work.store.read("nodes", _places(work, shards), columns=["step_reward"])["step_reward"]
    return rewards.null_count() < len(rewards)


def _parts(work: Work, shards: list[str], tasks: set[str], recipe: CriticRecipe) -> list[tuple[Contexts, Steps]]:
    """Contexts and steps of some tasks, shard by shard."""
    found = []
    for shard in shards:
        of = pl.col("task").is_in(sorted(tasks))
        places = _places(work, [shard])
        nodes = work.store.read("nodes", places, columns=[*NODE_COLUMNS, "step_reward"]).filter(of)
        if nodes.is_empty():
            continue
        nodes = nodes.sort("task", "tree", "node")
        verdicts = verdicts_on(work, [shard], nodes) if recipe.reward == "verdict" else None
        contexts, wanted = contexts_of(nodes), said(nodes)
        found.append((contexts, steps_of(nodes, contexts, wanted, verdicts, gamma=recipe.discount)))
    return found


def _places(work: Work, shards: list[str]) -> list:
    return [work.place(stage, shard) for shard in shards for stage in GENERATING]


def _lineage_of(work: Work, name: str) -> dict[str, Any] | None:
    """What is known of the critic of this name; None where there is none."""
    try:
        critic = find_critic(name, policies=work.settings.policies)
        return json.loads((critic.path / "lineage.json").read_text())
    except (BadModel, OSError, ValueError):
        return None

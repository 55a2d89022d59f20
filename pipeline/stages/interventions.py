"""Stage: one-step interventions on failed attempts (InT), each tried in two arms.

An editor, shown the reference solution, names the first wrong step and writes that one step anew. The new
step takes the wrong one's place after the untouched prefix, and continuations are drawn from there without
the reference; as many are drawn from the original step, so that every intervention carries an effect.

Of an episode a step is a turn: its environment is brought back there, the new turn is taken, and every continuation is
played to the end. Where the new turn ends the episode, that is its one continuation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.arms import arm_columns, draw_arms, put_edit
from pipeline.stages.episode_arms import EditCase, check_most, play_arms
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.replaying import Replays, write_replayed
from pipeline.stages.varying import (
    Asking,
    ask_about,
    cases_of,
    finished,
    parsed_share,
    rate,
    write_variants,
)
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.intervene import keep_reason, read_proposal

STAGE = "interventions"
VERSION = "5"


@dataclass(frozen=True, slots=True)
class InterventionConfig:
    """per_task: failed attempts edited. continuations: drawn in each arm. min_successes: to be kept.

    check_temperature: of the editor; temperature is that of the continuations. check_again: how often the editor is
    asked again after an answer that cannot be read. guided: the engine holds the editor's answer to its JSON schema.
    """

    per_task: int = 1
    continuations: int = 32
    min_successes: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    check_temperature: float = 0.7
    check_again: int = 2
    check_tokens: int = 256
    guided: bool = True


def write_interventions(work: Work, config: InterventionConfig = InterventionConfig()) -> Report:
    """Check, edit and continue failed attempts of tasks that have a reference solution.

    Raises:
        BadConfig: an option is none; also see `write_replayed`.
    """
    check_counts(config, per_task=1, continuations=1, min_successes=0, check_again=0, check_tokens=1)

    shards = _write(work, config) if work.suite.environment is None else _write_episodes(work, config)
    variants = shards.read("variants")
    return finished(
        shards,
        variants,
        of="failed attempt that the policy sampled, of a task with a reference solution",
        kept=variants["dropped"].null_count(),
        leaks=variants.filter(pl.col("dropped").str.contains("final answer")).height,
        parsed_share=parsed_share(variants),
        pass_rate_with=rate(variants, "with"),
        pass_rate_without=rate(variants, "without"),
        mean_effect=variants["effect"].mean(),
    )


def _write(work: Work, config: InterventionConfig) -> Shards:
    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[EditCase]:
        chosen = cases_of(trees, rewards, case=EditCase, per_task=config.per_task)
        cases = _check(grower, chosen, tasks, config)
        live = [case for case in cases if case.dropped is None]
        for case in live:
            case.edited = put_edit(grower, case.tree, case.replaced, case.proposal.text)
        sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
        draw_arms(grower, [case.edited for case in live], sampling, continuations=config.continuations)
        return cases

    return write_variants(work, STAGE, config, version=VERSION, vary=vary, row=partial(_row, config))


def _write_episodes(work: Work, config: InterventionConfig) -> Shards:
    check_most(config.continuations)

    def vary(replays: Replays) -> list[EditCase]:
        growth = replays.growth
        failed = replays.chosen(EditCase, per_task=config.per_task, which="failures")
        chosen = [case for case in failed if growth.tasks[case.tree.task]["reference_solution"] is not None]
        live = _check(growth.grower, replays.go_again(chosen), growth.tasks, config, question=replays.question)
        live = [case for case in live if case.dropped is None]
        play_arms(replays, live, continuations=config.continuations)
        return chosen

    rules = {"temperature": config.temperature, "top_p": config.top_p}
    return write_replayed(work, STAGE, config, version=VERSION, rules=rules, vary=vary, row=partial(_row, config))


def _check(
    grower: Grower,
    chosen: list[EditCase],
    tasks: Tasks,
    config: InterventionConfig,
    *,
    question: Callable[[dict[str, Any]], str] = lambda task: task["question"],
) -> list[EditCase]:
    """Ask the editor about each chosen attempt and read the step it proposes."""
    sampling = Sampling(config.check_temperature, config.top_p, config.check_tokens)

    def holes(task: dict[str, Any], attempt: Attempt, steps: str) -> dict[str, str] | None:
        if task["reference_solution"] is None:
            return None
        reference = grower.work.pack.reference(task["reference_solution"])
        return {"question": question(task), "reference": reference, "steps": steps}

    editing = Asking("intervene", "editor", "critique", holes, guided=config.guided, again=config.check_again)
    cases, suite = ask_about(grower, chosen, tasks, editing, sampling), grower.work.suite
    for case in cases:
        if case.answer is None:
            continue
        answer = tasks[case.tree.task]["answer"]
        case.proposal = read_proposal(case.text, steps=len(case.source.steps), reference_answer=answer)
        case.dropped = case.proposal.dropped
        if case.dropped is None and case.proposal.text == case.tree[case.replaced]["text"].strip():
            case.dropped = "intervention is the step it replaces"
        elif case.dropped is None and suite.environment is None and suite.separator in case.proposal.text:
            case.dropped = "intervention is more than one step"
        elif case.dropped is None and not grower.tokens.safe(case.proposal.text):
            case.dropped = "intervention spells a control token"
    return cases


def _row(config: InterventionConfig, case: EditCase, rewards: Rewards) -> dict[str, Any]:
    proposal, dropped = case.proposal, case.dropped
    columns = arm_columns(case.edited, rewards) if case.edited else {}
    if dropped is None:
        successes = columns["with_successes"] or 0
        dropped = keep_reason(
            proposal, outcome=case.source.reward, successes=successes, min_successes=config.min_successes
        )
    return {
        "variant": f"{case.tree.tree}/intervention/{case.source.leaf}",
        "kind": "intervention",
        "blamed_step": proposal.first_error if proposal else None,
        "edit": proposal.text if proposal and proposal.text else None,
        "dropped": dropped,
        **columns,
    }

"""Stage: one-step interventions on failed attempts (InT), each tried in two arms.

An editor, shown the reference solution, names the first wrong step and writes that one step anew. The new
step takes the wrong one's place after the untouched prefix, and continuations are drawn from there without
the reference; as many are drawn from the original step, so that every intervention carries an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.arms import Edited, arm_columns, draw_arms, put_edit
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.varying import (
    Asking,
    Case,
    ask_about,
    cases_of,
    parsed_share,
    rate,
    sampled_tokens,
    write_variants,
)
from pipeline.stages.work import Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.intervene import Proposal, keep_reason, read_proposal

STAGE = "interventions"
VERSION = "3"


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


@dataclass(slots=True)
class InterventionCase(Case):
    """A failed attempt on its way through check, edit and continuation."""

    proposal: Proposal | None = None
    edited: Edited | None = None


def write_interventions(work: Work, config: InterventionConfig = InterventionConfig()) -> Report:
    """Check, edit and continue failed attempts of tasks that have a reference solution."""
    check_counts(config, per_task=1, continuations=1, min_successes=0, check_again=0, check_tokens=1)

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[InterventionCase]:
        cases = _check(grower, trees, rewards, tasks, config)
        live = [case for case in cases if case.dropped is None]
        for case in live:
            original = case.source.steps[case.proposal.first_error]
            case.edited = put_edit(grower, case.tree, original, case.proposal.text)
        sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
        draw_arms(grower, [case.edited for case in live], sampling, continuations=config.continuations)
        return cases

    def row(case: InterventionCase, rewards: Rewards) -> dict[str, Any]:
        return _row(case, rewards, config)

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=row)
    variants = shards.read("variants")
    return shards.finish(
        kept=variants["dropped"].null_count(),
        leaks=variants.filter(pl.col("dropped").str.contains("final answer")).height,
        parsed_share=parsed_share(variants),
        pass_rate_with=rate(variants, "with"),
        pass_rate_without=rate(variants, "without"),
        mean_effect=variants["effect"].mean(),
        tokens=sampled_tokens(shards),
    )


def _check(
    grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks, config: InterventionConfig
) -> list[InterventionCase]:
    """Ask the editor about each chosen attempt and read the step it proposes."""
    sampling = Sampling(config.check_temperature, config.top_p, config.check_tokens)

    def holes(task: dict[str, Any], attempt: Attempt, steps: str) -> dict[str, str] | None:
        if task["reference_solution"] is None:
            return None
        reference = grower.work.pack.reference(task["reference_solution"])
        return {"question": task["question"], "reference": reference, "steps": steps}

    editing = Asking("intervene", "editor", "critique", holes, guided=config.guided, again=config.check_again)
    chosen = cases_of(trees, rewards, case=InterventionCase, per_task=config.per_task)
    cases = ask_about(grower, chosen, tasks, editing, sampling)
    for case in cases:
        if case.answer is None:
            continue
        answer = tasks[case.tree.task]["answer"]
        case.proposal = read_proposal(case.text, steps=len(case.source.steps), reference_answer=answer)
        case.dropped = case.proposal.dropped
        if case.dropped is None and grower.work.suite.separator in case.proposal.text:
            case.dropped = "intervention is more than one step"
        elif case.dropped is None and not grower.tokens.safe(case.proposal.text):
            case.dropped = "intervention spells a control token"
    return cases


def _row(case: InterventionCase, rewards: Rewards, config: InterventionConfig) -> dict[str, Any]:
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

"""Stage: one-step interventions on failed attempts (InT), each tried in two arms.

An editor, shown the reference solution, names the first wrong step and writes that one step anew. The new
step takes the wrong one's place after the untouched prefix, and continuations are drawn from there without
the reference; as many are drawn from the original step, so that every intervention carries an effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.errors import check_counts
from pipeline.generation.engine import Request, Sampling
from pipeline.report import Report
from pipeline.stages.growing import Grower
from pipeline.stages.varying import (
    Asking,
    Case,
    Rewards,
    Tasks,
    ask_about_failures,
    rate,
    sampled_tokens,
    write_variants,
)
from pipeline.stages.work import Work
from pipeline.trees.grow import Tree
from pipeline.variants.intervene import Proposal, keep_reason, read_proposal

STAGE = "interventions"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class InterventionConfig:
    """per_task: failed attempts edited. continuations: drawn in each arm. min_successes: to be kept.

    check_temperature: of the editor; temperature is that of the continuations. check_again: how often the editor is
    asked again after an answer that cannot be read.
    """

    per_task: int = 1
    continuations: int = 32
    min_successes: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    check_temperature: float = 0.7
    check_again: int = 2
    check_tokens: int = 256


@dataclass(slots=True)
class InterventionCase(Case):
    """A failed attempt on its way through check, edit and continuation.

    edit:     node of the step put in the wrong one's place.
    requests: for the continuations with the edit, and with the original step. arms: their leaves.
    """

    proposal: Proposal | None = None
    edit: int | None = None
    requests: tuple[list[Request], list[Request]] = ((), ())
    arms: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))


def write_interventions(work: Work, config: InterventionConfig = InterventionConfig()) -> Report:
    """Check, edit and continue failed attempts of tasks that have a reference solution."""
    check_counts(config, per_task=1, continuations=1, min_successes=0, check_again=0, check_tokens=1)

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[InterventionCase]:
        cases = _check(grower, trees, rewards, tasks, config)
        _continue(grower, cases, config)
        return cases

    def row(case: InterventionCase, rewards: Rewards) -> dict[str, Any]:
        return _row(case, rewards, config)

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=row)
    variants = shards.read("variants")
    return shards.finish(
        kept=variants["dropped"].null_count(),
        leaks=variants.filter(pl.col("dropped").str.contains("final answer")).height,
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

    def holes(task: dict[str, Any], steps: str) -> dict[str, str] | None:
        if task["reference_solution"] is None:
            return None
        reference = grower.work.pack.reference(task["reference_solution"])
        return {"question": task["question"], "reference": reference, "steps": steps}

    editing = Asking(role="intervene", agent="editor", kind="critique", holes=holes, again=config.check_again)
    cases = ask_about_failures(
        grower, trees, rewards, tasks, editing, case=InterventionCase, per_task=config.per_task, sampling=sampling
    )
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


def _continue(grower: Grower, cases: list[InterventionCase], config: InterventionConfig) -> None:
    """Put each edit in the place of the wrong step and draw both arms."""
    separator = grower.work.suite.separator
    sampling = Sampling(config.temperature, config.top_p, grower.work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    for case in live:
        tree, steps, at = case.tree, case.source.steps, case.proposal.first_error
        before = steps[at - 1] if at else 0
        case.edit = tree.add(
            before,
            kind="step",
            origin="intervention",
            agent="editor",
            token_ids=grower.tokens.encode(case.proposal.text + separator).tolist(),
            text=case.proposal.text,
        )
        original = [] if at == len(steps) - 1 else _draw(grower, tree, steps[at], sampling, config)
        case.requests = (_draw(grower, tree, case.edit, sampling, config), original)
    entries = grower.run(request for case in live for arm in case.requests for request in arm)
    for case in live:
        parents = (case.edit, case.source.steps[case.proposal.first_error])
        for parent, requests, leaves in zip(parents, case.requests, case.arms, strict=True):
            for request in requests:
                if request.key in entries:
                    leaves.append(grower.add(case.tree, parent, entries[request.key], origin="continuation"))


def _draw(grower: Grower, tree: Tree, node: int, sampling: Sampling, config: InterventionConfig) -> list[Request]:
    """The continuations of one arm, from a node on."""
    prefix = tree.tokens(node)
    return [grower.request(tree.task, prefix, sampling, sample=index) for index in range(config.continuations)]


def _arm(case: InterventionCase, arm: int, rewards: Rewards) -> tuple[int | None, int | None]:
    """Judged continuations of an arm and the right ones among them; nulls where none was judged."""
    judged = [rewards[case.tree.tree, leaf] for leaf in case.arms[arm] if (case.tree.tree, leaf) in rewards]
    return (len(judged), sum(reward >= 1 for reward in judged)) if judged else (None, None)


def _row(case: InterventionCase, rewards: Rewards, config: InterventionConfig) -> dict[str, Any]:
    with_count, with_successes = _arm(case, 0, rewards)
    without_count, without_successes = _arm(case, 1, rewards)
    proposal, dropped = case.proposal, case.dropped
    if dropped is None:
        successes = with_successes or 0
        dropped = keep_reason(
            proposal, outcome=case.source.reward, successes=successes, min_successes=config.min_successes
        )
    both = with_count is not None and without_count is not None
    return {
        "variant": f"{case.tree.tree}/intervention/{case.source.leaf}",
        "kind": "intervention",
        "pivot": None if case.edit is None else case.tree[case.edit]["parent"],
        "first_node": case.edit,
        "blamed_step": proposal.first_error if proposal else None,
        "edit": proposal.text if proposal and proposal.text else None,
        "dropped": dropped,
        "with_count": with_count,
        "with_successes": with_successes,
        "without_count": without_count,
        "without_successes": without_successes,
        "effect": with_successes / with_count - without_successes / without_count if both else None,
    }

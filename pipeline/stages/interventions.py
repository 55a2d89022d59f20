"""Stage: one-step interventions on failed attempts (InT), each tried in two arms.

An editor, shown the reference solution, names the first wrong step and writes that one step anew. The new
step takes the wrong one's place after the untouched prefix, and continuations are drawn from there without
the reference; as many are drawn from the original step, so that every intervention carries an effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.generation.engine import Request, Sampling
from pipeline.generation.engines import open_tokens
from pipeline.report import Report
from pipeline.stages.growing import Grower, digests, read_shard, read_verdicts
from pipeline.stages.judging import judge, rewards_by_node
from pipeline.stages.work import Shards, Work, check_counts, inputs
from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree, nodes_frame
from pipeline.variants.intervene import NO_SUCCESS, Proposal, read_proposal
from schemas import Variants
from schemas.base import column_types

STAGE = "interventions"
VERSION = "1"
TABLES = ("nodes", "variants", "verdicts", "requests")
BEFORE = ("rollouts", "trees", "retries")


@dataclass(frozen=True, slots=True)
class InterventionConfig:
    """per_task: failed attempts edited. continuations: drawn in each arm. min_successes: to be kept."""

    per_task: int = 2
    continuations: int = 4
    min_successes: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    check_tokens: int = 256


@dataclass(slots=True)
class Case:
    """A failed attempt on its way through check, edit and continuation.

    arms: leaves of the continuations with the edit, and with the original step.
    """

    tree: Tree
    source: Attempt
    ask: Request
    check_prompt: int
    check_node: int | None = None
    proposal: Proposal | None = None
    edit_node: int | None = None
    dropped: str | None = None
    requests: tuple[list[Request], list[Request]] = ((), ())
    arms: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))


def write_interventions(work: Work, config: InterventionConfig = InterventionConfig()) -> Report:
    """Check, edit and continue failed attempts of tasks that have a reference solution."""
    check_counts(config, per_task=1, continuations=1, min_successes=0, check_tokens=1)
    tokens = open_tokens(work.policy)
    by_shard = work.shards()
    shards = Shards(work, STAGE, TABLES)
    with work.sampler(STAGE) as sampler:
        made_from = inputs(VERSION, config=config, policy=sampler.fingerprint, prompts=work.pack.digest)
        for name, tasks, parts in shards.stale(
            by_shard, lambda shard: {**made_from, "nodes": digests(work, shard, stages=BEFORE)}
        ):
            grower = Grower(work, sampler, tokens)
            trees = read_shard(work, name, stages=BEFORE)
            rewards = rewards_by_node(read_verdicts(work, name, stages=("rollouts",)))
            by_task = {row["task"]: row for row in tasks.iter_rows(named=True)}
            cases = _check(grower, trees, rewards, by_task, config)
            _continue(grower, cases, config)
            grown = list(trees.values())
            verdicts = judge(grown, by_task)
            shards.write(
                name,
                parts,
                nodes=nodes_frame(grown),
                variants=_variant_rows(cases, rewards_by_node(verdicts), config),
                verdicts=verdicts,
                requests=grower.requests(STAGE),
            )
    variants = shards.read("variants")
    kept = variants.filter(pl.col("dropped").is_null())
    return shards.finish(
        checked=variants.height,
        kept=kept.height,
        leaks=variants.filter(pl.col("dropped").str.contains("final answer")).height,
        pass_rate_with=variants["with_successes"].sum() / max(1, variants["with_count"].sum()),
        pass_rate_without=variants["without_successes"].sum() / max(1, variants["without_count"].sum()),
        mean_effect=variants["effect"].mean(),
        tokens=int(shards.read("nodes").filter(pl.col("sampled"))["token_ids"].list.len().sum()),
    )


def _check(
    grower: Grower,
    trees: dict[str, Tree],
    rewards: dict[tuple[str, int], float],
    tasks: dict[str, dict[str, Any]],
    config: InterventionConfig,
) -> list[Case]:
    """Ask the editor about each chosen attempt; append its prompt, its answer and the step it proposes."""
    sampling = Sampling(config.temperature, config.top_p, config.check_tokens)
    pack, separator, cases = grower.work.pack, grower.work.suite.separator, []
    for tree in trees.values():
        task = tasks[tree.task]
        if task["reference_solution"] is None:
            continue
        failed = [attempt for attempt in attempts_of(tree, rewards) if attempt.reward < 1]
        for attempt in failed[: config.per_task]:
            transcript = pack.transcript([tree[step]["text"] for step in attempt.steps])
            if not grower.tokens.safe(transcript):
                continue
            reference = task["reference_solution"].rstrip() + separator
            holes = {"question": task["question"], "reference": reference, "steps": transcript}
            prompt = grower.tokens.render(pack.messages("intervene", **holes))
            node = tree.add_prompt(attempt.leaf, prompt, text=transcript, agent="editor")
            cases.append(Case(tree, attempt, grower.request(tree.task, prompt, sampling, sample=0), node))
    entries = grower.run(case.ask for case in cases)
    for case in cases:
        entry = entries.get(case.ask.key)
        if entry is None:
            case.dropped = "no check came"
            continue
        case.check_node = grower.add_whole(
            case.tree, case.check_prompt, entry, kind="critique", origin="critique", agent="editor"
        )
        answer = tasks[case.tree.task]["answer"]
        text = grower.tokens.decode(entry.completion.token_ids)
        case.proposal = read_proposal(text, steps=len(case.source.steps), reference_answer=answer)
        case.dropped = case.proposal.dropped
        if case.dropped is None and not grower.tokens.safe(case.proposal.text):
            case.dropped = "intervention spells a control token"
    return cases


def _continue(grower: Grower, cases: list[Case], config: InterventionConfig) -> None:
    """Put each edit in the place of the wrong step and draw both arms."""
    separator = grower.work.suite.separator
    sampling = Sampling(config.temperature, config.top_p, grower.work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    for case in live:
        tree, steps, at = case.tree, case.source.steps, case.proposal.first_error
        before = steps[at - 1] if at else 0
        case.edit_node = tree.add(
            before,
            kind="step",
            origin="intervention",
            agent="editor",
            token_ids=grower.tokens.encode(case.proposal.text + separator).tolist(),
            text=case.proposal.text,
        )
        original = [] if at == len(steps) - 1 else _draw(grower, tree, steps[at], sampling, config)
        case.requests = (_draw(grower, tree, case.edit_node, sampling, config), original)
    entries = grower.run(request for case in live for arm in case.requests for request in arm)
    for case in live:
        parents = (case.edit_node, case.source.steps[case.proposal.first_error])
        for parent, requests, leaves in zip(parents, case.requests, case.arms, strict=True):
            for request in requests:
                if request.key in entries:
                    leaves.append(grower.add(case.tree, parent, entries[request.key], origin="continuation"))


def _draw(grower: Grower, tree: Tree, node: int, sampling: Sampling, config: InterventionConfig) -> list[Request]:
    """The continuations of one arm, from a node on."""
    prefix = tree.tokens(node)
    return [grower.request(tree.task, prefix, sampling, sample=index) for index in range(config.continuations)]


def _arm(case: Case, arm: int, rewards: dict[tuple[str, int], float]) -> tuple[int | None, int | None]:
    """Judged continuations of an arm and the right ones among them; nulls where none was judged."""
    judged = [rewards[case.tree.tree, leaf] for leaf in case.arms[arm] if (case.tree.tree, leaf) in rewards]
    return (len(judged), sum(reward >= 1 for reward in judged)) if judged else (None, None)


def _variant_rows(cases: list[Case], rewards: dict[tuple[str, int], float], config: InterventionConfig) -> pl.DataFrame:
    rows = []
    for case in cases:
        with_count, with_successes = _arm(case, 0, rewards)
        without_count, without_successes = _arm(case, 1, rewards)
        proposal, dropped = case.proposal, case.dropped
        if dropped is None and (with_successes or 0) < config.min_successes:
            dropped = NO_SUCCESS
        both = with_count is not None and without_count is not None
        rows.append(
            {
                "task": case.tree.task,
                "variant": f"{case.tree.tree}/intervention/{case.source.leaf}",
                "tree": case.tree.tree,
                "kind": "intervention",
                "source_leaf": case.source.leaf,
                "pivot": None if case.edit_node is None else case.tree[case.edit_node]["parent"],
                "first_node": case.edit_node,
                "blamed_step": proposal.first_error if proposal else None,
                "report_node": case.check_node,
                "edit": proposal.text if proposal and proposal.text else None,
                "author": "policy",
                "dropped": dropped,
                "with_count": with_count,
                "with_successes": with_successes,
                "without_count": without_count,
                "without_successes": without_successes,
                "effect": with_successes / with_count - without_successes / without_count if both else None,
            }
        )
    return pl.DataFrame(rows, schema=column_types(Variants), orient="row")

"""Stage: reflect on failed attempts, then try each again from the task's own prompt (R3L).

The guided attempt keeps the prompt it was sampled under; its distilled copy hangs under the task's own prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from pipeline.variants.reflect import Reflection, read_reflection
from schemas import Variants
from schemas.base import column_types

STAGE = "retries"
VERSION = "1"
TABLES = ("nodes", "variants", "verdicts", "requests")
BEFORE = ("rollouts", "trees")


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """per_task: failed attempts reflected on. report_tokens: at most, of a reflection."""

    per_task: int = 2
    temperature: float = 1.0
    top_p: float = 1.0
    report_tokens: int = 256


@dataclass(slots=True)
class Case:
    """A failed attempt on its way through reflection and retry."""

    tree: Tree
    source: Attempt
    ask: Request
    report_prompt: int
    report_node: int | None = None
    reflection: Reflection | None = None
    retry: Request | None = None
    dropped: str | None = None
    guided_prompt: int | None = None
    first_node: int | None = None


def write_retries(work: Work, config: RetryConfig = RetryConfig()) -> Report:
    """Reflect on failed attempts and retry those whose reflection is valid."""
    check_counts(config, per_task=1, report_tokens=1)
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
            cases = _reflect(grower, trees, rewards, by_task, config)
            _retry(grower, cases, by_task, config)
            grown = list(trees.values())
            verdicts = judge(grown, by_task)
            shards.write(
                name,
                parts,
                nodes=nodes_frame(grown),
                variants=_variant_rows(cases, rewards_by_node(verdicts)),
                verdicts=verdicts,
                requests=grower.requests(STAGE),
            )
    variants = shards.read("variants")
    tried = variants.filter(pl.col("dropped").is_null())
    return shards.finish(
        reflections=variants.height,
        valid=tried.height / max(1, variants.height),
        retries=tried.height,
        retry_pass_rate=tried["with_successes"].sum() / max(1, tried["with_count"].sum()),
        tokens=int(shards.read("nodes").filter(pl.col("sampled"))["token_ids"].list.len().sum()),
    )


def _reflect(
    grower: Grower,
    trees: dict[str, Tree],
    rewards: dict[tuple[str, int], float],
    tasks: dict[str, dict[str, Any]],
    config: RetryConfig,
) -> list[Case]:
    """Ask for a reflection on each chosen attempt and append prompt and answer below its leaf."""
    sampling = Sampling(config.temperature, config.top_p, config.report_tokens)
    pack, cases = grower.work.pack, []
    for tree in trees.values():
        failed = [attempt for attempt in attempts_of(tree, rewards) if attempt.reward < 1]
        for attempt in failed[: config.per_task]:
            transcript = pack.transcript([tree[step]["text"] for step in attempt.steps])
            if not grower.tokens.safe(transcript):
                continue
            holes = {"question": tasks[tree.task]["question"], "steps": transcript, "outcome": "failure"}
            prompt = grower.tokens.render(pack.messages("reflect", **holes))
            node = tree.add_prompt(attempt.leaf, prompt, text=transcript, agent="reflector")
            cases.append(Case(tree, attempt, grower.request(tree.task, prompt, sampling, sample=0), node))
    entries = grower.run(case.ask for case in cases)
    for case in cases:
        entry = entries.get(case.ask.key)
        if entry is None:
            case.dropped = "no reflection came"
            continue
        case.report_node = grower.add_whole(
            case.tree, case.report_prompt, entry, kind="reflection", origin="reflection", agent="reflector"
        )
        text = grower.tokens.decode(entry.completion.token_ids)
        case.reflection = read_reflection(text, steps=len(case.source.steps))
        if not case.reflection.valid:
            case.dropped = "invalid reflection"
        elif case.reflection.perfect:
            case.dropped = "held for a success"
        elif not grower.tokens.safe(case.reflection.report):
            case.dropped = "reflection spells a control token"
    return cases


def _retry(grower: Grower, cases: list[Case], tasks: dict[str, dict[str, Any]], config: RetryConfig) -> None:
    """Ask for the guided attempts; append each, and its distilled copy under the task's own prompt."""
    work = grower.work
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    for case in live:
        question = tasks[case.tree.task]["question"]
        prompt = grower.tokens.render(work.pack.messages("retry", question=question, report=case.reflection.report))
        case.guided_prompt = case.tree.add_prompt(case.report_node, prompt, text=case.reflection.report, agent="solver")
        case.retry = grower.request(case.tree.task, prompt, sampling, sample=0)
    entries = grower.run(case.retry for case in live)
    for case in live:
        entry = entries.get(case.retry.key)
        if entry is None:
            case.dropped = "no retry came"
            continue
        guided = grower.add(case.tree, case.guided_prompt, entry, origin="guided_retry")
        case.first_node = len(case.tree)
        case.tree.copy_chain(guided, 0, origin="retry")


def _variant_rows(cases: list[Case], rewards: dict[tuple[str, int], float]) -> pl.DataFrame:
    rows = []
    for case in cases:
        carried_out = case.first_node is not None
        reward = rewards.get((case.tree.tree, case.tree.last_of(case.first_node))) if carried_out else None
        rows.append(
            {
                "task": case.tree.task,
                "variant": f"{case.tree.tree}/retry/{case.source.leaf}",
                "tree": case.tree.tree,
                "kind": "retry",
                "source_leaf": case.source.leaf,
                "pivot": 0 if carried_out else None,
                "first_node": case.first_node,
                "blamed_step": case.reflection.pivot if case.reflection else None,
                "report_node": case.report_node,
                "edit": None,
                "author": "policy",
                "dropped": case.dropped,
                "with_count": None if reward is None else 1,
                "with_successes": None if reward is None else int(reward >= 1),
                "without_count": None,
                "without_successes": None,
                "effect": None,
            }
        )
    return pl.DataFrame(rows, schema=column_types(Variants), orient="row")

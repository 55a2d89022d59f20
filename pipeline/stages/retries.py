"""Stage: reflect on failed attempts, then try each again from the task's own prompt (R3L).

The guided attempt keeps the prompt it was sampled under; its distilled copy hangs under the task's own prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from pipeline.variants.reflect import Reflection, read_reflection

STAGE = "retries"
VERSION = "1"
REFLECTING = Asking(
    role="reflect",
    agent="reflector",
    kind="reflection",
    holes=lambda task, steps: {"question": task["question"], "steps": steps, "outcome": "failure"},
)


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """per_task: failed attempts reflected on. report_tokens: at most, of a reflection."""

    per_task: int = 2
    temperature: float = 1.0
    top_p: float = 1.0
    report_tokens: int = 256


@dataclass(slots=True)
class RetryCase(Case):
    """A failed attempt on its way through reflection and retry.

    guided_prompt: node of the retry's prompt. first_node: of the distilled copy under the task's own prompt.
    """

    reflection: Reflection | None = None
    retry: Request | None = None
    guided_prompt: int | None = None
    first_node: int | None = None


def write_retries(work: Work, config: RetryConfig = RetryConfig()) -> Report:
    """Reflect on failed attempts and retry those whose reflection is valid."""
    check_counts(config, per_task=1, report_tokens=1)

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[RetryCase]:
        cases = _reflect(grower, trees, rewards, tasks, config)
        _retry(grower, cases, tasks, config)
        return cases

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=_row)
    variants = shards.read("variants")
    tried = variants.filter(pl.col("dropped").is_null())
    return shards.finish(
        valid_share=tried.height / max(1, variants.height),
        retries=tried.height,
        retry_pass_rate=rate(tried, "with"),
        tokens=sampled_tokens(shards),
    )


def _reflect(
    grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks, config: RetryConfig
) -> list[RetryCase]:
    """Ask for a reflection on each chosen attempt and read it."""
    sampling = Sampling(config.temperature, config.top_p, config.report_tokens)
    cases = ask_about_failures(
        grower, trees, rewards, tasks, REFLECTING, case=RetryCase, per_task=config.per_task, sampling=sampling
    )
    for case in cases:
        if case.answer is None:
            continue
        case.reflection = read_reflection(case.text, steps=len(case.source.steps))
        if not case.reflection.valid:
            case.dropped = "invalid reflection"
        elif case.reflection.perfect:
            case.dropped = "held for a success"
        elif not grower.tokens.safe(case.reflection.report):
            case.dropped = "reflection spells a control token"
    return cases


def _retry(grower: Grower, cases: list[RetryCase], tasks: Tasks, config: RetryConfig) -> None:
    """Ask for the guided attempts; append each, and its distilled copy under the task's own prompt."""
    work = grower.work
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    for case in live:
        question = tasks[case.tree.task]["question"]
        prompt = grower.tokens.render(work.pack.messages("retry", question=question, report=case.reflection.report))
        case.guided_prompt = case.tree.add_prompt(case.answer, prompt, text=case.reflection.report, agent="solver")
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


def _row(case: RetryCase, rewards: Rewards) -> dict[str, Any]:
    carried_out = case.first_node is not None
    reward = rewards.get((case.tree.tree, case.tree.last_of(case.first_node))) if carried_out else None
    return {
        "variant": f"{case.tree.tree}/retry/{case.source.leaf}",
        "kind": "retry",
        "pivot": 0 if carried_out else None,
        "first_node": case.first_node,
        "blamed_step": case.reflection.pivot if case.reflection else None,
        "with_count": None if reward is None else 1,
        "with_successes": None if reward is None else int(reward >= 1),
    }

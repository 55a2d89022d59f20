"""Stage: reflect on failed attempts, then try each again (R3L).

A retry begins from the task's prompt, or goes on from the step that the reflection blames. The guided attempt keeps the
prompt it was sampled under; its distilled copy stands under the task's own prompt, after the very nodes of the attempt
that it shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipeline.errors import check_counts, check_words
from pipeline.generation.engine import Request, Sampling
from pipeline.report import Report
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.varying import (
    Asking,
    Case,
    Which,
    ask_about,
    cases_of,
    one_try,
    parsed_share,
    rate,
    sampled_tokens,
    write_variants,
)
from pipeline.stages.work import Work
from pipeline.trees.grow import Tree
from pipeline.variants.reflect import Reflection, read_reflection

STAGE = "retries"
VERSION = "2"

Begin = Literal["prompt", "step"]


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """per_task: attempts reflected on. which: those that failed, or all. begin: where a retry begins, at the prompt of
    the task or at the step blamed. report_tokens: of a reflection, at most. guided: the engine holds a reflection to
    its JSON schema.
    """

    per_task: int = 2
    which: Which = "failures"
    begin: Begin = "prompt"
    temperature: float = 1.0
    top_p: float = 1.0
    report_tokens: int = 256
    guided: bool = True


@dataclass(slots=True)
class RetryCase(Case):
    """An attempt on its way through reflection and retry.

    kept:       steps of the attempt that the retry goes on from.
    goes_on:    node in the guided context after which the retry is sampled.
    first_node: of the distilled copy.
    """

    reflection: Reflection | None = None
    kept: int = 0
    retry: Request | None = None
    goes_on: int | None = None
    first_node: int | None = None

    @property
    def pivot(self) -> int:
        """The node after which the distilled copy departs."""
        return self.source.steps[self.kept - 1] if self.kept else 0


def write_retries(work: Work, config: RetryConfig = RetryConfig()) -> Report:
    """Reflect on attempts and retry those whose reflection is valid."""
    check_counts(config, per_task=1, report_tokens=1)
    check_words(config, of="retries", which=("failures", "all"), begin=("prompt", "step"))

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[RetryCase]:
        cases = _reflect(grower, trees, rewards, tasks, config)
        _retry(grower, cases, tasks, config)
        return cases

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=_row)
    variants = shards.read("variants")
    tried = variants.filter(pl.col("dropped").is_null())
    return shards.finish(
        valid_share=tried.height / max(1, variants.height),
        parsed_share=parsed_share(variants),
        retries=tried.height,
        retry_pass_rate=rate(tried, "with"),
        tokens=sampled_tokens(shards),
    )


def _reflect(
    grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks, config: RetryConfig
) -> list[RetryCase]:
    """Ask for a reflection on each chosen attempt and read it."""
    reflecting = Asking(
        "reflect",
        "reflector",
        "reflection",
        lambda task, attempt, steps: {
            "question": task["question"],
            "steps": steps,
            "outcome": "success" if attempt.reward >= 1 else "failure",
        },
        guided=config.guided,
    )
    chosen = cases_of(trees, rewards, case=RetryCase, per_task=config.per_task, which=config.which)
    sampling = Sampling(config.temperature, config.top_p, config.report_tokens)
    cases = ask_about(grower, chosen, tasks, reflecting, sampling)
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
    """Ask for the guided attempts; append each, and its distilled copy where no guidance is."""
    work = grower.work
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    for case in live:
        tree, report = case.tree, case.reflection.report
        prompt = grower.tokens.render(work.pack.messages("retry", question=tasks[tree.task]["question"], report=report))
        case.goes_on = tree.add_prompt(case.answer, prompt, text=report, agent="solver")
        if config.begin == "step" and case.reflection.pivot:
            case.kept = case.reflection.pivot
            case.goes_on = tree.copy_chain(case.pivot, case.goes_on, origin="guided_retry")
        case.retry = grower.request(tree.task, tree.tokens(case.goes_on), sampling, sample=0)
    entries = grower.run(case.retry for case in live)
    for case in live:
        entry = entries.get(case.retry.key)
        if entry is None:
            case.dropped = "no retry came"
            continue
        guided = grower.add(case.tree, case.goes_on, entry, origin="guided_retry")
        case.first_node = len(case.tree)
        case.tree.copy_chain(guided, case.pivot, origin="retry", after=case.kept)


def _row(case: RetryCase, rewards: Rewards) -> dict[str, Any]:
    return {
        "variant": f"{case.tree.tree}/retry/{case.source.leaf}",
        "kind": "retry",
        "pivot": case.pivot if case.first_node is not None else None,
        "first_node": case.first_node,
        "blamed_step": case.reflection.pivot if case.reflection else None,
        **one_try(case.tree, case.first_node, rewards),
    }

"""Stage: reflect on failed attempts, then try each again (R3L).

A retry begins from the task's prompt, or goes on from the step that the reflection blames. The guided attempt keeps the
prompt it was sampled under; its distilled copy stands under the task's own prompt, after the very nodes of the attempt
that it shares. Episodes in an environment go the same way (`pipeline.stages.episode_retries`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from pipeline.errors import check_counts, check_words
from pipeline.generation.engine import Request, Sampling
from pipeline.prompts import PromptPack
from pipeline.report import Report
from pipeline.stages.episode_retries import retry_episodes
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.reflecting import QUOTES, STAGE, VERSION, RetryCase, RetryConfig, reflect, retry_row
from pipeline.stages.varying import cases_of, finished, parsed_share, rate, write_variants
from pipeline.stages.work import Shards, Work
from pipeline.trees.grow import Tree
from pipeline.variants.quoting import guidance_of, quotes


@dataclass(slots=True)
class _Case(RetryCase):
    """goes_on: node in the guided context after which the retry is sampled."""

    retry: Request | None = None
    goes_on: int | None = None


def write_retries(work: Work, config: RetryConfig = RetryConfig()) -> Report:
    """Reflect on attempts and retry those whose reflection is valid.

    Raises:
        BadConfig: an option is none, or the suite's environment has several seats.
    """
    check_counts(config, per_task=1, report_tokens=1)
    check_words(config, of="retries", which=("failures", "all"), begin=("usual", "prompt", "step"))
    shards = _write(work, config) if work.suite.environment is None else retry_episodes(work, config)
    variants = shards.read("variants")
    tried = variants.filter(pl.col("dropped").is_null())
    return finished(
        shards,
        variants,
        of=f"{'failed ' if config.which == 'failures' else ''}attempt that the policy sampled",
        valid_share=tried.height / max(1, variants.height),
        parsed_share=parsed_share(variants),
        retries=tried.height,
        retry_pass_rate=rate(tried, "with"),
    )


def _write(work: Work, config: RetryConfig) -> Shards:
    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[_Case]:
        chosen = cases_of(trees, rewards, case=_Case, per_task=config.per_task, which=config.which)
        cases = reflect(grower, chosen, tasks, config)
        _retry(grower, cases, tasks, config)
        return cases

    return write_variants(work, STAGE, config, version=VERSION, vary=vary, row=retry_row)


def _retry(grower: Grower, cases: list[_Case], tasks: Tasks, config: RetryConfig) -> None:
    """Ask for the guided attempts; append each, and its distilled copy where no guidance is, nor any quoted.

    Two attempts at a task may lead to the same prompt; each still gets a retry of its own.
    """
    work = grower.work
    sampling = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    live = [case for case in cases if case.dropped is None]
    alike: Counter[tuple[str, bytes]] = Counter()
    for case in live:
        tree, report = case.tree, case.reflection.report
        prompt = grower.tokens.render(work.pack.messages("retry", question=tasks[tree.task]["question"], report=report))
        case.goes_on = tree.add_prompt(case.answer, prompt, text=report, agent="solver")
        if config.begin == "step" and case.reflection.pivot:
            case.kept = case.reflection.pivot
            case.goes_on = tree.copy_chain(case.pivot, case.goes_on, origin="guided_retry")
        prefix = tree.tokens(case.goes_on)
        same = (tree.task, prefix.tobytes())
        case.retry = grower.request(tree.task, prefix, sampling, sample=alike[same])
        alike[same] += 1
    entries = grower.run(case.retry for case in live)
    for case in live:
        entry = entries.get(case.retry.key)
        if entry is None:
            case.dropped = "no retry came"
            continue
        guided = grower.add(case.tree, case.goes_on, entry, origin="guided_retry")
        if _quotes(work.pack, case, guided, question=tasks[case.tree.task]["question"]):
            case.dropped = QUOTES
            continue
        case.first_node = len(case.tree)
        case.tree.copy_chain(guided, case.pivot, origin="retry", after=case.kept)


def _quotes(pack: PromptPack, case: _Case, guided: int, *, question: str) -> bool:
    """Whether the new steps of a guided attempt quote what it alone was told."""
    tree, sampled = case.tree, case.tree.path(guided)
    said = "\n".join(tree[node]["text"] for node in sampled if tree[node]["sampled"])
    preamble = [message["content"] for message in pack.messages("retry", question="", report="")]
    told = [message["content"] for message in pack.messages("solve", question=question)]
    return quotes(said, guidance=guidance_of(case.reflection.report, preamble), plain=[*told, "\n".join(case.texts)])

"""Bench `gen` on a real engine: vLLM in this process on the embedded policy, ours beside vLLM's own `generate`.

What was decoded and computed is read off vLLM's own counters, so that tokens lost on the way to the tree count too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bench.forest import StoredForest
from pipeline.bench.gen_drivers import Attempted, ours
from pipeline.bench.metric import Metric, ratio
from pipeline.generation.engine import Sampling, make_request
from pipeline.generation.engines import MAX_LENGTH, close_engines, engine_dtype, open_engine, open_tokens
from pipeline.generation.policies import find_policy
from pipeline.generation.reuse import Answered, least_prefill, unique_tokens
from pipeline.prompts import load_pack
from pipeline.tasks.suites import load_suite, suite_tasks
from pipeline.tasks.verifiers import Question, verify
from pipeline.trees.draft import Draft, Reading, new_draft
from pipeline.trees.growth.brpo import Brpo
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.forks import Forks
from pipeline.trees.growth.guided import Guided
from pipeline.trees.growth.mcts import Mcts
from pipeline.trees.growth.monte_carlo import MonteCarlo
from pipeline.trees.growth.omegaprm import OmegaPrm
from pipeline.trees.growth.pppo import Pppo
from pipeline.trees.growth.spo_chain import SpoChain
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.growth.steps import Steps
from pipeline.trees.segment import cut_steps
from pipeline.trees.strategy import Strategy

if TYPE_CHECKING:
    from pipeline.generation.vllm_engine import VllmEngine

SUITE, POLICY = "chain_sum", "tiny"
PROMPTS, GROUP, REPEATS = 64, 8, 5
BRANCHING, SEGMENT, BLOCK = (6, 6, 6), 8, 32
STRATEGIES: dict[str, tuple[int, Strategy]] = {
    "spo_tree": (2, SpoTree(BRANCHING, SEGMENT, temperature=1.0)),
    "chains": (2, Flat(group=prod(BRANCHING))),
    "flat": (16, Flat()),
    "spo_chain": (8, SpoChain()),
    "forks": (16, Forks()),
    "brpo": (8, Brpo(budgets=(12, 24, 36), summary_tokens=12, end_marker="", cut="", header="\n")),
    "pppo": (8, Pppo()),
    "mcts": (8, Mcts()),
    "guided": (8, Guided()),
    "flat, steps": (8, Attempted(Steps())),
    "flat, monte_carlo": (8, Attempted(MonteCarlo())),
    "flat, omegaprm": (8, Attempted(OmegaPrm())),
}
"""Trees of each strategy, of rules that begin with attempts after a flat group; `chains` are as many answers as a tree
of SPO has leaves."""


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Our rate over the engine's own, then what strategies decode and compute."""
    from pipeline.generation.vllm_engine import VllmEngine

    policy = find_policy(POLICY, policies=forest.root)
    try:
        yield from _rates(open_engine("vllm", policy))
    finally:
        close_engines()
    engine = VllmEngine(policy, dtype=engine_dtype(), max_length=MAX_LENGTH, counting=True, block=BLOCK)
    try:
        for name, (trees, strategy) in STRATEGIES.items():
            yield from _waste(engine, name, strategy, trees)
    finally:
        engine.close()


def _rates(engine: VllmEngine) -> Iterator[Metric]:
    """Flat groups through scheduler, sampler and a new ledger, in turn with `LLM.generate` on the same requests."""
    drafts = _drafts(PROMPTS)
    sampling = Sampling(max_tokens=drafts[0].max_tokens)
    requests = [
        make_request(draft.pieces[0].token_ids, sampling, sample=sample, fingerprint=engine.fingerprint)
        for draft in drafts
        for sample in range(GROUP)
    ]
    params = [engine._params(request) for request in requests]
    prompts = [{"prompt_token_ids": request.prompt.tolist()} for request in requests]
    rates: list[tuple[float, float]] = []
    for number in range(REPEATS + 1):
        engine._llm.reset_prefix_cache()
        drawn = ours(engine, Flat(group=GROUP), _drafts(PROMPTS))
        mine = sum(len(asked.answer) for asked in drawn.asked) / drawn.seconds
        engine._llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs = engine._llm.generate(prompts, params, use_tqdm=False)
        theirs = sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - start)
        if number:
            rates.append((mine, theirs))
    rates.sort(key=lambda pair: pair[0] / pair[1])
    yield ratio(
        "gen.engine_rate_ratio",
        *rates[REPEATS // 2],
        unit="x",
        params={
            "engine": "vllm",
            "policy": POLICY,
            "prompts": PROMPTS,
            "group": GROUP,
            "repeats": REPEATS,
            "each": " ".join(f"{mine / theirs:.3f}" for mine, theirs in rates),
        },
    )


def _waste(engine: VllmEngine, name: str, strategy: Strategy, trees: int) -> Iterator[Metric]:
    """What a strategy had the engine decode and compute, over what its trees keep and what a cache cannot spare."""
    block = engine._llm.llm_engine.vllm_config.cache_config.block_size
    drafts, rows = _drafts(trees), {row["task"]: row for row in _tasks(trees)}

    def reward_of(draft: Draft, piece: int) -> float | None:
        row = rows[draft.task]
        return verify(row["verifier"], Question(row["answer"], row["info"]), draft.written(draft.end_of(piece))).reward

    engine._llm.reset_prefix_cache()
    before = engine.counters()
    drawn = ours(engine, strategy, drafts, reward_of=reward_of)
    after = engine.counters()
    decoded = after.generation_tokens - before.generation_tokens
    queries = after.prefix_cache_queries - before.prefix_cache_queries
    computed = queries - (after.prefix_cache_hits - before.prefix_cache_hits)
    answered = [Answered(asked.prompt, asked.answer) for asked in drawn.asked]
    params = {"engine": "vllm", "policy": POLICY, "strategy": name, "scheduler": "ours/first", "trees": trees}
    params |= {"requests": len(drawn.asked), "block": block, "seconds": round(drawn.seconds, 2)}
    yield ratio("gen.decode_waste", decoded, drawn.kept, unit="x", params=params)
    least, unique = least_prefill(answered, size=block), unique_tokens(answered).prompt
    params |= {"over_unique_prompt": round(computed / unique, 3), "queried": queries}
    yield ratio("gen.prefill_waste", computed, least, unit="x", params=params)


def _tasks(count: int) -> list[dict[str, Any]]:
    """The suite's first training tasks."""
    rows = suite_tasks(load_suite(SUITE, folder=Path())).filter(split="train").head(count)
    return list(rows.iter_rows(named=True))


def _drafts(count: int) -> list[Draft]:
    """Trees of these tasks, of which there is no more than the prompt."""
    suite, tokens = load_suite(SUITE, folder=Path()), open_tokens(find_policy(POLICY, policies=Path()))
    closers = tokens.closers(suite.separator)
    reading = Reading(
        tokens.decode, lambda ids: cut_steps(ids, suite.separator, closers=closers, decode=tokens.decode), tokens.encode
    )
    pack = load_pack(suite.prompts)
    return [
        new_draft(
            row["task"],
            f"{row['task']}@bench",
            tokens.render(pack.messages("solve", question=row["question"])),
            text="",
            max_tokens=suite.max_tokens,
            reading=reading,
        )
        for row in _tasks(count)
    ]

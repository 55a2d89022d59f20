"""Bench `gen` on a real engine: vLLM in this process on the embedded policy, ours beside vLLM's own `generate`.

What was computed is read off the completions, as vLLM tells it of each request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench.forest import StoredForest
from pipeline.bench.gen_drivers import ours
from pipeline.bench.metric import Metric, ratio
from pipeline.generation.engine import Sampling, make_request
from pipeline.generation.engines import close_engines, open_engine, open_tokens
from pipeline.generation.policies import find_policy
from pipeline.generation.reuse import Answered, least_prefill, unique_tokens
from pipeline.prompts import load_pack
from pipeline.tasks.suites import load_suite, suite_tasks
from pipeline.trees.draft import Draft, Reading, new_draft
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.segment import Step

if TYPE_CHECKING:
    from pipeline.generation.vllm_engine import VllmEngine

SUITE, POLICY = "chain_sum", "tiny"
PROMPTS, GROUP, REPEATS = 64, 8, 5
TREES, BRANCHING, SEGMENT = 2, (6, 6, 6), 8


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Our rate over the engine's own, and a tree beside as many chains as it has leaves."""
    engine = open_engine("vllm", find_policy(POLICY, policies=forest.root))
    try:
        yield from _rates(engine)
        yield from _trees(engine)
    finally:
        close_engines()


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


def _trees(engine: VllmEngine) -> Iterator[Metric]:
    """SPO-tree beside flat groups of as many leaves."""
    block = engine._llm.llm_engine.vllm_config.cache_config.block_size
    for name, strategy in (
        ("spo_tree", SpoTree(BRANCHING, SEGMENT, temperature=1.0)),
        ("chains", Flat(group=int(np.prod(BRANCHING)))),
    ):
        engine._llm.reset_prefix_cache()
        drawn = ours(engine, strategy, _drafts(TREES))
        answered = [Answered(asked.prompt, asked.answer) for asked in drawn.asked]
        params = {"engine": "vllm", "policy": POLICY, "strategy": name, "scheduler": "ours/first", "trees": TREES}
        params |= {"requests": len(drawn.asked), "block": block, "seconds": round(drawn.seconds, 2)}
        decoded = sum(len(asked.answer) for asked in drawn.asked)
        computed = sum(len(asked.prompt) - asked.cached for asked in drawn.asked)
        yield ratio("gen.decode_waste", decoded, drawn.kept, unit="x", params=params)
        least, unique = least_prefill(answered, size=block), unique_tokens(answered).prompt
        params["over_unique_prompt"] = round(computed / unique, 3)
        yield ratio("gen.prefill_waste", computed, least, unit="x", params=params)


def _drafts(count: int) -> list[Draft]:
    """Trees of the suite's first training tasks."""
    suite, tokens = load_suite(SUITE, folder=Path()), open_tokens(find_policy(POLICY, policies=Path()))
    tasks = suite_tasks(suite).filter(split="train").head(count)
    reading = Reading(tokens.decode, lambda ids: [Step(0, len(ids), "")])
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
        for row in tasks.iter_rows(named=True)
    ]

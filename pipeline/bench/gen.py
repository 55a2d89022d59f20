"""Bench `gen`: what growing trees costs beside the least it could, ours and its rivals on the engine without a model.

A tick is a decoded token, a prompt takes no time. Knows no engine but the simulated one; `gen_vllm` asks a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipeline.bench.bounds import least_makespan, longest_path
from pipeline.bench.forest import StoredForest
from pipeline.bench.gen_drivers import Attempted, Drawn, Turns, by_level, in_batches, ours, recorded
from pipeline.bench.gen_searches import searched
from pipeline.bench.metric import Metric, Params, ratio
from pipeline.bench.simulated_engine import END_ID, Answers, Machine, SimulatedEngine
from pipeline.generation.block_cache import BLOCK_TOKENS
from pipeline.generation.engine import Request
from pipeline.generation.reuse import Answered, least_prefill, unique_tokens
from pipeline.trees.draft import Draft, Reading, new_draft
from pipeline.trees.growth import FROM_PROMPT, FROM_TREE
from pipeline.trees.growth.forks import Forks
from pipeline.trees.growth.treeps_rag import SearchGrowth
from pipeline.trees.segment import Step
from pipeline.trees.strategy import Strategy

LONGEST = 100_000
"""Tokens that no drawn answer has."""
STEP = 40
"""Tokens of a step, where a strategy asks for steps."""
AHEAD = 1 / 8
"""Requests that wait at the engine, by slot."""


@dataclass(frozen=True, slots=True)
class Load:
    """Trees, and the machine they are drawn on.

    prompt, answer: tokens of a prompt, of an answer in the mean. alike: standard deviation of the logarithm of what the
        answers of a task have in common.
    tool:  ticks from an answer's end to its delivery.
    stragglers: share of the answers that are eight times as long.
    cache: blocks of the prefix cache, over those that so many whole paths take as there are slots. None: no end.
    """

    shape: str
    trees: int
    prompt: int
    branching: tuple[int, ...]
    answer: int
    slots: int
    tool: int = 0
    alike: float = 0.0
    stragglers: float = 0.0
    cache: float | None = None

    def machine(self) -> Machine:
        """The machine."""
        path = -(-(self.prompt + len(self.branching) * self.answer) // 16)
        return Machine(
            slots=self.slots,
            tool_ticks=self.tool,
            cache_blocks=None if self.cache is None else round(self.cache * self.slots * path),
            most=self.slots + max(1, round(AHEAD * self.slots)),
        )

    def params(self) -> Params:
        """What it is, as metrics state it."""
        found = {"shape": self.shape, "trees": self.trees, "slots": self.slots, "tool_ticks": self.tool}
        found |= {"alike": self.alike, "stragglers": self.stragglers}
        return {**found, "cache": "endless" if self.cache is None else self.cache}


GROUP = Load("group of 8", 48, 500, (8,), 800, 64)
MATH = Load("3^3", 48, 500, (3, 3, 3), 250, 64)
WIDE = Load("6-6-6", 8, 500, (6, 6, 6), 250, 64)
TURNS = Load("2^5 agentic", 24, 1800, (2, 2, 2, 2, 2), 200, 64, tool=100)
TOOLS = Load("4^3 agentic", 24, 1800, (4, 4, 4), 300, 256, tool=100)
STRAGGLING = replace(GROUP, stragglers=0.02)
LOADS = (GROUP, replace(GROUP, slots=256), STRAGGLING, MATH, replace(MATH, slots=256), WIDE, TURNS, TOOLS)
OURS = (
    replace(GROUP, trees=240),
    replace(MATH, cache=1.5),
    replace(MATH, alike=0.5),
)
"""Where only our own orders are told apart: many groups, little memory, tasks whose answers are alike in length."""
WAYS = ("ours/first", "ours/longest", "barrier by level", "chains in batches")
STRATEGIES = Load("8 prompts", 8, 200, (1,), 120, 16)
"""On which the strategies of the registry are begun."""
EDGES = Load("24 prompts", 24, 200, (1,), 400, 64)
"""On which forks stand where they fall, and on the edges of the cache's blocks."""
EDGE_BLOCKS = (BLOCK_TOKENS, 1)
PARAMS: dict[str, dict[str, object]] = {
    "spo_tree": {"segment": 40},
    "brpo": {"budgets": (60, 120, 180), "summary_tokens": 30},
}
"""Lengths that suit short answers."""


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Ours and its rivals by load, then every strategy: those that begin with attempts after a flat group."""
    seed = forest.shape.seed
    for load in LOADS:
        for way in WAYS:
            yield from _metrics(*_draw(load, way, seed), load, {"strategy": "turns", "scheduler": way})
    for load in OURS:
        for way in WAYS[:2]:
            yield from _metrics(*_draw(load, way, seed), load, {"strategy": "turns", "scheduler": way})
    for name, strategy in strategies().items():
        drawn = _draw(STRATEGIES, WAYS[0], seed, strategy=strategy)
        yield from _metrics(*drawn, STRATEGIES, {"strategy": name, "scheduler": WAYS[0]})
    yield _edges(seed)


def strategies() -> dict[str, Strategy | SearchGrowth]:
    """Every strategy with what suits short answers, by what it is called in metrics."""
    begun = {name: strategy(**PARAMS.get(name, {})) for name, strategy in FROM_PROMPT.items()}
    after = {f"flat, {name}": Attempted(rule()) for name, rule in FROM_TREE.items()}
    return {**begun, **after, "treeps_rag": SearchGrowth(1.0)}


def _edges(seed: int) -> Metric:
    """Prompt tokens computed where forks move back to edges of blocks, over those where they do not."""
    strategies = [Forks(cache_block=block) for block in EDGE_BLOCKS]
    counted = [_draw(EDGES, WAYS[0], seed, strategy=strategy)[0].counters() for strategy in strategies]
    moved, fallen = (one.prefix_cache_queries - one.prefix_cache_hits for one in counted)
    decoded = " ".join(str(one.generation_tokens) for one in counted)
    params = {"strategy": "forks", "block": EDGE_BLOCKS[0], "decoded": decoded, **EDGES.params()}
    return ratio("gen.edge_prefill", moved, fallen, unit="x", params=params)


def _draw(
    load: Load, way: str, seed: int, *, strategy: Strategy | SearchGrowth | None = None
) -> tuple[SimulatedEngine, Drawn]:
    """Have the trees of a load drawn in one of the ways."""
    random = np.random.default_rng(seed)
    prompts = random.integers(END_ID + 1, 150_000, (load.trees, load.prompt), dtype=np.int32)
    stretch = np.exp(load.alike * random.standard_normal(load.trees) - load.alike**2 / 2)
    by_start = {prompt[:4].tobytes(): factor for prompt, factor in zip(prompts, stretch.tolist(), strict=True)}
    answer = partial(_stretched, by_start) if load.alike else None
    answers = Answers(load.answer, stragglers=load.stragglers, seed=seed)
    engine = SimulatedEngine(answers, load.machine(), answer=answer)
    if way == "barrier by level":
        return engine, by_level(engine, load.branching, prompts, max_tokens=LONGEST)
    if way == "chains in batches":
        return engine, in_batches(engine, load.branching, prompts, max_tokens=LONGEST, batch=load.slots)
    most = LONGEST if strategy is None else 4 * load.answer
    if isinstance(strategy, SearchGrowth):
        grow = partial(searched, growth=strategy, prompts=prompts, reading=READING, most=most)
        return engine, recorded(engine, grow, by_step=False)
    drafts = (
        new_draft(f"{number}", f"{number}@bench", prompt, text="", max_tokens=most, reading=READING)
        for number, prompt in enumerate(prompts)
    )
    strategy = strategy or Turns(load.branching, LONGEST)
    return engine, ours(engine, strategy, drafts, order=way.removeprefix("ours/"), reward_of=_reward_of)


def _metrics(engine: SimulatedEngine, drawn: Drawn, load: Load, way: Params) -> Iterator[Metric]:
    """G1 to G3 of performance by their names, with what they are divided from."""
    params, served, counters = {**way, **load.params()}, {one.key: one for one in engine.served}, engine.counters()
    row = {asked.key: number for number, asked in enumerate(drawn.asked)}
    parent = np.array([-1 if asked.waits is None else row[asked.waits] for asked in drawn.asked])
    times = [served[asked.key] for asked in drawn.asked]
    busy = np.array([one.ended - one.started for one in times])
    delay = np.array([one.delivered - one.ended for one in times])
    longest = longest_path(parent, busy + delay)
    params["work_over_longest"] = round(float(busy.sum()) / load.slots / longest, 2)
    answered = [Answered(asked.prompt, asked.answer) for asked in drawn.asked]
    computed = counters.prefix_cache_queries - counters.prefix_cache_hits
    unique = unique_tokens(answered).prompt
    yield ratio("gen.decode_waste", counters.generation_tokens, drawn.kept, unit="x", params=params)
    yield ratio(
        "gen.prefill_waste",
        computed,
        least_prefill(answered),
        unit="x",
        params={**params, "over_unique_prompt": round(computed / unique, 3)},
    )
    yield ratio(
        "gen.makespan_over_bound",
        counters.makespan,
        least_makespan(parent, busy, slots=load.slots, delay=delay),
        unit="x",
        params={**params, "idle_share": round(counters.idle_share, 3)},
    )


def _stretched(factors: dict[bytes, float], request: Request, token_ids: np.ndarray) -> np.ndarray:
    """An answer made longer or shorter by its task's factor."""
    found = np.resize(token_ids, max(1, round(len(token_ids) * factors[request.prompt[:4].tobytes()])))
    found[-1] = END_ID
    return found


def _spelt(token_ids: list[int]) -> str:
    return " ".join(map(str, token_ids))


def _steps(token_ids: np.ndarray) -> list[Step]:
    """Steps of one length, but for the last."""
    ends = [*range(STEP, len(token_ids), STEP), len(token_ids)]
    return [Step(start, end, "") for start, end in zip([0, *ends[:-1]], ends) if end]


def _encoded(text: str) -> np.ndarray:
    """A token for each byte."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + END_ID + 1


READING = Reading(_spelt, _steps, _encoded)


def _reward_of(draft: Draft, piece: int) -> float:
    """Right for every second answer or so."""
    return float(draft.pieces[piece].token_ids.sum() % 2)

"""The slow loops of the bench and the credit methods say the same of odd forests."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from pipeline.bench.credit import largest_difference, plain_rows
from pipeline.bench.row_loops import ROW_LOOPS
from pipeline.credit import METHODS
from pipeline.credit.columns import Trees
from schemas.words import FINISHES

LABELS = ("malt", "groundedprm")
"""Methods whose advantages are labels."""
MODELS = ("better", "worse", "prm", "tuned", "reference")
CELLS = ("DQ_AQ", "DQ_CQ", "DQ_DA", "VQ_AQ", "VQ_CQ", "VQ_DA")
REPLY = (
    *("<thinking>", "<think>", "a b ", "</think>", "</thinking>", "\n", "<payoff>", "MATRIX", "</payoff>", " "),
    *("<analyze>", "c", "</analyze>", "<response>", "d ", "<answer>", "7", "</answer>", "</response>"),
)
CALLS = (
    None,
    "[]",
    '[{"name": "search"}, {"name": "search"}]',
    '[{"name": "search", "ok": false, "arguments": {"query": "a", "k": 1}}]',
    '[{"name": "Search", "arguments": {"query": "b", "k": true}}, {"name": "add", "arguments": [1]}]',
    '[{"name": "add"}]',
    '[{"name": null, "error": "no JSON"}]',
)
REFERENCES = (
    None,
    "[]",
    '[{"name": "search", "arguments": {"k": 1.0, "query": "a"}}, {"name": "add"}]',
    '[{"name": "search", "arguments": {"query": "b"}}, {"name": "search", "arguments": {"k": 1, "safe": [1, true]}}]',
)
SUBGOALS = (None, "[]", '["key"]', '["door", "key", "key"]', '["key", "a key"]')
JUDGED = ("goal", "relationship", "knowledge")
PROMPT, SAMPLE, BRANCH, SUMMARY = 0, 1, 2, 13


def drawn_trees(seed: int) -> Trees:
    """Ragged trees: some of a node alone, some with none or all alike judged; steps without tokens, labels, states."""
    random, later = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    parent, depth, tree = [], [], []
    for number in range(10):
        first, lanky = len(parent), random.random() < 0.5
        for node in range(random.integers(1, 25)):
            above = (
                first + (max(0, node - 1 - random.integers(0, 2)) if lanky else random.integers(node)) if node else -1
            )
            parent.append(int(above))
            depth.append(depth[above] + 1 if node else 0)
            tree.append(number)
    count, tree, leaf = len(parent), np.array(tree), np.ones(len(parent), dtype=bool)
    leaf[[above for above in parent if above >= 0]] = False
    rewards = random.choice([0.0, 0.25, 1 / 3, 1.0, np.nan], count)
    rewards[tree == 4] = 0.3
    offsets = np.concatenate(([0], np.cumsum(random.integers(0, 4, count))))
    if seed % 2:
        offsets *= 60  # some longer than a budget
    flag, chance = (random.choice([0.0, 1.0, np.nan], count) for _ in range(2))
    logprobs = {f"{name}_logprobs": -random.exponential(size=offsets[-1]) for name in MODELS}
    for values in logprobs.values():
        values[random.random(offsets[-1]) < (0.001 if seed % 2 else 0.03)] = np.nan
    origin = drawn_origins(random, parent)
    attention = {name: random.exponential(5.0, offsets[-1]).round(1) for name in ("waad", "fai")}
    for values in attention.values():
        values[random.random(offsets[-1]) < 0.0002] = np.nan
    said = {f"attribution_{name}": random.choice([-1, 0, 1, 3, np.nan], count) for name in JUDGED}
    scores = {f"score_{name}": random.choice([2.0, 4.5, np.nan], count, p=[0.5, 0.45, 0.05]) for name in JUDGED}
    return Trees(
        parent=np.array(parent, dtype=np.int32),
        depth=np.array(depth, dtype=np.int32),
        tree=tree.astype(np.int32),
        reward=np.where(leaf & (tree != 5), rewards, np.nan),
        tokens=random.integers(0, 3, offsets[-1]).astype(np.int32),
        token_offsets=offsets,
        given={
            "agent": random.integers(0, 3, count),
            "kind": random.choice([0, 1, 3], count, p=[0.15, 0.8, 0.05]),
            "state": random.integers(-1, 3, count),
            "step_reward": random.choice([0.0, 0.1, 1.0, -0.5], count),
            "text": pl.Series([drawn_text(random) for _ in range(count)], dtype=pl.String),
            "tool_calls": pl.Series([CALLS[at] for at in random.integers(0, len(CALLS), count)], dtype=pl.String),
            "step_soft": random.choice([0.0, 0.25, 0.25, 0.25, 1.0, np.nan], count, p=[0.1, 0.3, 0.3, 0.1, 0.15, 0.05]),
            "step_hard": random.choice([0.0, 1.0, np.nan], count),
            "origin": origin,
            "finish": later.integers(-1, len(FINISHES), count),
            "sampled": later.random(count) < 0.8,
            "budget": drawn_budgets(random, parent, origin),
            "long_thinking": random.choice([0.0, 1.0, np.nan], count, p=[0.45, 0.45, 0.1]),
            "reference_calls": pl.Series([REFERENCES[at] for at in random.integers(0, 4, count)], dtype=pl.String),
            "subgoals": pl.Series([SUBGOALS[at] for at in random.integers(0, 5, count)], dtype=pl.String),
            "critic_values": np.where(random.random(offsets[-1]) < 0.002, np.nan, random.normal(size=offsets[-1])),
            "useful": pl.Series(random.choice(["[]", "[1, 0, 0]", "[1]"], count)),
            "searched": random.choice([-1.0, 0.0, 1.0, np.nan], count),
            "closed_book": flag,
            "key_turn": chance,
            "critic_q": np.where(np.isnan(flag), np.nan, random.normal(size=count)),
            "critic_v": random.normal(size=count),
            "latent_reward": np.where(random.random(count) < 0.05, np.nan, random.normal(size=count)),
            "planning": random.choice([0.0, 1.0, np.nan], offsets[-1]),
            "logprobs": np.where(random.random(offsets[-1]) < 0.2, np.nan, -random.exponential(size=offsets[-1])),
            **logprobs,
            **attention,
            **said,
            **scores,
        },
    )


def drawn_origins(random: np.random.Generator, parent: list[int]) -> np.ndarray:
    """Mostly samples, and summaries of two nodes or more."""
    origin = []
    for above in parent:
        asked = above >= 0 and origin[above] in (PROMPT, SUMMARY)
        chances = [0.05, 0.25, 0.1, 0.6] if asked else [0.1, 0.6, 0.05, 0.25]
        origin.append(int(random.choice([PROMPT, SAMPLE, BRANCH, SUMMARY], p=chances)))
    return np.array(origin)


def drawn_budgets(random: np.random.Generator, parent: list[int], origin: np.ndarray) -> np.ndarray:
    """Places of budgets that rise on the way down, at some samples; of some summaries too, in any order."""
    budget, most = np.full(len(parent), np.nan), [-1] * len(parent)
    for node, above in enumerate(parent):
        most[node] = most[above] if above >= 0 else -1
        if origin[node] == SAMPLE and most[node] < 3 and random.random() < 0.5:
            most[node] = budget[node] = min(most[node] + random.integers(1, 3), 3)
        elif origin[node] in (BRANCH, SUMMARY) and random.random() < 0.3:
            budget[node] = random.integers(0, 4)
    return budget


def drawn_text(random: np.random.Generator) -> str | None:
    """Nothing, tags in any order, spans that overlap, or a reply of which a piece may be lost, doubled or broken."""
    kind = random.integers(0, 5)
    if kind < 2:
        return None if kind == 0 else "".join(random.choice(REPLY, 5))
    if kind == 4:
        return "<think> a <answer> b </think> c </answer>"
    pieces = list(REPLY)
    pieces[pieces.index("MATRIX")] = drawn_matrix(random)
    if kind == 3:
        at, times = random.integers(0, len(pieces)), random.integers(0, 3)
        pieces[at : at + 1] = [pieces[at]] * times
    return "".join(pieces)


def drawn_matrix(random: np.random.Generator) -> str:
    cells = {cell: {"LLM": int(random.integers(0, 3)), "user": float(random.integers(0, 3))} for cell in CELLS}
    match random.integers(0, 6):
        case 0:
            return str(cells)  # a Python literal
        case 1:
            return json.dumps(cells).replace('"', "\u201d")
        case 2:
            cells["DQ_AQ"]["user"] = True
        case 3:
            del cells["VQ_DA"]
        case 4:
            return json.dumps(cells)[:-1]
    return json.dumps(cells)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("method", ROW_LOOPS)
def test_methods_equal_their_loops(method, seed):
    trees = drawn_trees(seed)
    found = METHODS[method].function(trees, METHODS[method].params())
    assert largest_difference(found, ROW_LOOPS[method](plain_rows(trees))) < 1e-9


@pytest.mark.parametrize("method", ROW_LOOPS)
def test_the_forests_move_every_method(method):
    """An equal answer says something only where there is something to say."""
    found = [ROW_LOOPS[method](plain_rows(drawn_trees(seed))) for seed in range(4)]
    said = [step for one in found for step in (one.value if method in LABELS else one.advantage)]
    assert len({round(step, 9) for step in said if step is not None}) > 5


@pytest.mark.parametrize("method", ROW_LOOPS)
def test_no_rows(method):
    assert ROW_LOOPS[method]([]).advantage == []


def test_every_method_has_a_loop():
    assert set(ROW_LOOPS) == set(METHODS)

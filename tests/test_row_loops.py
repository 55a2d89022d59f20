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

WITHOUT_LOOP = {
    *("adaptive_reasoning", "attention_rhythm", "brpo", "calm", "groundedprm", "ma_rlhf", "matchtir", "poad"),
    *("sotopia_rl", "spo_chain"),
}
"""Methods that are only timed; their reference vectors are in tests/golden."""

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
    '[{"name": "search", "ok": false}]',
    '[{"name": "add"}]',
)


def drawn_trees(seed: int) -> Trees:
    """Ragged trees: some of a node alone, some with none or all alike judged; steps without tokens, labels, states."""
    random = np.random.default_rng(seed)
    parent, depth, tree = [], [], []
    for number in range(10):
        first, lanky = len(parent), random.random() < 0.5
        for node in range(random.integers(1, 15)):
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
            "origin": random.choice([0, 1, 2], count, p=[0.1, 0.5, 0.4]),
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
        },
    )


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
    said = [step for one in found for step in ((one.value or []) if method == "malt" else one.advantage)]
    assert len({round(step, 9) for step in said if step is not None}) > 5


@pytest.mark.parametrize("method", ROW_LOOPS)
def test_no_rows(method):
    assert ROW_LOOPS[method]([]).advantage == []


def test_every_method_has_a_loop():
    assert set(METHODS) - set(ROW_LOOPS) == WITHOUT_LOOP
    assert set(ROW_LOOPS) <= set(METHODS)

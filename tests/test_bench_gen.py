"""The bench of growing: what the ways of drawing trees come to, worked out by hand. No bars: figures go to a report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import gen
from pipeline.bench.forest import StoredForest
from pipeline.bench.gen_drivers import Turns, by_level, in_batches, ours
from pipeline.bench.shape import Shape
from pipeline.bench.simulated_engine import END_ID, Machine, SimulatedEngine
from pipeline.trees.draft import new_draft
from pipeline.trees.growth import FROM_PROMPT, FROM_TREE

LENGTHS = {1: 3, 2: 5}
"""Tokens of an answer below each of two prompts."""
PROMPTS = [np.array([task] * 20, dtype=np.int32) for task in LENGTHS]
METRICS = {"gen.decode_waste", "gen.prefill_waste", "gen.makespan_over_bound", "gen.edge_prefill"}


def engine(slots: int) -> SimulatedEngine:
    return SimulatedEngine(
        machine=Machine(slots=slots),
        answer=lambda asked, _: [100 + asked.sample] * (LENGTHS[asked.prompt[0]] - 1) + [END_ID],
    )


def drafts():
    for number, prompt in enumerate(PROMPTS):
        yield new_draft(f"{number}", f"{number}@r", prompt, text="", max_tokens=99, reading=gen.READING)


def test_ours_goes_on_from_each_answer_at_once():
    simulated = engine(slots=99)
    drawn = ours(simulated, Turns((2, 2), 99), drafts())
    assert len(drawn.asked) == 2 * (2 + 4)
    assert drawn.kept == simulated.counters().generation_tokens == 6 * (3 + 5)
    assert simulated.now == 10
    ends = {asked.key: [*asked.prompt, *asked.answer] for asked in drawn.asked}
    for asked in drawn.asked:
        assert asked.prompt.tolist() == (ends[asked.waits] if asked.waits else [asked.prompt[0]] * 20)


def test_a_level_waits_for_the_longest_of_the_one_above():
    simulated = engine(slots=99)
    drawn = by_level(simulated, (2, 2), PROMPTS, max_tokens=99)
    assert simulated.now == 5 + 5
    assert drawn.kept == 6 * (3 + 5)
    started = {one.key: one.started for one in simulated.served}
    assert {started[asked.key] for asked in drawn.asked if asked.waits} == {5}


def test_chains_are_as_many_as_leaves_and_draw_each_level_anew():
    simulated = engine(slots=4)
    drawn = in_batches(simulated, (2, 2), PROMPTS, max_tokens=99, batch=4)
    assert len(drawn.asked) == 8 * 2
    assert drawn.kept == 4 * 2 * (3 + 5)
    assert simulated.now == 2 * 3 + 2 * 5
    assert sum(asked.waits is None for asked in drawn.asked) == 8


@pytest.fixture
def few(monkeypatch):
    small = replace(gen.MATH, trees=2, prompt=40, answer=20, slots=4)
    monkeypatch.setattr(gen, "LOADS", (small,))
    monkeypatch.setattr(gen, "OURS", (replace(small, cache=1.0, alike=0.5, tool=9),))
    monkeypatch.setattr(gen, "STRATEGIES", replace(gen.STRATEGIES, trees=1, answer=60))
    monkeypatch.setattr(gen, "EDGES", replace(gen.EDGES, trees=1, answer=60))


def test_every_way_and_strategy_is_measured(few):
    found = list(gen.measure(StoredForest(Path(), Shape())))
    assert {metric.metric for metric in found} == METRICS
    ways = [one.params["scheduler"] for one in found if one.metric == "gen.decode_waste"]
    strategies = [one.params["strategy"] for one in found if one.metric == "gen.decode_waste"]
    assert ways[:6] == [*gen.WAYS, *gen.WAYS[:2]]
    assert set(strategies) == {"turns", "treeps_rag", *FROM_PROMPT, *(f"flat, {name}" for name in FROM_TREE)}
    for metric in found:
        if metric.metric == "gen.makespan_over_bound":
            assert metric.value >= 1 - 1e-9
        if metric.metric == "gen.prefill_waste" and metric.params["cache"] == "endless":
            assert metric.value == 1


def test_rules_begin_with_attempts():
    load = replace(gen.STRATEGIES, trees=2)
    found = {name: gen._draw(load, gen.WAYS[0], 0, strategy=one)[1] for name, one in gen.strategies().items()}
    flat = {asked.key for asked in found["flat"].asked}
    for name in ("flat, steps", "flat, monte_carlo", "flat, omegaprm", "flat, forks"):
        assert flat < {asked.key for asked in found[name].asked}, name


def test_stragglers_are_eight_times_as_long():
    assert 0 < gen.STRAGGLING.stragglers < 1
    assert gen.STRAGGLING in gen.LOADS
    means = [
        np.mean([len(asked.answer) for asked in gen._draw(load, gen.WAYS[0], 0)[1].asked])
        for load in (gen.GROUP, replace(gen.GROUP, stragglers=1.0))
    ]
    assert means[1] == pytest.approx(8 * means[0], rel=0.2)


def test_answers_of_a_task_are_alike(few):
    load = replace(gen.MATH, trees=2, prompt=40, answer=20, alike=3.0)
    lengths = {}
    for asked in gen._draw(load, gen.WAYS[0], 0)[1].asked:
        lengths.setdefault(asked.prompt[0], []).append(len(asked.answer))
    one, other = (np.mean(of) for of in lengths.values())
    assert max(one, other) > 4 * min(one, other)

"""Length curriculum: budgets, rewards by part, tags, and the advantage in a group."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.curriculum_length import (
    LENGTH_SHAPES,
    SCHEDULES,
    CurriculumLengthParams,
    ScheduleParams,
    budgets,
    curriculum_advantages,
    curriculum_length_credit,
    find_spans,
    length_rewards,
    rewards,
)
from pipeline.errors import BadConfig

NA = float("nan")


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        pytest.param({}, (0, 149, 150, 300, 450), (256, 256, 179.2, 125.44, 87.808), id="paper's"),
        pytest.param({}, (10**6,), (1,), id="at least 1"),
        pytest.param(
            {"kind": "exp_points"}, (149, 150, 450, 9000), (256, 256 * (87 / 256) ** (1 / 3), 87, 87), id="three drops"
        ),
        pytest.param({"kind": "exp_points", "decays": 1}, (299, 300), (256, 87), id="one drop"),
        pytest.param({"kind": "exp_points", "decays": 7}, (74, 75), (256, 256 * (87 / 256) ** (1 / 7)), id="seven"),
        pytest.param(
            {"kind": "linear_points"}, (0, 150, 300, 450), (256, 256 - 169 / 3, 256 - 338 / 3, 87), id="linear"
        ),
        pytest.param({"kind": "linear_points", "end": 0.2}, (600,), (1,), id="linear to less than 1"),
        pytest.param({"kind": "exp_points", "decays": 0}, (0, 600), (256, 256), id="no drop"),
        pytest.param(
            {"kind": "exp_points", "decays": 2, "total_steps": 100}, (33, 34), (256, 149.2), id="no whole step"
        ),
    ],
)
def test_budgets(options, steps, expected):
    np.testing.assert_allclose(budgets(np.array(steps), ScheduleParams(**options)), expected, rtol=1e-3)


@given(st.sampled_from(SCHEDULES), st.integers(0, 9), st.integers(1, 700))
@settings(max_examples=60, deadline=None)
def test_the_budget_never_rises_nor_falls_below_1(kind, decays, total):
    found = budgets(np.arange(800), ScheduleParams(kind=kind, decays=decays, total_steps=total, end=0.5, interval=40))
    assert (np.diff(found) <= 1e-9).all()
    assert found.min() >= 1
    assert found[0] == 256
    if kind != "exp" and decays:
        assert len(np.unique(np.round(found, 6))) <= decays + 1


def test_length_rewards():
    lengths, near = np.array([0, 50, 100, 150, 200, 201, 900]), {"budget": 100}
    triangle = length_rewards(lengths, CurriculumLengthParams(**near, r_max=2.0))
    band = length_rewards(lengths, CurriculumLengthParams("band", **near, r_max=2.0))
    np.testing.assert_allclose(triangle, (0, 1, 2, 1, 0, 0, 0))
    np.testing.assert_allclose(band, (2, 2, 2, 1, 0, 0, 0))


@pytest.mark.parametrize("shape", LENGTH_SHAPES)
def test_the_same_length_is_worth_another_reward_after_a_drop(shape):
    before, after = (
        length_rewards(np.array([200]), CurriculumLengthParams(shape, budget=float(budget)))[0]
        for budget in budgets(np.array([149, 150]))
    )
    assert before != after


def test_parts_add_up():
    found = rewards(
        np.array([1, 0, 0.5]),
        np.array([256, 384, 600]),
        think=np.array([True, True, False]),
        answer=np.array([True, False, False]),
        params=CurriculumLengthParams(),
    )
    np.testing.assert_allclose(found.correct, (0.6, 0, 0.3))
    np.testing.assert_allclose(found.length, (0.3, 0.15, 0))
    np.testing.assert_allclose(found.format, (0.1, 0.05, 0))
    np.testing.assert_allclose(found.total, (1, 0.2, 0.3))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.1, 0.25, 1.0])), min_size=1, max_size=10),
    st.sampled_from([0, 1]),
)
@settings(max_examples=60, deadline=None)
def test_advantages_are_of_the_group_alone(rows, ddof):
    groups, totals = (np.array(column) for column in zip(*rows, strict=True))
    found = curriculum_advantages(totals, groups, CurriculumLengthParams(std_ddof=ddof))
    for group in np.unique(groups):
        own = totals[groups == group]
        if len(np.unique(own)) == 1:
            assert found[groups == group].tolist() == [0.0] * len(own)
        else:
            expected = (own - own.mean()) / np.sqrt(own.var(ddof=ddof) + 1e-8)
            np.testing.assert_allclose(found[groups == group], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>a</think><answer>b</answer>", True, True),
        ("<answer>b</answer> <think>a</think>", True, True),
        ("<think>a<answer>b</answer></think>", False, False),
        ("<think>a<answer></think>b</answer>", False, False),
        ("<think>a</think>b", True, False),
        ("</think>a<think><answer>b</answer>", False, True),
        ("<think>a</think><think>a</think><answer>b</answer>", False, True),
        ("<think>a<answer>b", False, False),
        ("", False, False),
    ],
)
def test_find_spans(text, think, answer):
    found = find_spans(pl.Series([text, "<think></think>"]))
    assert [column.tolist() for column in found] == [[think, True], [answer, False]]


#     0      the question
#     1 4    a first step that two trajectories share, and a whole one
#    2 3
def test_stored_trees():
    texts = ["<think></think>", "<think>a</think>", "<answer>b</answer>", "b", "no tags"]
    trees = Trees(
        parent=np.array([-1, 0, 1, 1, 0], np.int32),
        depth=np.array([0, 1, 2, 2, 1], np.int32),
        tree=np.zeros(5, np.int32),
        reward=np.array([NA, NA, 1, 1, 0]),
        tokens=np.arange(10, dtype=np.int32),
        token_offsets=np.array([0, 3, 5, 7, 8, 10]),
        given={"text": pl.Series(texts)},
    )
    params = CurriculumLengthParams(budget=4)
    totals = np.array([0.6 + 0.3 + 0.1, 0.6 + 0.225 + 0.05, 0.15])
    expected = curriculum_advantages(totals, np.zeros(3, int), params)
    found = curriculum_length_credit(trees, params)
    np.testing.assert_allclose(found.advantage, (0, expected[:2].mean(), *expected), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ScheduleParams, {"kind": "cosine"}),
        (ScheduleParams, {"interval": 0}),
        (CurriculumLengthParams, {"length_shape": "square"}),
        (CurriculumLengthParams, {"budget": 0}),
    ],
)
def test_bad_parameters_are_named(kind, options):
    with pytest.raises(BadConfig, match=str(next(iter(options.values())))):
        kind(**options)

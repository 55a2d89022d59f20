"""Turn control: limits read off recorded runs, and those runs replayed under them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadConfig
from pipeline.generation.budget.turn_control import Limits, TurnParams, reminder, replay, run_costs, turn_limits
from pipeline.golden.turn_control import answer

NEVER = float("nan")


def run(needed, limits, *, granted=True, **params):
    needed = np.array(needed, dtype=np.float64)
    return replay(needed, np.full(len(needed), granted), limits, TurnParams(**params))


@pytest.mark.parametrize(
    ("baseline", "params", "limits"),
    [
        pytest.param([4, 1, 3, 2], {"percentile": 50}, (3, 3), id="2.5 is rounded up"),
        pytest.param([1, 2, 3], {"percentile": 50}, (2, 2), id="whole"),
        pytest.param([7], {"percentile": 25}, (7, 7), id="one run"),
        pytest.param([1] * 8 + [900_000] * 93, {"percentile": 7}, (1, 1), id="an excess by rounding is none"),
        pytest.param([1, 2, 3], {"percentile": 0, "mode": "dynamic", "extended_percentile": 100}, (1, 3), id="dynamic"),
        pytest.param([1, 2, 3], {"percentile": 50, "mode": "dynamic"}, (2, 2), id="dynamic with one percentile"),
        pytest.param([1, 2, 3], {"percentile": 50, "extended_percentile": 100}, (2, 2), id="fixed has one"),
        pytest.param([], {"mode": "none"}, (None, None), id="unrestricted"),
    ],
)
def test_limits(baseline, params, limits):
    assert turn_limits(np.array(baseline), TurnParams(**params)) == limits


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"mode": "soft"}, "soft"),
        ({"percentile": 101}, "101"),
        ({"mode": "dynamic", "percentile": 75, "extended_percentile": 50}, "below"),
    ],
)
def test_bad_parameters(params, why):
    with pytest.raises(BadConfig, match=why):
        TurnParams(**params)


def test_a_limit_needs_runs():
    with pytest.raises(BadConfig, match="record some"):
        turn_limits(np.zeros(0))


def test_replay():
    found = run([3, 4, 5, 6, 7, NEVER], Limits(4, 6), mode="dynamic")
    assert found.used.tolist() == [3, 4, 5, 6, 6, 6]
    assert found.finished.tolist() == [True, True, True, True, False, False]
    assert found.extended.tolist() == [False, False, True, True, True, True]  # the exact limit asks for nothing
    assert found.left.tolist() == [1, 0, 1, 0, 0, 0]


def test_unrestricted_runs_stop_at_the_safety_cap():
    found = run([3, 201, NEVER], Limits(None, None), mode="none")
    assert found.used.tolist() == [3, 200, 200]
    assert found.finished.tolist() == [True, False, False]
    assert np.isnan(found.left).all()


def test_nothing_is_asked_for_where_there_is_no_more():
    assert not run([9], Limits(4, 4), mode="dynamic").extended.any()


RUNS = st.lists(st.integers(1, 60) | st.just(NEVER), min_size=1, max_size=12)


@given(RUNS, st.integers(1, 30), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_dynamic_is_fixed_at_one_of_its_limits(needed, first, more):
    limits, low, high = Limits(first, first + more), Limits(first, first), Limits(first + more, first + more)
    for granted, same in ((True, high), (False, low)):
        found = run(needed, limits, granted=granted, mode="dynamic")
        assert found.used.tolist() == run(needed, same).used.tolist()
        assert (found.used <= limits.last).all()
        cap = np.where(found.extended, limits.last, limits.first)
        assert [f" {int(left)} " in reminder(int(left)) for left in cap - found.used] == [True] * len(needed)
        assert found.left.tolist() == (cap - found.used).tolist()


@given(st.lists(st.integers(1, 200), min_size=1, max_size=15), st.sampled_from([25, 50, 75]))
@settings(max_examples=50, deadline=None)
def test_the_baseline_finishes_its_percentile(baseline, percentile):
    limits = turn_limits(np.array(baseline), TurnParams(percentile=percentile))
    found = run(baseline, limits)
    assert found.finished.sum() >= percentile * (len(baseline) - 1) // 100 + 1


def test_costs():
    found = run_costs(
        np.array([10, 20, 30, 7]),
        np.array([1, 1, 1, 2]),
        offsets=np.array([0, 3, 3, 4]),
        price_read=0.5,
        price_written=2,
    )
    assert found.tolist() == [36, 0, 7.5]


def test_reminder():
    assert reminder(3) == "ENVIRONMENT REMINDER: You have 3 turns left to complete the task."


def test_runs_without_a_record_of_grants_are_granted():
    params = {"mode": "dynamic", "percentile": 0, "extended_percentile": 100}
    given = {"baseline_turns": [2, 4], "turns_needed": {"a": 3, "b": 3, "c": None}, "extension_granted": {"b": False}}
    found = answer(params, given)
    assert found["turns_used"] == {"a": 3, "b": 2, "c": 4}
    assert found["extended"] == {"a": True, "b": False, "c": True}
    assert (found["total_turns"], found["n_finished"]) == (9, 1)

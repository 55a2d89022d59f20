"""Knapsack RL: budgets of rollouts, by both solvers, beside a direct reading of the programme."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadConfig
from pipeline.generation.budget.knapsack import KnapsackParams, knapsack, rollout_cost, rollout_value
from pipeline.golden.knapsack import alike, answer

UNKNOWN = None


def share(rates, **params):
    """Rates by task; None: without a history."""
    return knapsack(
        np.array([0.9 if rate is UNKNOWN else rate for rate in rates], dtype=np.float64),
        np.array([rate is not UNKNOWN for rate in rates], dtype=bool),
        KnapsackParams(**params),
    )


def direct(rates, budget, *, least, room) -> list[int]:
    """The official programme, cell by cell."""
    best, choice = [{0: 0.0}], []
    for rate in rates:
        best.append({})
        choice.append({})
        for spent in range(budget + 1):
            for extra in range(min(room, spent) + 1):
                if spent - extra in best[-2]:
                    value = best[-2][spent - extra] + (extra > 0) * float(
                        rollout_value(least + extra, np.float64(rate))
                    )
                    if value > best[-1].get(spent, -np.inf):
                        best[-1][spent], choice[-1][spent] = value, extra
    extras = []
    for row in reversed(choice):
        extras.insert(0, row[budget])
        budget -= extras[0]
    return extras


@pytest.mark.parametrize(
    ("rates", "params", "rollouts"),
    [
        pytest.param([UNKNOWN, UNKNOWN], {}, [8, 8], id="no history"),
        pytest.param([0, 1, 0], {}, [11, 2, 11], id="none effective: to the unsolved"),
        pytest.param([0, 0, 1], {"total_budget": 9}, [4, 3, 2], id="none effective: the first has the odd one"),
        pytest.param([UNKNOWN, 0, 1], {"total_budget": 20}, [12, 6, 2], id="no history is unsolved, on top of n"),
        pytest.param([1, 1, 1], {}, [8, 8, 8], id="all solved"),
        pytest.param([0.5, 1, 0], {"min_n": 1, "negative_n": 0, "positive_n": 3, "total_budget": 4}, [1, 3, 0],
                     id="nothing left"),
        pytest.param([0.5, 1], {"allow_fallback": False}, [14, 2], id="without fallback all is theirs"),
        pytest.param([0.5, 1, 1], {}, [5, 10, 9], id="none unsolved: over those not effective"),
        pytest.param([0.5, 1, 0], {}, [5, 2, 17], id="over the unsolved"),
        pytest.param([0.5, UNKNOWN], {}, [5, 11], id="over those without a history"),
        pytest.param([0.5, 0.5], {}, [8, 8], id="all effective: to the solver"),
        pytest.param([0.5, 0.5, 1], {"max_n": 4, "allow_fallback": False}, [11, 11, 2], id="above the cap, evenly"),
        pytest.param([0.5, 0.5], {"max_n": 2, "total_budget": 9}, [5, 4], id="no room at all"),
        pytest.param([], {}, [], id="none"),
    ],
)  # fmt: skip
def test_rules(rates, params, rollouts):
    for solver in ("greedy", "dp"):
        assert share(rates, solver=solver, **params).rollouts.tolist() == rollouts


def test_fallback_is_told():
    found = share([0.5, 1, 0])
    assert (found.fallback, found.effective_ratio) == (True, 3 / 18)
    assert found.effective.tolist() == [True, False, False]
    for other in (share([0, 1]), share([0.5, 0.5]), share([0.5, 1], allow_fallback=False), share([0.1, 1])):
        assert (other.fallback, other.effective_ratio) == (False, 1)


def test_costs():
    params = KnapsackParams(cost_estimation="expectation")
    np.testing.assert_allclose(rollout_cost(np.array([0.5, 0.1]), params), [3, 1 / 0.09 - 1])
    expected = [np.log(0.1) / np.log(0.9)] * 2
    np.testing.assert_allclose(rollout_cost(np.array([0.1, 0.9])), expected)
    assert share([0.05, 1], max_n=10, n=20).rollouts.tolist() == [12, 28]  # a cost above the limit counts as the limit


def test_value():
    np.testing.assert_allclose(rollout_value(2, np.array([0.5, 0.25])), [0.5 * 0.125, 0.375 * 0.25 * 0.75**2])
    rates = np.linspace(0.01, 0.99, 99)
    assert rates[rollout_value(10_000, rates).argmax()] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"solver": "simplex"}, "simplex"),
        ({"cost_estimation": "guess"}, "guess"),
        ({"max_n": None}, "max_n None"),
        ({"max_n": 1}, "max_n 1"),
        ({"n": -1}, "negative"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
def test_bad_parameters(params, why):
    with pytest.raises(BadConfig, match=why):
        KnapsackParams(**params)


@pytest.mark.parametrize(("rates", "total"), [([0.5, 0.5], 3), ([1, 1], 17), ([0, 0], 3), ([], 1)])
def test_totals_that_cannot_be_met(rates, total):
    with pytest.raises(BadConfig, match=f"budget of {total}"):
        share(rates, total_budget=total)


def test_rates_that_are_none():
    for rate in (float("nan"), 1.5, -0.1):
        with pytest.raises(ValueError, match="row 1"):
            share([0.5, rate])
    assert knapsack(np.array([np.nan]), np.array([False])).rollouts.tolist() == [8]


RATES = st.lists(st.sampled_from([UNKNOWN, 0, 1, 1 / 16, 0.25, 0.5, 0.7, 15 / 16]), min_size=1, max_size=7)


@given(RATES, st.integers(2, 12), st.integers(2, 20), st.booleans())
@settings(deadline=None, max_examples=60)
def test_budgets(rates, n, most, fallback):
    options = {"n": n, "max_n": most, "allow_fallback": fallback}
    greedy, programme = (share(rates, solver=solver, **options) for solver in ("greedy", "dp"))
    for found in (greedy, programme):
        assert found.rollouts.sum() == n * len(rates)
        assert (found.rollouts[found.effective] >= 2).all()
    assert greedy.total_value >= programme.total_value - 1e-12
    assert (greedy.fallback, greedy.effective_ratio) == (programme.fallback, programme.effective_ratio)
    for rate in (1 / 16, 0.25, 0.5, 0.7):
        equal = [count for count, own in zip(greedy.rollouts, rates, strict=True) if own == rate]
        assert not equal or max(equal) - min(equal) <= 1
    known = [rate for rate in rates if rate is not UNKNOWN and 0 < rate < 1]
    if len(known) == len(rates) and sum(programme.rollouts) <= most * len(rates):
        extras = direct(known, (n - 2) * len(rates), least=2, room=most - 2)
        assert (programme.rollouts - 2).tolist() == extras


def test_equal_tasks_stay_equal_where_values_no_longer_tell_them_apart():
    assert rollout_value(2000, np.float64(0.5)) == rollout_value(1000, np.float64(0.5))
    found = share([0.5] * 3, n=2000, max_n=10_000)
    assert found.rollouts.tolist() == [2000] * 3


def test_the_programme_keeps_the_first_of_equal_choices():
    found = share([0.5, 0.5], n=80, max_n=200, solver="dp").rollouts - 2
    assert found.tolist() == direct([0.5, 0.5], 156, least=2, room=198)
    assert found[1] < found[0]


def test_greedy_teaches_more_than_the_same_for_all():
    rates = np.array([1, 1, 1, 1, 0.95, 1 / 16, 0.25, 0.5])
    chosen = knapsack(rates, np.ones(8, dtype=bool)).rollouts
    differ, differ_evenly = (1 - rates**count - (1 - rates) ** count for count in (chosen, np.full(8, 8)))
    assert differ.sum() > differ_evenly.sum()


def test_tie_rule_of_vectors():
    given = {"tasks": [{"success_rate": rate, "has_history": True} for rate in (0.5, 0.25, 0.5)]}
    assert alike({"budget": [3, 4, 5]}, given) == alike({"budget": [5, 4, 3]}, given)
    assert alike({"budget": [3, 4, 5]}, given) != alike({"budget": [4, 3, 5]}, given)
    assert answer({"total_budget": 24}, given)["sum"] == 24

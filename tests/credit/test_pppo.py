"""PPPO: what is trained, what a prefix earns, and how the share grows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.pppo import (
    PppoParams,
    RetentionParams,
    accumulated_rewards,
    pppo_advantages,
    pppo_credit,
    prefix_mask,
    prefix_tokens,
    retention,
)
from pipeline.errors import BadConfig

NA = float("nan")


@pytest.mark.parametrize(
    ("length", "eta", "tokens"),
    [(100, 0.15, 15), (61, 0.15, 9), (6, 0.15, 0), (0, 0.35, 0), (10, 0.3, 3), (100, 0.29, 29), (7, 1.0, 7)],
)
def test_prefix_tokens(length, eta, tokens):
    assert prefix_tokens(np.array([length]), eta).tolist() == [tokens]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.sampled_from([0.0, 0.15, 0.2, 0.35, 1.0]))
@settings(max_examples=50, deadline=None)
def test_the_mask_is_the_beginning_of_each_response(lengths, eta):
    offsets = np.cumsum([0, *lengths])
    mask = prefix_mask(offsets, eta)
    assert mask.sum() == prefix_tokens(np.array(lengths), eta).sum()
    expected = [place + 1 <= np.floor(eta * length + 1e-9) for length in lengths for place in range(length)]
    assert mask.tolist() == expected


def test_rewards_add_up_and_the_unfinished_earn_0():
    found = accumulated_rewards(np.array([1.0, NA, 1.0, 0.0]), np.array([0, 0, 0, 2]), count=3)
    assert found.tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("accumulated", "expected"),
    [
        pytest.param((4, 1, 4, 1), np.array([1, -1, 1, -1]) * 1.5 / (3**0.5 + 1e-6), id="spread"),
        pytest.param((3, 3, 3), (0, 0, 0), id="equal sums"),
        pytest.param((3,), (3 / (1 + 1e-6),), id="alone"),
    ],
)
def test_advantages(accumulated, expected):
    found = pppo_advantages(np.array(accumulated, float), np.zeros(len(accumulated), int))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12), st.sampled_from([0, 1]))
@settings(max_examples=80, deadline=None)
def test_tasks_do_not_touch_each_other(rows, ddof):
    groups, sums = (np.array(column) for column in zip(*rows, strict=True))
    params = PppoParams(std_ddof=ddof)
    found = pppo_advantages(sums.astype(float), groups, params)
    assert np.isfinite(found).all()
    for group in np.unique(groups):
        own = sums[groups == group].astype(float)
        alone = pppo_advantages(own[::-1], np.zeros(len(own), int), params)[::-1]
        np.testing.assert_allclose(found[groups == group], alone, atol=1e-12)
        if len(own) > 1 and own.std() > 0:
            np.testing.assert_allclose(alone, (own - own.mean()) / (own.std(ddof=ddof) + 1e-6), atol=1e-9)


def test_more_continuations_vary_less():
    hits = np.random.default_rng(0).random((2000, 17)) < 0.4
    spread = [hits[:, : many + 1].mean(axis=1).var() for many in (1, 4, 8, 16)]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize(
    ("accuracies", "options", "shares"),
    [
        pytest.param((0.3, 0.35, 0.35, 0.34, 0.4), {}, (0.15, 0.15, 0.2, 0.25, 0.25), id="grows on a stall"),
        pytest.param((0.5, 0.4, 0.4, 0.4), {"patience": 2}, (0.15, 0.15, 0.2, 0.2), id="patience begins again"),
        pytest.param((0.5, 0.4, 0.6, 0.4, 0.4), {"patience": 2}, (0.15, 0.15, 0.15, 0.15, 0.2), id="better clears it"),
        pytest.param((0.5,) * 7, {}, (0.15, 0.2, 0.25, 0.3, 0.35, 0.35, 0.35), id="at most the greatest"),
        pytest.param((0.0,), {}, (0.15,), id="the first sets the best"),
        pytest.param((0.5, NA, 0.4), {}, (0.15, 0.15, 0.2), id="no check, no change"),
        pytest.param((), {}, (), id="no checks"),
    ],
)
def test_retention(accuracies, options, shares):
    np.testing.assert_allclose(retention(np.array(accuracies), RetentionParams(**options)), shares, rtol=1e-15)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=20), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_the_share_never_falls_and_moves_in_steps(accuracies, patience):
    found = retention(np.array(accuracies), RetentionParams(patience=patience))
    assert set(found.tolist()) <= {0.15 + step * 0.05 for step in range(5)} | {0.35}
    assert (np.diff(found) >= 0).all()


#      0          the question
#    1   2   7    prefixes; the last was never continued, and is judged itself
#   3 4 5 6       responses
def test_stored_trees():
    trees = Trees(
        parent=np.array([-1, 0, 0, 1, 1, 2, 2, 0], np.int32),
        depth=np.array([0, 1, 1, 2, 2, 2, 2, 1], np.int32),
        tree=np.zeros(8, np.int32),
        reward=np.array([NA, NA, NA, 1, 1, 0, NA, 0]),
        tokens=np.arange(8, dtype=np.int32),
        token_offsets=np.arange(9),
    )
    found = pppo_credit(trees)
    expected = pppo_advantages(np.array([2.0, 0.0, 0.0]), np.zeros(3, int))
    np.testing.assert_allclose(found.advantage, (0, *expected[[0, 1, 0, 0, 1]], NA, expected[2]))
    np.testing.assert_allclose(found.value, (NA, 2, 0, 2, 2, 0, NA, 0))
    assert found.mask.tolist() == [False, True, True, False, False, False, False, True]


@pytest.mark.parametrize("options", [{"eta0": 0.4}, {"step": 0}, {"patience": 0}, {"eta_max": 1.5}])
def test_bad_parameters_are_named(options):
    with pytest.raises(BadConfig, match="pppo"):
        RetentionParams(**options)
    with pytest.raises(BadConfig, match="eta"):
        PppoParams(eta=-0.1)

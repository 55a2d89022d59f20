"""Sums along rows of unequal length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.ragged import (
    Ragged,
    last_places,
    log_ratios,
    prefix_sums,
    ragged,
    row_sums,
    split,
    suffix_minima,
    suffix_sums,
)
from pipeline.errors import BadTable

ROWS = st.lists(st.lists(st.floats(-5, 5), max_size=9), max_size=6)


def by_row(rows, along) -> np.ndarray:
    return np.array([value for row in rows for value in along(row)], np.float64)


@given(ROWS, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=80, deadline=None)
def test_sums_are_those_of_each_row(rows, discount):
    flat = ragged(rows)
    discounted = by_row(
        rows, lambda row: [sum(v * discount**k for k, v in enumerate(row[at:])) for at in range(len(row))]
    )
    np.testing.assert_allclose(suffix_sums(*flat, discount=discount), discounted, atol=1e-9)
    np.testing.assert_allclose(prefix_sums(*flat), by_row(rows, np.cumsum), atol=1e-9)
    np.testing.assert_allclose(row_sums(*flat), [sum(row) for row in rows], atol=1e-9)
    lowest = by_row(rows, lambda row: [min(row[at:]) for at in range(len(row))])
    np.testing.assert_array_equal(suffix_minima(*flat), lowest)
    assert [row.tolist() for row in split(*flat)] == rows


def test_a_row_keeps_its_nan_to_itself():
    found = suffix_sums(*ragged([[1.0, 2.0], [None, 1.0], [3.0]]))
    np.testing.assert_array_equal(found, [3, 2, np.nan, 1, 3])


def test_last_places_leave_out_empty_rows():
    rows, places = last_places(np.array([0, 0, 2, 2, 3, 3]))
    assert rows.tolist() == [1, 3]
    assert places.tolist() == [1, 2]


def test_rows_of_other_lengths_are_named():
    with pytest.raises(BadTable, match=r"row 1: the policy has 2 numbers, the reference has 1.*tokenizer"):
        log_ratios(ragged([[-1.0], [-1.0, -2.0]]), ragged([[-1.0], [-1.0]]))
    with pytest.raises(BadTable, match="the policy has 1 rows, the reference has 2"):
        log_ratios(ragged([[-1.0]]), ragged([[-1.0], []]))


def test_log_ratios_leave_their_arguments():
    policy = Ragged(np.array([-1.0, np.nan]), np.array([0, 2]))
    np.testing.assert_array_equal(log_ratios(policy, policy), [0, np.nan])
    assert policy.values[0] == -1

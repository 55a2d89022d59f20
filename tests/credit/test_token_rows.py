"""Tokens along paths as rows, and back: shared steps, rendered nodes, tokens that do not count."""

import numpy as np
from labelled_trees import NA, labelled_trees

from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, known_throughout, token_rows

#      0       the question
#      1       shared by both answers
#    2   3     2 is rendered
#    4
TREES = labelled_trees(
    (-1, 0, 1, 1, 2),
    (NA, NA, NA, 1, 0),
    sizes=(2, 1, 1, 2, 1),
    kind=(0, 1, 0, 1, 1),
    waad=(NA, NA, 1, NA, 2, NA, 5),
)


def test_rows_leave_out_what_the_policy_did_not_say():
    rows = token_rows(TREES, spoken(TREES))
    assert rows.places.tolist() == [2, 6, 2, 4, 5]
    assert rows.offsets.tolist() == [0, 2, 5]
    assert rows.steps.tolist() == [0, 1, 2, 3, 5]
    assert rows.of(np.arange(7)).values.tolist() == [2, 6, 2, 4, 5]
    assert rows.by_step(np.arange(7)).offsets.tolist() == [0, 1, 2, 3, 5]


def test_tokens_that_do_not_count():
    rows = token_rows(TREES, spoken(TREES), counted=~np.isnan(TREES.given["waad"]))
    assert rows.places.tolist() == [2, 6, 2, 4]
    assert rows.steps.tolist() == [0, 1, 2, 3, 4]


def test_trajectories_known_throughout():
    counted = np.arange(7) != 5
    assert known_throughout(TREES, spoken(TREES), "waad").ends.tolist() == [4]
    assert known_throughout(TREES, spoken(TREES), "waad", counted=counted).ends.tolist() == [4, 3]


def test_back_on_tokens_and_nodes():
    rows = token_rows(TREES, spoken(TREES))
    found = credit_of_tokens(TREES, rows, np.array([1, 4, 3, NA, 5]))
    np.testing.assert_array_equal(found.token_advantages, [0, 0, 2, 0, NA, 5, 4])
    np.testing.assert_array_equal(found.advantage, [0, 2, 0, 5, 4])
    counted = np.arange(7) != 5
    rows = token_rows(TREES, spoken(TREES), counted=counted)
    found = credit_of_tokens(TREES, rows, np.array([1, 4, 3, 7]), counted=counted)
    np.testing.assert_array_equal(found.token_advantages, [0, 0, 2, 0, 7, 0, 4])
    np.testing.assert_array_equal(found.advantage, [0, 2, 0, 7, 4])

"""Scores of judges and people: what is read, once a text, and which row an error is about."""

from __future__ import annotations

import json
import pickle

import numpy as np
import polars as pl
import pytest
from labelled_trees import NA
from spoken_trees import spoken_trees

from pipeline.credit.scored import BadScore, one_of, read_lists, read_scores
from pipeline.errors import BadTable


def trees(useful):
    return spoken_trees([-1] + [0] * len(useful), [NA] * (len(useful) + 1), useful=dict(enumerate(useful, start=1)))


def flags(given):
    return read_scores(trees(given), "useful", entry=lambda one: one in (0, 1), what="a list of 0 and 1")


def test_each_text_is_parsed_once():
    seen = []
    texts = pl.Series(["[1]", None, "[2, 3]", "[1]"])
    found = read_lists(texts, lambda text: seen.append(text) or json.loads(text), name="useful", what="a list")
    assert seen == ["[1]", "[2, 3]"]
    places, counts = found.of(np.array([3, 1, 2, 0]))
    assert [found.items[place] for place in places] == [1, 2, 3, 1]
    assert counts.tolist() == [1, 0, 2, 1]
    assert found.known(np.arange(4)).tolist() == [True, False, True, True]


def test_nothing_is_said():
    places, counts = flags([None, None]).of(np.array([0, 1, 2]))
    assert (places.tolist(), counts.tolist()) == ([], [0, 0, 0])


@pytest.mark.parametrize("text", ["[1, 2]", "[1", "1", '{"a": 1}', "[null]", "", "[" * 100_000, "[[]]", "NaN"])
def test_a_text_that_is_no_such_list_names_its_row(text):
    with pytest.raises(BadScore, match=r"^scores useful: '") as raised:
        flags(["[1]", None, text, text])
    assert raised.value.row == 3
    assert "is not a list of 0 and 1" in raised.value.culprit
    assert len(raised.value.culprit) < 120
    assert isinstance(raised.value, BadTable)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_number_that_is_no_flag_names_its_row():
    some = spoken_trees([-1, 0, 0], [NA] * 3, searched=[NA, 1, 0.25])
    assert one_of(some, "searched", (0.25, 1.0)).tolist()[1:] == [1, 0.25]
    with pytest.raises(BadScore, match=r"^scores searched: 0.25 is not one of \(0.0, 1.0\); ") as raised:
        one_of(some, "searched")
    assert raised.value.row == 2

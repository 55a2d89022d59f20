"""InT: what is kept, how continuations are counted, and rows that stop at the intervention."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.builders.patches import best_interventions
from pipeline.errors import BadConfig
from pipeline.golden.int import answer
from pipeline.variants.intervene import (
    CLONES,
    EMPTY,
    INVALID_INDEX,
    NO_ERROR,
    NO_SUCCESS,
    Continuations,
    InterventionParams,
    Proposal,
    check_proposal,
    first_wrong,
    patch_row,
    tally,
)

STEPS = st.lists(st.lists(st.integers(10, 99), max_size=3), min_size=1, max_size=6)


@given(STEPS, st.data(), st.sampled_from(CLONES))
@settings(max_examples=60, deadline=None)
def test_steps_right_until_k_are_cut_at_k(steps, data, clone):
    k = data.draw(st.integers(0, len(steps) - 1))
    assert first_wrong(["correct"] * k + ["incorrect"] + ["after_error"] * (len(steps) - k - 1)) == k
    assert check_proposal(k, "z", steps=len(steps), reference_answer="").first_error == k
    rows = [patch_row([1, 2], steps[:k], [7, 8], clone=clone, suffix=[9]) for _ in range(2)]
    assert rows[0] == rows[1]
    input_ids, labels = rows[0]
    before = [token for step in steps[:k] for token in step]
    end = [7, 8, 9] if clone == "with_suffix" else [7, 8]
    assert input_ids == [1, 2, *before, *end]
    trained = [-100] * len(before) if clone == "intervention_only" else before
    assert labels == [-100, -100, *trained, *end]


def test_all_steps_judged_right():
    assert first_wrong(["correct", "correct"]) is None
    assert first_wrong([]) is None
    assert check_proposal(None, "z", steps=2, reference_answer="").dropped == NO_ERROR


@pytest.mark.parametrize(
    ("index", "text", "proposal"),
    [
        (2, "z", Proposal(None, "", INVALID_INDEX)),
        (-1, "z", Proposal(None, "", INVALID_INDEX)),
        ([0], "z", Proposal(None, "", INVALID_INDEX)),
        (0, " \n", Proposal(0, "", EMPTY)),
        (0, {"text": "z"}, Proposal(0, "", EMPTY)),
        ("0", "z", Proposal(0, "z", None)),
    ],
)
def test_proposals(index, text, proposal):
    assert check_proposal(index, text, steps=2, reference_answer="42") == proposal


@pytest.mark.parametrize(
    ("rewards", "counted", "coverage", "accuracy"),
    [
        ([], (0, 0), 0, 0.0),
        ([None, None], (0, 0), 0, 0.0),
        ([1, 0, None, 0.5], (3, 1), 1, 1 / 3),
        ([0, 0], (2, 0), 0, 0.0),
    ],
)
def test_continuations(rewards, counted, coverage, accuracy):
    found = tally(rewards)
    assert (found, found.coverage, found.accuracy) == (Continuations(*counted), coverage, accuracy)


def test_params():
    assert InterventionParams().least_successes == 1
    assert InterventionParams(min_successes=3).least_successes == 3
    assert InterventionParams("no_filter", min_successes=3).least_successes == 0
    with pytest.raises(BadConfig, match="with_suffix"):
        InterventionParams("everything")


def test_the_most_accurate_then_the_earliest_of_different_edits():
    def variant(leaf, successes, dropped=None, *, node=None):
        named = {"kind": "intervention", "source_leaf": leaf, "dropped": dropped, "first_node": node or 100 + leaf}
        return named | {"with_count": 4, "with_successes": successes}

    found = [variant(9, 2), variant(5, 3), variant(3, 3), variant(1, 4, EMPTY), variant(2, 0, NO_SUCCESS)]
    found += [variant(4, 3, node=103), variant(8, 1, node=105)]
    best = best_interventions(found, most=3, clone="prefix+intervention")
    assert [one["source_leaf"] for one in best] == [3, 5, 9]
    assert len(best_interventions(found, most=9, clone="no_filter")) == 4


GIVEN = {
    **{"prompt_token_ids": [1], "answer": "42", "outcome": 0, "verdicts": ["incorrect", "correct"]},
    "steps": [{"text": "s0", "token_ids": [2]}, {"text": "s1", "token_ids": [3]}],
    "intervention": {"text": "z", "token_ids": [4]},
    "continuation_rewards": [1, 0, None, None],
    "best_suffix_token_ids": [5],
}


class TestCandidate:
    """The order of the reasons, and what is reported beside them."""

    @pytest.mark.parametrize(
        ("changes", "dropped", "step"),
        [
            ({}, None, 0),
            ({"outcome": 1, "verdicts": ["correct"]}, "rollout already correct", None),
            ({"verdicts": ["correct"], "intervention": None}, "no error found", None),
            ({"verdicts": None}, "invalid error index", None),
            ({"intervention": None}, "empty intervention", 0),
            ({"intervention": {"text": "= 42", "token_ids": [4]}}, "intervention states the final answer", 0),
            ({"continuation_rewards": [0]}, "no successful continuation", 0),
            ({"continuation_rewards": []}, "no successful continuation", 0),
        ],
    )
    def test_reasons(self, changes, dropped, step):
        found = answer({"clone": "prefix+intervention"}, GIVEN | changes)
        assert (found["dropped"], found["first_error_step"]) == (dropped, step)
        assert ("input_ids" in found) is (dropped is None)
        if "continuation_rewards" not in changes:
            assert (found["coverage"], found["accuracy"]) == (1, 0.5)

    def test_without_the_filter(self):
        given = GIVEN | {"continuation_rewards": [0]}
        found = answer({"clone": "no_filter", "min_successes": 1}, given)
        assert (found["dropped"], found["input_ids"], found["text"]) == (None, [1, 4], "z")
        leak = given | {"intervention": {"text": "42", "token_ids": [4]}}
        assert answer({"clone": "no_filter"}, leak)["dropped"] == "intervention states the final answer"

    def test_the_text_ends_with_the_intervention(self):
        found = answer({"clone": "with_suffix"}, GIVEN | {"verdicts": ["correct", "incorrect"]})
        assert (found["text"], found["input_ids"]) == ("s0\n\nz", [1, 2, 4, 5])

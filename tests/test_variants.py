"""Reading reflections and interventions; golden cases where a reference implementation exists."""

import json
from pathlib import Path

import pytest

from pipeline.variants.answers import read_index, read_object
from pipeline.variants.intervene import (
    EMPTY,
    INVALID_INDEX,
    LEAK,
    MASKED,
    NO_ERROR,
    Proposal,
    keep_reason,
    patch_row,
    read_proposal,
    states_answer,
)
from pipeline.variants.reflect import INVALID, Reflection, read_reflection, validate_reflection

GOLDEN = Path(__file__).parent / "golden"


def golden(method: str, op: str | None = None) -> list:
    cases = json.loads((GOLDEN / f"{method}.json").read_text())["cases"]
    found = [case for case in cases if op is None or case["params"].get("op") == op]
    assert found, f"no case of {op} in {method}"
    return [pytest.param(case["params"], case["input"], case["expected"], id=case["name"]) for case in found]


def editor(**changes) -> str:
    """The editor's answer about an attempt whose step 1 is wrong."""
    return json.dumps({"step_checks": [], "first_error_index": 1, "intervention": "3 + 4 = 7"} | changes)


REPORT = {
    "trajectory_summary": "s",
    "root_cause_analysis": "r",
    "trajectory_outcome": "failure",
    "improvement_suggestion": "i",
    "retry_from_step": 3,
}
RETRY = Reflection(valid=True, perfect=False, pivot=3, report=json.dumps(REPORT))


class TestAnswers:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            pytest.param('{"a": 1}', {"a": 1}, id="bare"),
            pytest.param('Here it is:\n```json\n{"a": {"b": []}}\n```\nDone.', {"a": {"b": []}}, id="prose around"),
            pytest.param('{"a": "é \\ud83d\\ude00"}', {"a": "é 😀"}, id="surrogate pair"),
            pytest.param('{"a": "\\ud83d"}', None, id="half a surrogate pair"),
            pytest.param('{"a": 1} and {"b": 2}', None, id="two objects"),
            pytest.param('{"a": 1', None, id="cut off"),
            pytest.param("} {", None, id="braces the wrong way round"),
            pytest.param("[1]", None, id="no object"),
            pytest.param("", None, id="nothing"),
            pytest.param('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", None, id="nested too deeply"),
            pytest.param('{"a":' * 10**5 + "1" + "}" * 10**5, None, id="objects nested too deeply"),
            pytest.param('{"a": ' + "9" * 10**5 + "}", None, id="number too long"),
        ],
    )
    def test_object(self, text, found):
        assert read_object(text) == found

    @pytest.mark.parametrize(
        ("value", "index"),
        [
            *[(3, 3), ("3", 3), (" 3 ", 3), (3.0, 3), (-1, -1), (0, 0)],
            *[(value, None) for value in (True, None, 3.5, "3.5", "three", "", [3], {}, float("inf"), float("nan"))],
            pytest.param("9" * 10**5, None, id="too long"),
        ],
    )
    def test_index(self, value, index):
        assert read_index(value) == index


class TestInterventionGolden:
    @pytest.mark.parametrize(("params", "case", "expected"), golden("int"))
    def test_rows(self, params, case, expected):
        wrong = case["verdicts"].index("incorrect") if "incorrect" in case["verdicts"] else None
        answer = editor(first_error_index=wrong, intervention=case["intervention"]["text"])
        proposal = read_proposal(answer, steps=len(case["steps"]), reference_answer=case["answer"])
        assert proposal.first_error == expected["first_error_step"]

        rewards = case["continuation_rewards"]
        dropped = keep_reason(
            proposal, outcome=case["outcome"], successes=sum(rewards), min_successes=params["min_successes"]
        )
        assert dropped == expected["dropped"]
        assert sum(rewards) / len(rewards) == expected["accuracy"]
        if dropped is not None:
            return

        prefix = case["steps"][: proposal.first_error]
        input_ids, labels = patch_row(
            case["prompt_token_ids"],
            [step["token_ids"] for step in prefix],
            case["intervention"]["token_ids"],
            clone=params["clone"],
            suffix=case["best_suffix_token_ids"],
        )
        assert input_ids == expected["input_ids"]
        assert labels == expected["labels"]
        assert "\n\n".join([*(step["text"] for step in prefix), proposal.text]) == expected["text"]

    def test_the_cases_both_keep_and_drop(self):
        dropped = {case.values[2]["dropped"] for case in golden("int")}
        assert dropped >= {None, LEAK, "no successful continuation"}


class TestProposal:
    @pytest.mark.parametrize(
        ("answer", "proposal"),
        [
            pytest.param(editor(), Proposal(1, "3 + 4 = 7", None), id="sound"),
            pytest.param(f"Let me see. {editor()} So.", Proposal(1, "3 + 4 = 7", None), id="prose around"),
            pytest.param(editor(first_error_index="1"), Proposal(1, "3 + 4 = 7", None), id="index as text"),
            pytest.param(editor(first_error_index=0), Proposal(0, "3 + 4 = 7", None), id="the first step"),
            pytest.param(editor(intervention=" x \n"), Proposal(1, "x", None), id="blanks are trimmed"),
            pytest.param(editor(first_error_index=None), Proposal(None, "", NO_ERROR), id="no error"),
            pytest.param(editor(first_error_index=3), Proposal(None, "", INVALID_INDEX), id="past the last step"),
            pytest.param(editor(first_error_index=-1), Proposal(None, "", INVALID_INDEX), id="before the first"),
            pytest.param(editor(first_error_index="one"), Proposal(None, "", INVALID_INDEX), id="index in words"),
            pytest.param(editor(first_error_index=True), Proposal(None, "", INVALID_INDEX), id="no number"),
            pytest.param('{"intervention": "x"}', Proposal(None, "", INVALID_INDEX), id="no index"),
            pytest.param("I found no error.", Proposal(None, "", INVALID_INDEX), id="no JSON"),
            pytest.param('{"first_error_index":' * 10**5, Proposal(None, "", INVALID_INDEX), id="hostile JSON"),
            pytest.param(editor(intervention="\ud83d"), Proposal(None, "", INVALID_INDEX), id="half a character"),
            pytest.param(editor(intervention="  "), Proposal(1, "", EMPTY), id="blank step"),
            pytest.param(editor(intervention=None), Proposal(1, "", EMPTY), id="no step"),
            pytest.param(editor(intervention=["x"]), Proposal(1, "", EMPTY), id="step that is no text"),
            pytest.param(editor(intervention="x = 42"), Proposal(1, "x = 42", LEAK), id="leak"),
            pytest.param(
                editor(first_error_index=None, intervention="42"), Proposal(None, "", NO_ERROR), id="no error first"
            ),
            pytest.param(
                editor(first_error_index=9, intervention="42"), Proposal(None, "", INVALID_INDEX), id="index, then leak"
            ),
        ],
    )
    def test_reads(self, answer, proposal):
        assert read_proposal(answer, steps=3, reference_answer="42") == proposal

    @pytest.mark.parametrize(
        ("proposal", "outcome", "successes", "reason"),
        [
            pytest.param(Proposal(1, "x", None), 0, 1, None, id="kept"),
            pytest.param(Proposal(1, "x", LEAK), 1, 0, "rollout already correct", id="a right attempt before all"),
            pytest.param(Proposal(1, "x", LEAK), 0, 0, LEAK, id="a dropped proposal before its continuations"),
            pytest.param(Proposal(1, "x", None), 0, 0, "no successful continuation", id="no success"),
            pytest.param(Proposal(1, "x", None), 0.5, 1, None, id="half right is wrong"),
        ],
    )
    def test_reasons_in_order(self, proposal, outcome, successes, reason):
        assert keep_reason(proposal, outcome=outcome, successes=successes) == reason

    @pytest.mark.parametrize(("least", "reason"), [(0, None), (2, None), (3, "no successful continuation")])
    def test_successes_needed(self, least, reason):
        assert keep_reason(Proposal(1, "x", None), outcome=0, successes=2, min_successes=least) == reason
        assert keep_reason(Proposal(1, "x", LEAK), outcome=0, successes=2, min_successes=least) == LEAK

    @pytest.mark.parametrize(
        ("text", "answer", "states"),
        [
            *[(text, "42", True) for text in ("42", "so it is 42.", "x=42", "$42$", "(42)", "42, done", "42.", "-42")],
            *[(text, "42", False) for text in ("142", "420", "42.5", "3.42", "42a", "x42", "a_42", "4 2", "")],
            *[("the sum is 42", answer, True) for answer in (" 42 ", "$42$", " $ 42 $ ")],
            *[("anything", answer, False) for answer in ("", " ", "$$")],
            ("1.5 is it", "1.5", True),
            ("1x5 is it", "1.5", False),
            (r"x = \frac{1}{2}", r"\frac{1}{2}", True),
            ("9-5", "-5", False),
            ("is -5", "-5", True),
            ("caf\u00e942", "42", False),
        ],
    )
    def test_leaks(self, text, answer, states):
        assert states_answer(text, answer) is states


@pytest.mark.parametrize(
    ("clone", "input_ids", "labels"),
    [
        ("prefix+intervention", [1, 2, 3, 4, 5, 6], [MASKED, 2, 3, 4, 5, 6]),
        ("no_filter", [1, 2, 3, 4, 5, 6], [MASKED, 2, 3, 4, 5, 6]),
        ("intervention_only", [1, 2, 3, 4, 5, 6], [MASKED, MASKED, MASKED, MASKED, 5, 6]),
        ("with_suffix", [1, 2, 3, 4, 5, 6, 7], [MASKED, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_patch_row(clone, input_ids, labels):
    assert patch_row([1], [[2, 3], [4]], [5, 6], clone=clone, suffix=[7]) == (input_ids, labels)


def test_patch_row_without_a_prefix():
    assert patch_row([1], [], [5]) == ([1, 5], [MASKED, 5])


class TestReflection:
    @pytest.mark.parametrize(("params", "case", "expected"), golden("r3l", "validate_reflection"))
    def test_golden(self, params, case, expected):
        for found in (
            validate_reflection(case["reflection"], steps=case["n_turns"]),
            read_reflection(json.dumps(case["reflection"]), steps=case["n_turns"]),
        ):
            assert (found.valid, found.perfect) == (expected["is_valid"], expected["is_perfect"])

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            pytest.param({}, RETRY, id="complete"),
            pytest.param({"root_cause_analysis": None}, RETRY, id="null counts as given"),
            pytest.param({"trajectory_outcome": "success_but_inefficient"}, RETRY, id="inefficient"),
            pytest.param({"retry_from_step": "3"}, RETRY, id="pivot as text"),
            pytest.param({"retry_from_step": 3.0}, RETRY, id="pivot as a whole float"),
            pytest.param({"retry_from_step": 3.7}, RETRY, id="pivot between two steps"),
            pytest.param({"retry_from_step": "3.0"}, INVALID, id="pivot as text of a float"),
            pytest.param({"retry_from_step": float("inf")}, INVALID, id="no end to the pivot"),
            pytest.param({"retry_from_step": [3]}, INVALID, id="pivots"),
            pytest.param({"retry_from_step": 4}, INVALID, id="pivot past the last step"),
            pytest.param({"retry_from_step": -1}, INVALID, id="pivot before the first"),
            pytest.param({"retry_from_step": "two"}, INVALID, id="pivot in words"),
            pytest.param({"retry_from_step": None}, INVALID, id="no pivot"),
            pytest.param({"improvement_suggestion": None}, INVALID, id="no suggestion"),
            pytest.param({"trajectory_outcome": "Failure"}, INVALID, id="outcome in another case"),
            pytest.param({"trajectory_outcome": "partial"}, INVALID, id="unknown outcome"),
            pytest.param({"trajectory_outcome": ["failure"]}, INVALID, id="outcome that is no text"),
        ],
    )
    def test_rules(self, changes, found):
        report = REPORT | changes
        expected = found if found is INVALID else Reflection(True, False, 3, json.dumps(report))
        assert read_reflection(json.dumps(report), steps=4) == expected

    def test_the_first_step_may_be_blamed(self):
        assert validate_reflection(REPORT | {"retry_from_step": 0}, steps=1).pivot == 0

    def test_success_needs_nothing_more(self):
        report = {"trajectory_summary": "s", "root_cause_analysis": None, "trajectory_outcome": "success"}
        found = Reflection(valid=True, perfect=True, pivot=None, report=json.dumps(report))
        assert validate_reflection(report, steps=0) == found
        assert validate_reflection(report | {"retry_from_step": 99}, steps=1).pivot is None

    @pytest.mark.parametrize("key", ["trajectory_summary", "root_cause_analysis", "trajectory_outcome"])
    def test_a_key_is_missing(self, key):
        assert validate_reflection({name: REPORT[name] for name in REPORT if name != key}, steps=4) == INVALID

    @pytest.mark.parametrize("report", [None, [], "failure", 3])
    def test_no_object(self, report):
        assert validate_reflection(report, steps=4) == INVALID

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            pytest.param(f"Reflection:\n{RETRY.report}\nThat is all.", RETRY, id="prose around"),
            pytest.param(RETRY.report[:-1], INVALID, id="cut off"),
            pytest.param("{" * 10**5 + "}" * 10**5, INVALID, id="hostile"),
            pytest.param("no JSON", INVALID, id="none"),
        ],
    )
    def test_reads(self, text, found):
        assert read_reflection(text, steps=4) == found

    @pytest.mark.parametrize("depth", [10, 100, 10**4])
    def test_deep_extras_neither_crash_nor_vanish(self, depth):
        text = RETRY.report[:-1] + ', "extra": ' + "[" * depth + "]" * depth + "}"
        found = read_reflection(text, steps=4)
        assert found == INVALID or json.loads(found.report) == json.loads(text)

"""Formats of process reward models: verdicts of generative verifiers, and rows with a label a step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.builders.prm_rows import (
    StepwiseParams,
    StepwiseRow,
    estimate_steps,
    marked_text,
    prm800k_rows,
    tokenize_steps,
)
from pipeline.labels.prm_formats import (
    Sample,
    keep_chain,
    read_error_index,
    read_step_verdicts,
    solution_probability,
    step_labels,
    thinkprm_score,
    verdict_probability,
    write_genprm,
    write_thinkprm,
    yes_share,
)

NA = float("nan")
YES = "**Judgement**: $\\boxed{Yes}$"


def sample(text, tokens, **listed) -> Sample:
    """The listing stands at every token."""
    return Sample(text, tokens, [listed] * len(tokens))


class TestThinkPrm:
    @given(st.lists(st.booleans(), min_size=1, max_size=6))
    @settings(max_examples=40, deadline=None)
    def test_written_verdicts_are_read(self, verdicts):
        text = write_thinkprm(["It holds."] * len(verdicts), verdicts)
        seen = verdicts[: verdicts.index(False) + 1] if False in verdicts else verdicts
        assert read_step_verdicts(text) == tuple(seen)
        assert keep_chain(text, verdicts, tokens=10, max_tokens=10)
        assert not keep_chain(text, verdicts, tokens=11, max_tokens=10)
        assert not keep_chain(text, [*seen[:-1], not seen[-1]], tokens=10, max_tokens=10)
        labels = step_labels(read_step_verdicts(text), steps=len(verdicts))
        assert labels == (*seen, *[None] * (len(verdicts) - len(seen)))

    @pytest.mark.parametrize(
        ("text", "verdicts"),
        [
            ("\\boxed{ Correct } then \\boxed{incorrect}, \\boxed{correct}", (True, False)),
            ("correct", ()),
            ("\\boxed{correct", ()),
            ("\\boxed{" * 10**5, ()),
            ("\\boxed{" + " " * 10**5 + "correct}", ()),
        ],
    )
    def test_reads(self, text, verdicts):
        assert read_step_verdicts(text) == verdicts
        assert not keep_chain(text, [], tokens=0, max_tokens=9)

    def test_more_labels_than_steps(self):
        assert step_labels((True, True, False), steps=2) == (True, True)

    def test_score(self):
        assert thinkprm_score([{"Yes": math.log(0.6), "No": math.log(0.2)}, {}]) == pytest.approx((0.75 + 0.5) / 2)
        assert thinkprm_score([]) == 0.5


class TestGenPrm:
    @pytest.mark.parametrize("verdict", [True, False])
    def test_what_is_written_is_read(self, verdict):
        text = write_genprm("It holds.", verdict, code="print(1)", output="1")
        assert "[Code Output]\n\n```\n1\n```" in text
        assert "<verify>" not in write_genprm("It holds.", verdict)
        word = "Yes" if verdict else "No"
        found = verdict_probability(sample(text, [word], **{word: math.log(0.9), "x": math.log(0.1)}))
        assert found == pytest.approx(0.9 if verdict else 0.1)

    @pytest.mark.parametrize(
        ("text", "tokens", "listed", "expected"),
        [
            pytest.param(YES, ["Yes"], {"Yes": math.log(0.6), "No": math.log(0.2)}, 0.75, id="both listed"),
            pytest.param(YES, ["Yes"], {"Yes": math.log(0.6), "a": math.log(0.2)}, 0.75, id="the other not listed"),
            pytest.param("\\boxed{no}", ["No"], {"No": math.log(0.6), "a": math.log(0.2)}, 0.25, id="any case"),
            pytest.param(YES, ["Yes"], {}, 0.5, id="nothing listed"),
            pytest.param(YES, [" Yes", "Yess"], {"Yes": 0.0}, 0.5, id="no token is the word"),
            pytest.param("Yes", ["Yes"], {"Yes": 0.0, "No": -9.0}, 0.5, id="no brace"),
            pytest.param("", [], {}, 0.5, id="nothing"),
            pytest.param("{" * 10**5, [], {}, 0.5, id="hostile"),
            pytest.param(YES, ["Yes"], {"Yes": -math.inf, "No": -math.inf}, 0.5, id="neither is possible"),
            pytest.param(YES, ["Yes"], {"Yes": 0.0, "No": -math.inf}, 1.0, id="certain"),
        ],
    )
    def test_probability(self, text, tokens, listed, expected):
        assert verdict_probability(sample(text, tokens, **listed)) == pytest.approx(expected)

    def test_the_first_verdict_and_its_last_token(self):
        listed = [{"Yes": 0.0, "No": 0.0}, {"Yes": math.log(0.9), "No": math.log(0.1)}, {"Yes": -9.0, "No": 0.0}]
        found = verdict_probability(Sample("{Yes} \\boxed{Yes} {No}", ["Yes", "Yes", "No"], listed))
        assert found == pytest.approx(0.9)

    def test_fewer_listings_than_tokens(self):
        assert verdict_probability(Sample(YES, ["a", "Yes"], [{"Yes": 0.0}])) == 0.5

    def test_mean_over_samples(self):
        sure = sample(YES, ["Yes"], Yes=0.0, No=-math.inf)
        assert solution_probability([sure, sample("", [])]) == 0.75
        assert solution_probability([]) == 0.5

    def test_unknown_is_undecided(self):
        assert yes_share(NA, -1.0) == 0.5

    @pytest.mark.parametrize(
        ("text", "index"),
        [
            *[("\\boxed{1} or \\boxed{2}", 2), ("\\boxed{-1}", -1), ("\\boxed{ 0 }", 0)],
            *[(text, None) for text in ("\\boxed{3}", "\\boxed{-2}", "2", "\\boxed{two}", "\\boxed{" + "9" * 10**5)],
        ],
    )
    def test_the_earliest_wrong_paragraph(self, text, index):
        assert read_error_index(text, steps=3) == index


class TestStepwise:
    ROW = StepwiseRow("ab", ["cd", "", "e"], [True, False, None])

    def tokens(self, row=ROW, **params):
        found = tokenize_steps(
            row, lambda text: [ord(one) for one in text], StepwiseParams(**({"separator": "|"} | params))
        )
        return "".join(map(chr, found.input_ids)), [
            f"{place}:{label}" for place, label in enumerate(found.labels) if label != -100
        ]

    @pytest.mark.parametrize(
        ("params", "text", "labels"),
        [
            pytest.param({}, "abcd||e|", ["4:1", "5:0"], id="an empty step is its separator, no label is no label"),
            pytest.param({"separator": "<>"}, "abcd<><>e<>", ["5:1", "7:0"], id="the last token of the separator"),
            pytest.param({"separator": ""}, "abcde", ["3:1"], id="a step without a token has no label"),
            pytest.param({"bos": 42}, "*abcd||e|", ["5:1", "6:0"], id="bos"),
            pytest.param({"max_completion_length": 3}, "abcd|", ["4:1"], id="steps cut"),
            pytest.param({"max_completion_length": 2}, "abcd", [], id="the label is cut with its token"),
            pytest.param({"max_length": 6, "bos": 42}, "*abcd|", ["5:1"], id="all cut, bos counted"),
            pytest.param({"max_length": 1}, "a", [], id="the prompt is cut"),
            pytest.param({"max_length": 6, "max_completion_length": 3}, "abcd|", ["4:1"], id="both limits"),
        ],
    )
    def test_tokens(self, params, text, labels):
        assert self.tokens(**params) == (text, labels)

    def test_the_last_step_only(self):
        row = StepwiseRow("a", ["b", "c"], [True, False])
        assert self.tokens(row, train_on_last_step_only=True)[1] == ["4:0"]
        assert self.tokens(row, train_on_last_step_only=True, is_eval=True)[1] == ["2:1", "4:0"]

    def test_no_steps(self):
        assert self.tokens(StepwiseRow("a", [], [])) == ("a", [])

    def test_a_label_each(self):
        with pytest.raises(ValueError, match="2 steps have 1 labels"):
            self.tokens(StepwiseRow("a", ["b", "c"], [True]))

    def test_text_form(self):
        row = StepwiseRow("Q", ["a", "b", "c"], [True, False, None])
        assert marked_text(row, marker="@") == ("Q a @\nb @\nc @", "Q a +\nb -\nc @")


class TestPrm800k:
    def rows(self, *steps):
        return [(row.completions, row.labels) for row in prm800k_rows("P", steps)]

    def step(self, *ratings, chosen=None, human=None):
        completions = [{"text": f"c{place}", "rating": rating} for place, rating in enumerate(ratings)]
        return {"completions": completions or None, "chosen_completion": chosen, "human_completion": human}

    @pytest.mark.parametrize("human", ["h", {"text": "h", "rating": None}])
    def test_an_annotator_takes_over(self, human):
        assert self.rows(self.step(0, 1, human=human), self.step(1, chosen=0)) == [
            (["c0"], [False]),
            (["c1"], [True]),
            (["h", "c0"], [True, True]),
        ]

    def test_nothing_taken_ends_the_walk(self):
        assert self.rows(self.step(-1), self.step(1, chosen=0)) == [(["c0"], [False]), ([], [])]
        assert self.rows(self.step(), self.step(1, chosen=0)) == [([], [])]
        assert self.rows() == [([], [])]

    def test_null_completions_and_an_annotator(self):
        assert self.rows(self.step(human="h")) == [(["h"], [True])]

    def test_a_choice_that_is_not_there(self):
        assert self.rows(self.step(1, chosen=5)) == [(["c0"], [True]), ([], [])]


class TestEstimates:
    def test_labels_need_not_be_monotone(self):
        found = estimate_steps(np.array([4, 0, 2, 0]), 4)
        assert (found.hard.tolist(), found.soft.tolist(), found.first_zero) == ([1, 0, 1, 0], [1, 0, 0.5, 0], 1)
        ended = estimate_steps(np.array([4, 0, 2, 0]), 4, first_zero_ends=True)
        assert (ended.hard.tolist(), ended.soft.tolist()) == ([1, 0, 0, 0], [1, 0, 0, 0])

    def test_all_succeed(self):
        assert estimate_steps(np.array([1, 2]), np.array([1, 4])).first_zero is None

    def test_nothing_drawn_is_unknown(self):
        found = estimate_steps(np.array([0, NA, 0]), np.array([0, 4, 4]))
        np.testing.assert_array_equal(found.hard, [NA, NA, 0])
        np.testing.assert_array_equal(found.soft, [NA, NA, 0])
        assert found.first_zero == 2
        assert estimate_steps(np.array([]), 4).first_zero is None

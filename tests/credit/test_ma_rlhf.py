"""MA-RLHF: where macro actions begin, and their generalised advantage."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.ma_rlhf import (
    MaRlhfParams,
    _keys,
    ma_rlhf,
    macro_actions,
    policy_loss,
    token_rewards,
    value_loss,
)
from pipeline.credit.macro_actions import Spans, split_sentences
from pipeline.credit.ragged import Ragged, ragged, split
from pipeline.errors import BadConfig, BadTable
from pipeline.golden.ma_rlhf import answer

NUMBER = st.floats(-2, 2)
RESPONSES = st.lists(st.lists(st.tuples(NUMBER, NUMBER), max_size=12), min_size=1, max_size=4)
RULES = st.sampled_from(
    [
        MaRlhfParams(ngram=1),
        MaRlhfParams(ngram=3),
        MaRlhfParams(ngram=3, drop_repeated_boundaries=False),
        MaRlhfParams(termination="ppl", value_function="position"),
        MaRlhfParams(termination="ppl", drop_repeated_boundaries=False),
        MaRlhfParams(termination="randomized", value_function="unit", repeat_times=1),
    ]
)


def cut(lengths, params, **given):
    macros = macro_actions(np.array(lengths), params, **given)
    return [row.tolist() for row in split(macros.boundaries, macros.offsets)], macros.lengths.tolist()


def credit(responses, params, keys=None):
    values, rewards = (ragged([token[side] for token in row] for row in responses) for side in (0, 1))
    keys = np.arange(len(responses)) if keys is None else np.array(keys)
    macros = macro_actions(np.diff(values.offsets), params, perplexities=values, keys=keys)
    return macros, ma_rlhf(values.values, rewards.values, macros, params)


def token_gae(values, rewards, lam=0.95):
    """The definition, from the last token back."""
    advantages, carried, after = [], 0.0, 0.0
    for value, reward in zip(values[::-1], rewards[::-1], strict=True):
        carried = reward + after - value + lam * carried
        advantages.append(carried)
        after = value
    return advantages[::-1]


class TestBoundaries:
    @pytest.mark.parametrize(
        ("length", "ngram", "boundaries", "lengths"),
        [
            (7, 3, [0, 3, 6], [3, 3, 1]),
            (8, 3, [0, 3, 6, 7], [3, 3, 1, 1]),
            (4, 9, [0, 3], [3, 1]),
            (2, 1, [0, 1], [1, 1]),
            (2, 5, [0, 1], [1, 1]),
            (1, 5, [0], [1]),
            (0, 5, [], []),
        ],
    )
    def test_fixed(self, length, ngram, boundaries, lengths):
        assert cut([length], MaRlhfParams(ngram=ngram)) == ([boundaries], lengths)

    def test_repeated(self):
        kept = MaRlhfParams(ngram=3, drop_repeated_boundaries=False)
        assert cut([7, 1, 8], kept) == ([[0, 3, 6, 6], [0], [0, 3, 6, 7]], [3, 3, 0, 1, 1, 3, 3, 1, 1])

    def test_perplexity(self):
        found = cut([3, 0, 3, 1], MaRlhfParams(termination="ppl"), perplexities=ragged([[3, 1, 2], [], [9, 1, 0], [5]]))
        assert found == ([[0, 1, 2], [], [0, 2], [0]], [1, 1, 1, 2, 1, 1])

    def test_perplexity_that_rises_at_once(self):
        kept = MaRlhfParams(termination="ppl", drop_repeated_boundaries=False)
        given = ragged([[1, 3, 2, 4], [], [2, 1], [7]])
        found = cut([4, 0, 2, 1], kept, perplexities=given)
        assert found == ([[0, 0, 2, 3], [], [0, 1], [0]], [0, 2, 1, 1, 1, 1, 1])
        assert cut([4], MaRlhfParams(termination="ppl"), perplexities=ragged([[1, 3, 2, 4]]))[0] == [[0, 2, 3]]

    def test_perplexity_of_the_reference(self):
        given = {"values": [0.0] * 4, "logprobs_old": [-1.0] * 4, "logprobs_reference": [-1, -2, -1, -0.5], "score": 1}
        assert answer({"termination": "ppl", "ngram": None}, given)["boundaries"].tolist() == [0, 3]
        assert answer({"termination": "ppl"}, given | {"token_ppl": [2, 1, 3, 1]})["boundaries"].tolist() == [0, 1, 3]

    def test_perplexity_is_not_compared_across_responses(self):
        found = cut([2, 2], MaRlhfParams(termination="ppl"), perplexities=ragged([[2, 1], [9, 8]]))
        assert found == ([[0, 1], [0, 1]], [1, 1, 1, 1])
        kept = MaRlhfParams(termination="ppl", drop_repeated_boundaries=False)
        assert cut([2, 2], kept, perplexities=ragged([[2, 1], [9, 8]])) == found

    def test_parsing(self):
        # ((a b) c (d (e f g))) (h): c joins (a b), d and then (e f g), h joins that; the last token is alone
        spans = Spans(
            response=np.zeros(7, np.int64),
            start=np.array([0, 0, 2, 3, 3, 4, 7]),
            size=np.array([7, 2, 1, 4, 1, 3, 1]),
            parent=np.array([-1, 0, 0, 0, 3, 3, -1]),
        )
        assert cut([8], MaRlhfParams(termination="parsing", cutoff=4), spans=spans)[0] == [[0, 4, 7]]
        assert cut([8], MaRlhfParams(termination="parsing", cutoff=5), spans=spans)[0] == [[0, 3, 7]]
        assert cut([8], MaRlhfParams(termination="parsing", cutoff=9), spans=spans)[0] == [[0, 7]]

    def test_a_parse_of_other_tokens_falls_back_to_single_ones(self):
        spans = Spans(np.array([0, 1]), np.array([0, 0]), np.array([3, 3]), np.array([-1, -1]))
        assert cut([4, 3], MaRlhfParams(termination="parsing"), spans=spans)[0] == [[0, 1, 2, 3], [0, 2]]

    def test_random_lengths_are_those_of_the_list(self):
        params = MaRlhfParams(termination="randomized", repeat_times=2)
        _, lengths = cut([100], params, keys=np.array([7]))
        assert sorted(lengths[:10]) == [1, 1, 2, 2, 3, 3, 5, 5, 10, 10]
        assert lengths[10:] == [57, 1]

    def test_random_lengths_depend_on_key_and_seed_alone(self):
        params = MaRlhfParams(termination="randomized")
        alone = cut([60], params, keys=np.array([7]))
        batch = cut([60, 60, 60], params, keys=np.array([8, 7, -1]))
        assert batch[0][1] == alone[0][0]
        assert batch[0][0] != batch[0][1]
        assert cut([60], MaRlhfParams(termination="randomized", seed=1), keys=np.array([7])) != alone

    @given(RESPONSES, RULES)
    @settings(max_examples=60, deadline=None)
    def test_they_cover_the_response(self, responses, params):
        macros, _ = credit(responses, params)
        for response, boundaries in zip(responses, split(macros.boundaries, macros.offsets), strict=True):
            assert boundaries.tolist()[:1] == [0] * (len(response) > 0)
            assert boundaries.tolist()[-1:] == [len(response) - 1] * (len(response) > 0)
            if params.drop_repeated_boundaries:
                assert (np.diff(boundaries) > 0).all()
        assert macros.lengths.sum() == sum(map(len, responses))

    def test_what_a_rule_needs(self):
        for termination, what in (("ppl", "perplexities"), ("parsing", "spans"), ("randomized", "keys")):
            with pytest.raises(BadConfig, match=f"needs {what}"):
                cut([3], MaRlhfParams(termination=termination))

    def test_sentences(self):
        text = "One. Two!  Three?\nFour 1.5 five\n\nSix."
        assert split_sentences(text) == ["One.", "Two!", "Three?", "Four 1.5 five", "Six."]
        assert split_sentences(" " * 50_000 + "." * 50_000)[-1][-1] == "."


class TestCredit:
    @given(RESPONSES)
    @settings(max_examples=50, deadline=None)
    def test_single_tokens_are_token_level(self, responses):
        _, found = credit(responses, MaRlhfParams(ngram=1))
        expected = [a for row in responses for a in token_gae([v for v, _ in row], [r for _, r in row])]
        np.testing.assert_allclose(found.token_advantages, expected, atol=1e-9)

    @given(RESPONSES, RULES)
    @settings(max_examples=50, deadline=None)
    def test_a_response_is_alone_in_its_batch(self, responses, params):
        together = credit(responses, params)[1].token_advantages
        apart = [credit([row], params, keys=[key])[1].token_advantages for key, row in enumerate(responses)]
        np.testing.assert_array_equal(together, np.concatenate(apart))
        assert np.isfinite(together).all()

    def test_tokens_share_their_macro_action(self):
        macros, found = credit([[(0.1 * place, 1.0) for place in range(7)]], MaRlhfParams(ngram=3))
        np.testing.assert_array_equal(found.token_advantages, np.repeat(found.advantages, macros.lengths))
        np.testing.assert_allclose(found.token_returns, np.repeat(found.advantages + found.values, macros.lengths))

    @pytest.mark.parametrize(
        ("value_function", "value"),
        [("equal", 2.0), ("unit", 3.0), ("position", (1 + 2 / 2 + 3 / 3) / (1 + 1 / 2 + 1 / 3))],
    )
    def test_value_functions(self, value_function, value):
        response = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (9.0, 9.0)]
        _, found = credit([response], MaRlhfParams(ngram=3, value_function=value_function))
        np.testing.assert_allclose(found.values, [value, 9])
        np.testing.assert_allclose(found.rewards, [value, 9])
        _, summed = credit([response], MaRlhfParams(value_function=value_function, ngram=3, reward_aggregation="sum"))
        np.testing.assert_allclose(summed.rewards, [6, 9])
        np.testing.assert_allclose(summed.values, [value, 9])


class TestTokens:
    def test_rewards(self):
        old, reference = ragged([[-1.0, -2.0], [], [-1.0]]), ragged([[-2.0, -2.0], [], [-1.0]])
        found = token_rewards(old, reference, np.array([9.0, 1.0, -3.0]), MaRlhfParams(kl_coef=0.5))
        np.testing.assert_allclose(found, [-0.5, 2.5, -2.5])

    def test_rows_that_do_not_fit_are_named(self):
        with pytest.raises(BadTable, match="row 0"):
            token_rewards(ragged([[-1.0]]), ragged([[]]), np.ones(1))

    def test_policy_loss_is_clipped(self):
        new, old = np.log([2.0, 0.5, 2.0]), np.zeros(3)
        assert policy_loss(new, old, np.array([1.0, -1.0, -1.0])) == pytest.approx((-1.2 + 0.8 + 2) / 3)

    def test_value_loss_is_clipped(self):
        found = value_loss(np.array([1.0, 0.0]), np.zeros(2), np.array([1.0, 1.0]))
        assert found == pytest.approx(0.5 * (0.8**2 + 1) / 2)


@pytest.mark.parametrize("name", ["termination", "value_function", "reward_aggregation"])
def test_unknown_words_are_named(name):
    with pytest.raises(BadConfig, match=f"{name} 'other' is not known"):
        MaRlhfParams(**{name: "other"})


def test_ngram_is_a_number_of_tokens():
    with pytest.raises(BadConfig, match="ngram 0"):
        cut([3], MaRlhfParams(ngram=0))


class TestTrees:
    #     0      the question
    #   1   3    two answers of three tokens
    #   2   4
    TREES = replace(
        labelled_trees(
            (-1, 0, 1, 0, 3),
            (NA, NA, 1, NA, 0),
            sizes=(1, 2, 1, 1, 2),
            kind=(0, 1, 1, 1, 1),
            critic_values=(9, 0.2, 0.4, 0.5, 0.25, 0.25, 0.25),
            logprobs=(NA, -1, -1, -1, -1, -1, -1),
            reference_logprobs=(NA, -2, -1, -1, -1, -1, -1),
        ),
        tokens=np.array([5, 1, 2, 3, 1, 2, 4], np.int32),
    )
    PARAMS = MaRlhfParams(ngram=2, lam=1.0, kl_coef=0.1)

    def test_tokens_by_hand(self):
        # macro actions of two tokens and of the last; rewards (-0.1, 0, 1) and (0, 0, 0)
        # values 0.3, 0.5: the first is paid -0.05 + 0.5 - 0.3, the second 1 - 0.5
        found = METHODS["ma_rlhf"].function(self.TREES, self.PARAMS)
        np.testing.assert_allclose(found.token_advantages, [0, 0.65, 0.65, 0.5, -0.25, -0.25, -0.25], atol=1e-12)
        np.testing.assert_allclose(found.advantage, [0, 0.65, 0.5, -0.25, -0.25], atol=1e-12)

    @pytest.mark.parametrize("termination", ["ppl", "randomized"])
    def test_other_cuts(self, termination):
        params = MaRlhfParams(termination, value_function="unit")
        reference, policy = ragged([[-2, -1, -1], [-1, -1, -1]]), ragged([[-1, -1, -1], [-1, -1, -1]])
        keys = _keys(Ragged(np.array([1, 2, 3, 1, 2, 4], np.int32), policy.offsets))
        macros = macro_actions(
            np.array([3, 3]), params, perplexities=Ragged(-reference.values, reference.offsets), keys=keys
        )
        rewards = token_rewards(policy, reference, np.array([1.0, 0.0]), params)
        direct = ma_rlhf(self.TREES.given["critic_values"][1:], rewards, macros, params)
        found = METHODS["ma_rlhf"].function(self.TREES, params)
        np.testing.assert_allclose(found.token_advantages[1:], direct.token_advantages, atol=1e-12)

    def test_what_was_not_sampled_is_no_part_of_the_response(self):
        given = {**self.TREES.given, "logprobs": np.array([NA, NA, -1, -1, -1, -1, -1])}
        found = METHODS["ma_rlhf"].function(replace(self.TREES, given=given), MaRlhfParams(ngram=1, lam=1.0))
        np.testing.assert_allclose(found.token_advantages[:4], [0, 0, 0.6, 0.5], atol=1e-12)

    def test_parses_are_not_stored(self):
        with pytest.raises(BadConfig, match="parsing; use fixed"):
            METHODS["ma_rlhf"].function(self.TREES, MaRlhfParams("parsing"))

    @given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_keys_tell_responses_apart_whatever_the_batch(self, responses):
        def keys(some):
            return _keys(ragged(some, np.int32)).tolist()

        assert keys(responses) == [key for row in responses for key in keys([row])]
        assert len(set(keys(responses))) == len(set(map(tuple, responses)))

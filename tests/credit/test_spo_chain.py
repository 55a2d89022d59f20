"""SPO-chain against its definition, token by token."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.spo_chain import Cuts, SpoChainParams, cut_points, cut_values, distinct_prefixes, spo_chain
from pipeline.errors import BadConfig

NA = float("nan")
PROBABILITY = st.sampled_from([0.1, 0.5, 0.89, 0.9, 0.95, 1.0])
RESPONSES = st.lists(st.lists(PROBABILITY, max_size=12), min_size=1, max_size=4)


def columns(responses) -> tuple[np.ndarray, np.ndarray]:
    flat = np.log(np.array([p for response in responses for p in response], np.float64))
    return flat, np.cumsum([0, *map(len, responses)])


def direct(response, score, cuts, values, rho=0.9):
    """The walk of the definition over one response."""
    value = [None] * len(response)
    for cut, worth in zip(cuts, values, strict=True):
        if cut >= 0:
            value[cut] = worth
    value[-1] = score
    base = values[0] if cuts and cuts[0] == -1 else None
    advantages, waiting = [], 0
    for worth in value:
        waiting += 1
        if worth is not None:
            advantages += [0.0 if base is None else worth - base] * waiting
            base, waiting = worth, 0
    advantages = [0.0 if p > rho else a for p, a in zip(response, advantages, strict=True)]
    return value if cuts else [score] * len(response), advantages


@given(RESPONSES, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_it_is_its_definition_whatever_else_is_in_the_batch(responses, interval, random):
    params = SpoChainParams(cutpoint_interval=interval)
    logprobs, offsets = columns(responses)
    cuts = cut_points(logprobs, offsets, params)
    values = np.array([random.choice([0.0, 0.25, 1.0]) for _ in cuts.tokens], np.float64)
    scores = np.array([random.choice([0.0, 1.0]) for _ in responses])
    found = spo_chain(logprobs, offsets, scores=scores, values=values, params=params)
    assert np.isfinite(found.advantages).all()
    for place, response in enumerate(responses):
        low = [t for t, p in enumerate(response) if p < 0.9]
        own = cuts.responses == place
        assert cuts.tokens[own].tolist() == [t - 1 for t in low][::interval]
        assert own.sum() == math.ceil(len(low) / interval)
        if not response:
            continue
        here = slice(offsets[place], offsets[place + 1])
        value, advantages = direct(response, scores[place], cuts.tokens[own].tolist(), values[own].tolist())
        np.testing.assert_allclose(found.values[here], [NA if v is None else v for v in value])
        np.testing.assert_allclose(found.advantages[here], advantages, atol=1e-12)
        assert found.loss_mask[here].tolist() == [p < 0.9 for p in response]
        segments = found.segments.responses == place
        assert found.segments.start_token[segments][0] == 0
        assert found.segments.end_token[segments][-1] == len(response)
        gained = found.segments.value_end[segments] - found.segments.value_start[segments]
        if low:
            np.testing.assert_allclose(np.nansum(gained), scores[place] - values[own][0], atol=1e-12)


@pytest.mark.parametrize("response", [[0.1, 0.95, 0.2, 1.0], [0.95, 0.3], [0.5]])
def test_agreement_is_exactly_nothing(response):
    logprobs, offsets = columns([response])
    params = SpoChainParams(cutpoint_interval=1)
    count = len(cut_points(logprobs, offsets, params).tokens)
    values = cut_values(np.full(3 * count, 0.1), np.repeat(np.arange(count), 3), count=count)
    found = spo_chain(logprobs, offsets, scores=np.array([0.1]), values=values, params=params)
    assert found.advantages.tolist() == [0.0] * len(response)


def test_a_probability_of_rho_keeps_its_advantage_and_is_not_trained():
    logprobs, offsets = columns([[0.5, 0.9, 0.95]])
    found = spo_chain(logprobs, offsets, scores=np.array([1.0]), values=np.array([0.25]))
    np.testing.assert_allclose(found.advantages, (0.75, 0.75, 0))
    assert found.loss_mask.tolist() == [True, False, False]


def test_without_a_low_token_every_value_is_the_outcome():
    logprobs, offsets = columns([[0.95, 0.99], [], [0.2]])
    found = spo_chain(logprobs, offsets, scores=np.array([1.0, 1.0, NA]), values=np.array([0.5]))
    np.testing.assert_allclose(found.values, (1, 1, 0))
    np.testing.assert_allclose(found.advantages, (0, 0, -0.5))
    assert found.segments.responses.tolist() == [0, 2]


def test_continuations_cut_short_have_the_penalty_and_none_is_worth_0():
    rewards, cuts = np.array([1.0, NA, 1.0, 0.0, NA]), np.array([0, 0, 2, 2, 3])
    params = SpoChainParams(unfinished_penalty=-1.0)
    np.testing.assert_allclose(cut_values(rewards, cuts, count=4, params=params), (0, 0, 0.5, -1))


def test_a_response_cut_short_scores_0_whatever_the_penalty():
    logprobs, offsets = columns([[0.5, 0.95]])
    params = SpoChainParams(unfinished_penalty=-1.0)
    found = spo_chain(logprobs, offsets, scores=np.array([NA]), values=np.array([-0.5]), params=params)
    np.testing.assert_allclose(found.values, (NA, 0))
    np.testing.assert_allclose(found.advantages, (0.5, 0))


def test_equal_prefixes_of_a_prompt_are_sampled_once():
    tokens, offsets = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3]), np.array([0, 3, 6, 9])
    cuts = Cuts(np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), np.array([-1, 0, 1, -1, 0, 2, -1, 1, 0]))
    codes = distinct_prefixes(tokens, offsets, prompts=np.array([0, 0, 1]), cuts=cuts)
    same = [sorted(np.flatnonzero(codes == code).tolist()) for code in np.unique(codes)]
    assert sorted(same) == [[0, 3], [1, 4], [2], [5], [6], [7], [8]]
    assert codes.max() == len(same) - 1


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_requests_are_the_distinct_prefixes(responses, split):
    tokens, offsets = np.array([t for some in responses for t in some], np.int32), np.cumsum([0, *map(len, responses)])
    prompts = np.arange(len(responses)) % 2 if split else np.zeros(len(responses), int)
    each = [(place, cut) for place, some in enumerate(responses) for cut in range(-1, len(some) - 1)]
    cuts = Cuts(*(np.array(column) for column in zip(*each, strict=True)))
    codes = distinct_prefixes(tokens, offsets, prompts=prompts, cuts=cuts)
    named = [(int(prompts[place]), tuple(responses[place][: cut + 1])) for place, cut in each]
    pairs = set(zip(codes.tolist(), named, strict=True))
    assert len(pairs) == len(set(named)) == len(set(codes.tolist()))


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="interval"):
        SpoChainParams(cutpoint_interval=0)
    with pytest.raises(BadConfig, match="rho"):
        SpoChainParams(rho=1.5)


class TestTrees:
    #     0      the question; half of the answers are right
    #   1   3    labels 0.75 and 0.25
    #   2   4
    CHANCES = (NA, 0.5, 0.95, 0.5, 0.9, 0.95, 0.99)

    def trees(self, soft):
        shape = {"sizes": (1, 2, 1, 1, 2), "kind": (0, 1, 1, 1, 1), "logprobs": np.log(self.CHANCES)}
        return labelled_trees((-1, 0, 1, 0, 3), (NA, NA, 1, NA, 0), step_soft=soft, **shape)

    def test_steps_by_hand(self):
        found = METHODS["spo_chain"].function(self.trees((NA, 0.75, NA, 0.25, NA)), SpoChainParams())
        np.testing.assert_allclose(found.value, [0.5, 0.75, 1, 0.25, 0], atol=1e-12)
        np.testing.assert_allclose(found.advantage, [0, 0.25, 0.25, -0.25, -0.25], atol=1e-12)
        np.testing.assert_allclose(found.token_advantages, [0, 0.25, 0, 0.25, -0.25, 0, 0], atol=1e-12)
        assert found.mask.tolist() == [False, True, True, False, False]
        direct = spo_chain(
            np.log(self.CHANCES[1:4]),
            np.array([0, 3]),
            scores=np.ones(1),
            values=np.array([0.5, 0.75]),
            params=SpoChainParams(cutpoint_interval=1),
        )
        np.testing.assert_allclose(found.token_advantages[1:4], direct.advantages, atol=1e-12)

    def test_a_label_of_the_root_stands_and_what_has_none_is_unknown(self):
        found = METHODS["spo_chain"].function(self.trees((0.6, 0.75, NA, NA, NA)), SpoChainParams())
        np.testing.assert_allclose(found.advantage, [0, 0.15, 0.25, NA, NA], atol=1e-12)

    def test_what_is_rendered_moves_no_value(self):
        kind = {"kind": (0, 1, 0, 1), "logprobs": np.log([NA, 0.5, NA, 0.5])}
        trees = labelled_trees((-1, 0, 1, 2), (NA, NA, NA, 1), step_soft=(0.5, 0.75, NA, NA), **kind)
        found = METHODS["spo_chain"].function(trees, SpoChainParams())
        np.testing.assert_allclose(found.token_advantages, [0, 0.25, 0, 0.25], atol=1e-12)

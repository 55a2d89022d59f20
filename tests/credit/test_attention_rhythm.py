"""Attention rhythm: look-backs, anchors, and what their advantages are multiplied by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.attention_rhythm import (
    STRATEGIES,
    RhythmParams,
    amplify,
    attention_rhythm,
    group_heads,
    mean_map,
    rhythm,
    rhythm_layers,
)
from pipeline.errors import BadConfig


def causal(seed, count):
    """Attention drawn at random; rows sum to 1."""
    weights = np.tril(np.random.default_rng(seed).random((count, count)) + 1e-3)
    return weights / weights.sum(axis=1, keepdims=True)


def direct(local, far, start, window, nearest, farthest):
    """WAAD and FAI by their definitions."""
    count = len(local)
    waad = [sum(local[t, s] * min(t - s, window) for s in range(t + 1)) for t in range(start, count)]
    fai = []
    for s in range(start, count):
        later = [far[t, s] for t in range(s + nearest, min(count - 1, s + farthest) + 1)]
        fai.append(np.mean(later) if later else 0.0)
    return waad, fai


@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(0, 4), st.integers(0, 3), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_it_is_its_definition(seed, count, start, nearest, more):
    start = min(start, count - 1)
    local, far = causal(seed, count), causal(seed + 1, count)
    words = {"window": 3, "nearest": nearest, "farthest": nearest + more}
    found = attention_rhythm(local, far, start, RhythmParams(**words))
    waad, fai = direct(local, far, start, **words)
    np.testing.assert_allclose(found.waad, waad, atol=1e-12)
    np.testing.assert_allclose(found.fai, fai, atol=1e-12)
    assert (found.waad >= 0).all()
    assert (found.waad <= 3 + 1e-12).all()
    size = count - start
    assert len(found.preplan) == min(int(np.ceil(round(0.4 * size, 9))), size - 1)
    assert size - 1 not in found.preplan
    assert found.gamma.sum() - size <= 0.5 * len(found.anchors) + 1e-9
    for strategy in ("local", "global"):
        other = attention_rhythm(local, far, start, RhythmParams(strategy, **words))
        raised = other.preplan if strategy == "local" else other.anchors
        assert np.flatnonzero(other.gamma > 1).tolist() == raised.tolist()


def looking(rows, count):
    """Attention of which each row looks at one token."""
    attention = np.zeros((count, count))
    attention[np.arange(count), rows] = 1.0
    return attention


def coupled(**words):
    local = looking([0, 0, 0, 3, 3, 5], 6)  # look-backs 0 1 2 0 1 0, changes 1 1 2 1 1 0
    far = np.zeros((6, 6))
    far[5, [1, 3, 4]] = (0.2, 0.9, 0.8)
    return attention_rhythm(local, far, 0, RhythmParams(nearest=1, farthest=9, top=0.3, **words))


def test_coupled():
    found = coupled()
    assert found.delta.tolist() == [1, 1, 2, 1, 1, 0]
    assert found.preplan.tolist() == [0, 2]
    assert found.anchors.tolist() == [3, 4]
    assert (found.tau_waad, found.tau_delta) == (0.5, 1)
    assert found.dominated.tolist() == [3]
    assert found.introductions.tolist() == [2]
    np.testing.assert_allclose(found.gamma, [1, 1, 1.25, 1.25, 1.5, 1])
    assert coupled(alpha=1.0).gamma.tolist() == [1, 1, 1.5, 1, 1.5, 1]


def test_thresholds_given():
    assert coupled(tau_delta=2.5).dominated.tolist() == []
    both = coupled(tau_waad=1.0)
    assert both.dominated.tolist() == [3, 4]
    assert both.introductions.tolist() == [2, 2]
    np.testing.assert_allclose(both.gamma, [1, 1, 1.25, 1.25, 1.25, 1])  # shared by two, counted once


def test_reach_and_ties_to_the_later():
    near = coupled(tau_waad=1.0, reach=1)
    assert near.introductions.tolist() == [2, 3]
    np.testing.assert_allclose(near.gamma, [1, 1, 1.25, 1.5, 1.25, 1])  # 3 is an anchor and introduces 4
    local = looking([0, 0, 2, 3, 3, 5], 6)  # changes 1 1 0 1 1 0
    far = np.zeros((6, 6))
    far[5, 2] = 1.0
    found = attention_rhythm(local, far, 0, RhythmParams(nearest=1, top=0.1, tau_waad=9.0))
    assert found.dominated.tolist() == [2]
    assert found.introductions.tolist() == [1]


def test_the_first_token_has_nothing_before_it():
    far = np.zeros((3, 3))
    far[2, 0] = 1.0
    found = attention_rhythm(looking([0, 0, 0], 3), far, 0, RhythmParams(nearest=1, top=0.1, tau_waad=9.0, tau_delta=0))
    assert found.anchors.tolist() == [0]
    assert found.dominated.tolist() == []


def test_uniform_attention_dominates_nobody():
    attention = np.zeros((30, 30))
    attention[:, :5] = 0.2
    found = attention_rhythm(attention, attention, 20, RhythmParams(nearest=1))
    assert found.dominated.tolist() == []
    assert found.preplan.tolist() == [0, 1, 2, 3]
    assert found.anchors.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_short_responses(strategy):
    attention = causal(0, 3)
    one = attention_rhythm(attention, attention, 2, RhythmParams(strategy))
    assert (one.delta.tolist(), one.fai.tolist(), one.gamma.tolist()) == ([0], [0], [1])
    assert (len(one.preplan), len(one.anchors)) == (0, 0)
    assert np.isnan(one.tau_delta)
    assert len(attention_rhythm(attention, attention, 3, RhythmParams(strategy)).gamma) == 0


def test_only_gains_are_amplified():
    gamma = np.array([1.5, 1.5, 1.5, 1.5])
    np.testing.assert_array_equal(amplify(np.array([2.0, -2.0, 0.0, np.nan]), gamma), [3, -2, 0, np.nan])
    assert amplify(1.0, gamma).tolist() == gamma.tolist()


class TestHeads:
    def maps(self, *backs):
        """A head a number: the tokens that it looks back from the last of 9."""
        maps = np.zeros((len(backs), 9, 9))
        maps[np.arange(len(backs)), 8, 8 - np.array(backs)] = 1.0
        return maps

    def test_ties_go_to_the_smaller_at_both_ends(self):
        found = group_heads(self.maps(1, 5, 1, 5, 3, 3, 1), 8)
        assert found.distances.tolist() == [1, 5, 1, 5, 3, 3, 1]
        assert found.near.tolist() == [0, 2]
        assert found.far.tolist() == [1, 3]

    def test_rounded_down_but_one(self):
        assert len(group_heads(self.maps(1, 2), 8).near) == 1
        assert len(group_heads(self.maps(*range(8), 0, 1), 8).near) == 3

    def test_only_the_response_looks(self):
        maps = np.stack([causal(0, 6), causal(1, 6)])
        maps[:, :4] = 0.0
        kept = group_heads(maps, 4).distances
        assert (kept != group_heads(maps, 2).distances).all()
        with pytest.raises(ValueError, match="the response is empty"):
            group_heads(maps, 6)

    def test_mean_map(self):
        np.testing.assert_array_equal(mean_map(np.stack([np.eye(2), np.ones((2, 2))]), [0, 1])[0], [1, 0.5])

    @pytest.mark.parametrize(
        ("layers", "chosen"), [(36, [12, 15, 18, 21, 24]), (28, [9, 11, 13, 15, 18]), (3, [1, 2]), (1, [0])]
    )
    def test_layers(self, layers, chosen):
        assert rhythm_layers(layers) == chosen


@pytest.mark.parametrize("params", [{"strategy": "both"}, {"reach": 0}, {"nearest": -1}, {"top": 1.5}])
def test_bad_parameters_are_named(params):
    with pytest.raises(BadConfig, match=str(next(iter(params.values())))):
        RhythmParams(**params)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from(STRATEGIES),
    st.sampled_from([None, 0.7]),
)
@settings(max_examples=60, deadline=None)
def test_responses_together_are_as_apart(counts, seed, strategy, tau):
    params = RhythmParams(strategy, window=3, nearest=1, farthest=3, tau_waad=tau, tau_delta=tau)
    apart = [
        attention_rhythm(causal(seed + place, count), causal(seed + 9 + place, count), 0, params)
        for place, count in enumerate(counts)
    ]
    offsets = np.cumsum([0, *counts])
    both = rhythm(*(np.concatenate([getattr(one, name) for one in apart]) for name in ("waad", "fai")), offsets, params)
    np.testing.assert_array_equal(both.tau_waad, [one.tau_waad for one in apart])
    np.testing.assert_array_equal(both.tau_delta, [one.tau_delta for one in apart])
    for name in ("delta", "gamma"):
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([getattr(one, name) for one in apart]))
    for name in ("preplan", "anchors", "dominated", "introductions"):
        shifted = [getattr(one, name) + start for one, start in zip(apart, offsets, strict=False)]
        np.testing.assert_array_equal(getattr(both, name), np.concatenate(shifted))


class TestTrees:
    #     0        the question
    #   1   3  4   three answers; of 4 attention is not known
    #   2
    TREES = labelled_trees(
        (-1, 0, 1, 0, 0),
        (NA, NA, 1, 0, 0),
        sizes=(1, 3, 1, 2, 1),
        kind=(0, 1, 1, 1, 1),
        waad=(NA, 1, 3, 3, 0, 2, 1, NA),
        fai=(NA, 0.1, 0.4, 0.2, NA, 0.5, NA, NA),
    )
    GOOD, BAD = 2 / 3 / (np.sqrt(1 / 3) + 1e-6), -1 / 3 / (np.sqrt(1 / 3) + 1e-6)

    @pytest.mark.parametrize(
        ("strategy", "gamma"),
        [
            pytest.param("local", (1.5, 1, 1.5, 1), id="looks change by 2, 0, 3"),
            pytest.param("global", (1, 1.5, 1.5, 1), id="the last is looked at by nobody"),
            pytest.param("coupled", (1.25, 1.25, 1.5, 1), id="the second shares with the first"),
        ],
    )
    def test_tokens_by_hand(self, strategy, gamma):
        params = RhythmParams(strategy, nearest=1, top=0.5, tau_waad=3.0, tau_delta=1.0, reach=1)
        found = METHODS["attention_rhythm"].function(self.TREES, params)
        expected = [0, *np.multiply(gamma, self.GOOD), self.BAD, self.BAD, self.BAD]
        np.testing.assert_allclose(found.token_advantages, expected, atol=1e-12)
        np.testing.assert_allclose(found.advantage[[2, 3, 4]], [expected[4], self.BAD, self.BAD], atol=1e-12)

    def test_what_may_have_to_grow_is_unknown_without_attention(self):
        right = replace(self.TREES, reward=np.array([NA, NA, 0, 0, 1]))
        found = METHODS["attention_rhythm"].function(right, RhythmParams(nearest=1))
        assert np.isnan(found.advantage).tolist() == [False] * 4 + [True]

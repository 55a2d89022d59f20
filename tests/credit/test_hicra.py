"""HICRA: matching of phrases, their mining, and the advantage of planning tokens."""

import re
from itertools import pairwise
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.hicra import HicraParams, hicra
from pipeline.credit.strategic_grams import GramMatcher, cluster_grams, count_grams, mine_grams, semantic_entropy


def mask(grams, *tokens):
    return GramMatcher(grams).mask(tokens).astype(int).tolist()


class TestMatching:
    @pytest.mark.parametrize(
        ("grams", "tokens", "marked"),
        [
            pytest.param(["we can"], ["We", " CAN", " go"], [1, 1, 0], id="whatever the case"),
            pytest.param(["we can"], ["we", " cannot"], [0, 0], id="no letter after"),
            pytest.param(["we can"], ["_we", " can"], [0, 0], id="no underscore before"),
            pytest.param(["we can"], ["we", " can2"], [0, 0], id="no digit after"),
            pytest.param(["we can"], ["(we", " can)"], [1, 1], id="marks may touch"),
            pytest.param(["we can", "can not go"], ["we", " can", " not", " go"], [1, 1, 1, 1], id="overlapping"),
            pytest.param(["a a"], ["a", " a", " a", " b"], [1, 1, 1, 0], id="overlaps itself"),
            pytest.param(["we", "we can"], ["we", " can"], [1, 1], id="the longer of two at a place"),
            pytest.param(
                ["we can do", "we"], ["we", " can", " dot"], [1, 0, 0], id="the shorter where the longer fails"
            ),
            pytest.param(["e c"], ["we", " can"], [0, 0], id="inside words"),
            pytest.param(["we can"], ["", "we", "", " can", ""], [0, 1, 0, 1, 0], id="empty tokens are not marked"),
            pytest.param(["we can"], ["w", "e c", "an"], [1, 1, 1], id="cut anywhere"),
            pytest.param(["wait, let me"], ["Wait", ",", " let", " me"], [1, 1, 1, 1], id="marks within"),
            pytest.param(["a.c d"], ["abc", " d"], [0, 0], id="no pattern"),
            pytest.param(["straße über"], ["İİ", " STRASSE", " STRAßE", " ÜBER"], [0, 0, 1, 1], id="letters that grow"),
            pytest.param([], ["we"], [0], id="no phrase"),
            pytest.param([""], ["we"], [0], id="an empty phrase"),
            pytest.param(["we"], [], [], id="no token"),
        ],
    )
    def test_mask(self, grams, tokens, marked):
        assert mask(grams, *tokens) == marked

    @given(
        st.lists(st.text("ab ,_", min_size=1, max_size=4), max_size=5),
        st.lists(st.text("aAbB ,_", max_size=3), max_size=8),
    )
    @settings(max_examples=150, deadline=None)
    def test_it_is_its_definition(self, grams, tokens):
        text, covered = "".join(tokens).lower(), set()
        for gram in grams:
            for found in re.finditer(rf"(?<!\w)(?=({re.escape(gram)})(?!\w))", text):
                covered |= set(range(found.start(), found.start() + len(gram)))
        ends = np.cumsum([0, *map(len, tokens)])
        expected = [bool(covered & set(range(a, b))) for a, b in pairwise(ends.tolist())]
        assert mask(grams, *tokens) == expected

    def test_hostile_text_takes_linear_time(self):
        matcher = GramMatcher(["a a a a b", "a a a", "x" * 200])
        begun = process_time()
        matcher.mask(["a "] * 20_000 + ["a" * 50_000] + [" " * 50_000])
        assert process_time() - begun < 1


class TestMining:
    def test_ties_go_by_name_and_the_share_is_rounded_up(self):
        clusters = {"b": ["we can"], "a": ["let me"], "c": ["zzz"], "d": ["no"], "e": ["x y"], "f": []}
        found = mine_grams(["we can let me", "let me; we can"], clusters)
        assert found.kept == ["a", "b"]
        assert found.grams == ["let me", "we can"]
        assert found.frequencies == {"b": 1, "a": 1, "c": 0, "d": 0, "e": 0, "f": 0}

    def test_five_clusters_leave_one(self):
        assert len(mine_grams(["a"], {name: [name] for name in "abcde"}).kept) == 1

    def test_a_solution_counts_once(self):
        assert mine_grams(["go on. go on", "stop"], {"a": ["go on", "on"]}).frequencies == {"a": 0.5}

    def test_nothing(self):
        assert mine_grams([], {"a": ["x"]}) == ({"a": 0}, ["a"], ["x"])
        assert mine_grams(["x"], {}) == ({}, [], [])

    def test_counts(self):
        assert count_grams(["Let me see it", "let me see"]) == {"let me see": 2, "me see it": 1, "let me see it": 1}

    def test_clusters(self):
        vectors = np.array([[0, 1.0], [1, 0], [0.1, 2], [3, 0.1]])
        assert cluster_grams(vectors).tolist() == [0, 1, 0, 1]
        assert cluster_grams(vectors, distance=0.0).tolist() == [0, 1, 2, 3]
        assert cluster_grams(vectors[:1]).tolist() == [0]

    @pytest.mark.parametrize(("counts", "entropy"), [([2, 2, 0], np.log(2)), ([5], 0), ([], 0), ([0, 0], 0)])
    def test_entropy(self, counts, entropy):
        assert semantic_entropy(np.array(counts)) == pytest.approx(entropy)


def credit(rewards, masks, groups=None, **params):
    groups = np.array([0] * len(rewards) if groups is None else groups)
    offsets = np.cumsum([0, *map(len, masks)])
    planning = np.array([mark for row in masks for mark in row], bool)
    return hicra(np.array(rewards, float), groups, planning=planning, offsets=offsets, params=HicraParams(**params))


GROUP = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.lists(st.booleans(), max_size=5)), min_size=1, max_size=5
)


class TestCredit:
    def test_success_grows_and_failure_shrinks(self):
        found = credit([1, 0], [[1, 0], [1, 0]])
        np.testing.assert_allclose(found.token_advantages, [0.6, 0.5, -0.4, -0.5])

    @given(GROUP, GROUP, st.floats(0, 0.99), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_sign_base_and_other_tasks(self, here, there, alpha, by_std):
        words = {"alpha": alpha, "normalize_std": by_std}
        found, plain = (
            credit(*zip(*here, strict=True), **words),
            credit(*zip(*here, strict=True), **words | {"alpha": 0}),
        )
        base = np.repeat(found.base, [len(row) for _, row in here])
        np.testing.assert_array_equal(plain.token_advantages, base)
        np.testing.assert_array_equal(np.sign(found.token_advantages), np.sign(base))
        both = credit(*zip(*there, *here, strict=True), [1] * len(there) + [0] * len(here), **words)
        mine = both.token_advantages[len(both.token_advantages) - len(base) :]
        np.testing.assert_allclose(mine, found.token_advantages, atol=1e-12)
        turned = credit(*zip(*here[::-1], strict=True), **words)
        np.testing.assert_allclose(turned.base[::-1], found.base, atol=1e-6)

    def test_bases(self):
        assert credit([0.7], [[1]]).base.tolist() == [0.7]
        assert credit([1], [[0]], normalize_std=True).base[0] == pytest.approx(1 / (1 + 1e-6))
        np.testing.assert_allclose(credit([1, 0], [[], []], normalize_std=True).base, [0.70710578, -0.70710578])

    def test_equal_rewards_give_nothing(self):
        assert not credit([0.1] * 3, [[1, 0]] * 3).token_advantages.any()


def test_trees_grow_planning_tokens():
    #     0        the question
    #   1   3  4   three answers, of which 4 has no verdict; of a token of 3 nobody said whether it plans
    #   2
    trees = labelled_trees(
        (-1, 0, 1, 0, 0),
        (NA, NA, 1, 0, NA),
        sizes=(1, 2, 1, 3, 1),
        kind=(0, 1, 1, 1, 1),
        planning=(1, 1, 0, 1, 1, 0, NA, 1),
    )
    found = METHODS["hicra"].function(trees, HicraParams())
    np.testing.assert_allclose(found.token_advantages, [0, 0.6, 0.5, 0.6, -0.4, -0.5, NA, NA], atol=1e-12)
    np.testing.assert_allclose(found.advantage, [0, 0.55, 0.6, -0.45, NA], atol=1e-12)
    direct = credit([1, 0], [[1, 0, 1], [1, 0]])
    np.testing.assert_allclose(found.token_advantages[1:6], direct.token_advantages, atol=1e-12)

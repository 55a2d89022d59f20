"""SAN against its direct definition, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees
from spoken_trees import PROMPT, STEP

from pipeline.credit.san import SanParams, find_searches, san, san_credit, search_counts
from pipeline.errors import BadConfig, BadTable
from pipeline.golden.san import answer

BATCH = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 0.1, 0.7, 1.0])), max_size=12)
PARAMS = st.builds(SanParams, alpha=st.sampled_from([0.0, 0.3, 1.0]), ddof=st.sampled_from([0, 1, 2]))


def run(batch, params=None):
    """SAN of trajectories as task, stratum and reward."""
    tasks, strata, rewards = (
        np.array([row[place] for row in batch], kind) for place, kind in enumerate((int, int, float))
    )
    return san(rewards, tasks=tasks, strata=strata, params=params or SanParams())


@given(BATCH, PARAMS)
@settings(max_examples=60, deadline=None)
def test_is_its_definition(batch, params):
    found = run(batch, params)
    for place, (task, stratum, reward) in enumerate(batch):
        group = [row[2] for row in batch if row[0] == task]
        peers = [row[2] for row in batch if row[:2] == (task, stratum)]
        overall, within = scaled(reward, group, params), scaled(reward, peers, params)
        assert found.a_global[place] == pytest.approx(overall, abs=1e-9)
        assert found.a_san[place] == pytest.approx(within, abs=1e-9)
        assert found.advantage[place] == pytest.approx(params.alpha * within + (1 - params.alpha) * overall, abs=1e-9)
        assert found.bias[place] == pytest.approx(np.mean(peers) - np.mean(group), abs=1e-9)


def scaled(reward, members, params):
    if len(members) <= params.ddof or len(set(members)) == 1:
        return 0.0
    return (reward - np.mean(members)) / (np.std(members, ddof=params.ddof) + params.epsilon)


@given(BATCH, PARAMS, st.randoms())
@settings(max_examples=30, deadline=None)
def test_neither_order_nor_other_tasks_matter(batch, params, random):
    whole = run(batch, params).advantage
    assert np.isfinite(whole).all()
    order = list(range(len(batch)))
    random.shuffle(order)
    np.testing.assert_allclose(run([batch[place] for place in order], params).advantage, whole[order], atol=1e-9)
    kept = [place for place, row in enumerate(batch) if row[0] == 1]
    assert run([batch[place] for place in kept], params).advantage.tolist() == whole[kept].tolist()


class TestWorksWhen:
    BATCH = ((0, 0, 1.0), (0, 0, 0.0), (0, 0, 0.5), (0, 1, 0.0), (0, 1, 1.0), (0, 2, 1.0))

    def test_alpha_zero_is_grpo(self):
        found = run(self.BATCH, SanParams(alpha=0))
        rewards = np.array([row[2] for row in self.BATCH])
        np.testing.assert_allclose(found.advantage, (rewards - rewards.mean()) / (rewards.std() + 1e-6), atol=1e-12)

    def test_strata_are_standard(self):
        found = run(self.BATCH).a_san
        for stratum in (found[:3], found[3:5]):
            assert stratum.mean() == pytest.approx(0, abs=1e-12)
            assert stratum.var() == pytest.approx(1, abs=1e-5)
        assert found[5] == 0

    def test_a_constant_of_a_stratum_falls_out(self):
        shifted = [(task, stratum, reward + 3 * (stratum == 1)) for task, stratum, reward in self.BATCH]
        np.testing.assert_allclose(run(shifted).a_san, run(self.BATCH).a_san, atol=1e-12)
        assert (run(shifted).bias != run(self.BATCH).bias).all()

    def test_variance_between_strata_is_that_of_the_bias(self):
        rewards = np.array([row[2] for row in self.BATCH])
        bias = run(self.BATCH).bias
        within = rewards - rewards.mean() - bias
        assert (rewards - rewards.mean()).var() - (within**2).mean() == pytest.approx((bias**2).mean())

    def test_one_stratum_is_grpo(self):
        found = run([(0, 1, reward) for _, _, reward in self.BATCH])
        assert found.a_san.tolist() == found.a_global.tolist()
        assert not found.bias.any()

    def test_equal_or_lone_rewards_give_exactly_nothing(self):
        found = run([(0, place % 2, 0.1) for place in range(7)] + [(1, 0, 0.7)])
        assert not np.concatenate(found).any()


def test_searches_count_once_a_step():
    calls = pl.Series(
        [
            '[{"name": "search"}, {"name": "search", "ok": false, "arguments": {"q": [1]}}]',
            '[{"name": "search", "ok": false}]',
            '[{"name": "open", "ok": true}]',
            None,
            "[]",
            '[{"name": "search", "ok": null}]',
        ]
    )
    counts = search_counts(find_searches(calls), np.array([0, 3, 3, 6]))
    assert counts["n_search"].tolist() == [2, 0, 1]
    assert counts["n_hits"].tolist() == [1, 0, 1]
    with pytest.raises(BadTable, match="tool_calls"):
        find_searches(pl.Series(["{"]))
    assert len(find_searches(pl.Series([], dtype=pl.String)).hit) == 0


def nodes():
    rows = [("a", [{"name": "search"}], 1.0), ("b", [{"name": "search", "ok": False}], 0.0), ("c", None, 0.0)]
    root = {"task": "t", "id": "t.root", "parent": None}
    return [root] + [
        {"task": "t", "traj": name, "id": name, "parent": "t.root", "reward": reward, "hops": hops}
        | ({"tool_calls": calls} if calls else {})
        for hops, (name, calls, reward) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("key", "strata"),
    [
        pytest.param("n_search", [1, 1, 0], id="searches"),
        pytest.param("n_search_and_hits", [[1, 1], [1, 0], [0, 0]], id="and hits"),
        pytest.param("hops", [0, 1, 2], id="a column"),
        pytest.param(["n_search", "hops"], [[1, 0], [1, 1], [0, 2]], id="columns"),
        pytest.param("nowhere", [None, None, None], id="absent: one stratum"),
    ],
)
def test_strata_of_vectors(key, strata):
    found = answer({"alpha": 1.0, "stratum_key": key}, {"nodes": nodes()})
    assert list(found["stratum"].values()) == strata
    alone = strata.count(strata[0]) == 1
    assert (found["a_san"]["a"] == 0) == alone


#      0
#    1    2      1 searches, 2 does not
#   3 4  5 6     6 has no verdict
def test_trees_are_their_judged_paths():
    trees = labelled_trees([-1, 0, 0, 1, 1, 2, 2, -1, 7], [NA, NA, NA, 1, 0, 1, NA, NA, NA], tree=[0] * 7 + [1] * 2)
    calls = pl.Series([None, '[{"name": "search"}]'] + [None] * 7)
    kinds = np.where(trees.parent < 0, PROMPT, STEP)
    trees = replace(trees, given={"tool_calls": calls, "kind": kinds})
    found = san_credit(trees, SanParams(alpha=1)).advantage
    np.testing.assert_allclose(found, [0, 0, 0, 1, -1, 0, NA, 0, NA], atol=1e-5)
    with pytest.raises(BadConfig, match="hops"):
        san_credit(trees, SanParams(stratum_key=("hops",)))


def test_bad_parameters_are_named():
    with pytest.raises(BadConfig, match="alpha"):
        SanParams(alpha=1.5)
    with pytest.raises(BadConfig, match="no column"):
        SanParams(stratum_key="")

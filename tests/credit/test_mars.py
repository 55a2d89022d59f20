"""MARS against its direct definitions, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees
from spoken_trees import PROMPT, STEP

from pipeline.credit.mars import MarsParams, mars, mars_credit, mars_official
from pipeline.errors import BadConfig
from pipeline.golden.mars import answer

REWARD = st.sampled_from([0.0, 0.05, 1.0, -0.95])
BATCH = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.lists(st.tuples(REWARD, st.integers(0, 3)), max_size=4)),
    max_size=7,
)


def columns(batch):
    """Trajectories as game, seat and turns (reward, tokens)."""
    turns = [(game, seat, *turn) for game, seat, rows in batch for turn in rows]
    games, seats, rewards, tokens = (
        np.array([turn[place] for turn in turns], kind) for place, kind in enumerate((int, int, float, int))
    )
    offsets = np.cumsum([0, *[len(rows) for *_, rows in batch]], dtype=np.int64)
    return rewards, offsets, games * 2 + seats, seats, tokens


def paper(batch, params=None):
    rewards, offsets, pools, *_ = columns(batch)
    return mars(rewards, offsets, pools=pools, params=params or MarsParams())


def official(batch, params=None):
    rewards, offsets, pools, seats, tokens = columns(batch)
    return mars_official(
        rewards, offsets, pools=pools, seats=seats, token_counts=tokens, params=params or MarsParams("official")
    )


@given(BATCH, st.sampled_from([1.0, 0.9]))
@settings(max_examples=60, deadline=None)
def test_paper_is_its_definition(batch, gamma):
    found = paper(batch, MarsParams(gamma=gamma))
    turns = []
    for game, seat, rows in batch:
        for place in range(len(rows)):
            turns.append(((game, seat), sum(gamma**k * row[0] for k, row in enumerate(rows[place:]))))
    expected = [value - np.mean([other for pool, other in turns if pool == own]) for own, value in turns]
    np.testing.assert_allclose(found.returns, [value for _, value in turns], atol=1e-9)
    np.testing.assert_allclose(found.advantage, expected, atol=1e-9)


def direct_official(batch, *, whiten_rewards):
    """The code's pipeline, token by token; the advantages before and after whitening, by token."""
    pool = {}
    for game, seat, rows in batch:
        pool.setdefault((game, seat), []).extend(row[0] for row in rows)
    rows_T = []
    for game, seat, rows in batch:
        tokens = []
        for reward, count in rows:
            tokens += [0.0] * (count - 1) + [reward - np.mean(pool[game, seat])] * (count > 0)
        rows_T.append(tokens)
    if whiten_rewards:
        rows_T = whitened(rows_T)
    rows_T = [np.cumsum(tokens[::-1])[::-1].tolist() for tokens in rows_T]
    before = []
    for (_, seat, _), tokens in zip(batch, rows_T, strict=True):
        seen = [0.0]
        for (_, other, _), values in zip(batch, rows_T, strict=True):
            seen += [] if other != seat else values
        distinct = [
            value for place, value in enumerate(sorted(seen)) if not place or value - sorted(seen)[place - 1] > 1e-6
        ]
        before.append([value - np.mean(distinct) for value in tokens])
    return before, whitened(before)


def whitened(rows):
    flat = [value for row in rows for value in row]
    if len(flat) < 2:
        return [[0.0] * len(row) for row in rows]
    return [[(value - np.mean(flat)) / np.sqrt(np.var(flat, ddof=1) + 1e-8) for value in row] for row in rows]


@given(BATCH, st.booleans())
@settings(max_examples=60, deadline=None)
def test_official_is_its_definition(batch, whiten_rewards):
    batch = [(game, seat, [(reward, max(count, 1)) for reward, count in rows]) for game, seat, rows in batch]
    found = official(batch, MarsParams("official", whiten_rewards=whiten_rewards))
    before, after = direct_official(batch, whiten_rewards=whiten_rewards)
    for values, rows in ((found.before_whitening, before), (found.whitened, after)):
        by_turn, place = [], 0
        for (*_, turns), tokens in zip(batch, rows, strict=True):
            place = 0
            for _, count in turns:
                by_turn.append(np.mean(tokens[place : place + count]))
                place += count
        np.testing.assert_allclose(values, by_turn, atol=1e-5)


@given(BATCH, st.randoms(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_finite_and_order_does_not_matter(batch, random, whiten_rewards):
    params = MarsParams("official", whiten_rewards=whiten_rewards)
    assert np.isfinite(np.concatenate(official(batch, params))).all()
    order = list(range(len(batch)))
    random.shuffle(order)
    rows = np.split(np.arange(sum(len(turns) for *_, turns in batch)), columns(batch)[1][1:-1])
    mixed = np.concatenate([rows[place] for place in order]) if batch else np.zeros(0, int)
    shuffled = [batch[place] for place in order]
    np.testing.assert_allclose(paper(shuffled).advantage, paper(batch).advantage[mixed], atol=1e-9)
    np.testing.assert_allclose(official(shuffled, params).whitened, official(batch, params).whitened[mixed], atol=1e-4)


class TestWorksWhen:
    GAME = ((0, 0, [(0.05, 4), (1.05, 6)]), (0, 1, [(0.05, 4), (-0.95, 6)]), (0, 0, [(0.05, 4), (-1.0, 2)]))

    def shifted(self, seat, by):
        return [
            (game, who, [*rows[:-1], (rows[-1][0] + by * (who == seat), rows[-1][1])]) for game, who, rows in self.GAME
        ]

    def test_a_constant_on_last_turns_falls_out(self):
        np.testing.assert_allclose(paper(self.shifted(0, 3)).returns[:2], paper(self.GAME).returns[:2] + 3)
        np.testing.assert_allclose(paper(self.shifted(0, 3)).advantage, paper(self.GAME).advantage, atol=1e-12)

    def test_seats_do_not_meet(self):
        other = [(0, who, [(reward * (1 + 8 * who), n) for reward, n in rows]) for _, who, rows in self.GAME]
        assert paper(other).advantage[[0, 1, 4, 5]].tolist() == paper(self.GAME).advantage[[0, 1, 4, 5]].tolist()

    def test_pools_sum_to_nothing(self):
        assert paper(self.GAME).advantage[[0, 1, 4, 5]].sum() == pytest.approx(0, abs=1e-12)

    def test_winning_starts_higher(self):
        found = paper(self.GAME).advantage
        assert found[0] > found[4]

    def test_equal_returns_give_exactly_nothing(self):
        alike = [(0, seat, [(0.1, 3)]) for seat in (0, 1, 0, 1, 0, 1, 0)]
        assert not paper(alike).advantage.any()
        assert not np.concatenate(official(alike)).any()

    def test_a_pool_of_one_turn_is_nothing(self):
        assert paper([(0, 0, [(5.0, 2)])]).advantage.tolist() == [0]
        assert official([(0, 0, [(5.0, 2)])]).whitened.tolist() == [0]

    def test_returns_within_the_tolerance_are_one(self):
        rows = [(0, 0, [(1.0, 2)]), (0, 0, [(1.0 + 5e-7, 2)]), (0, 0, [(-2.0, 2)])]  # distinct: -2, 0, 1
        assert official(rows).before_whitening[0] == pytest.approx(4 / 3, abs=1e-5)
        assert official(rows).normalised_reward[0] == pytest.approx(1, abs=1e-6)


def test_pools_of_vectors_are_the_named_fields():
    root = {"task": "t", "id": "r", "parent": None}
    turns = [
        {
            "task": "t",
            "traj": name,
            "id": name,
            "parent": "r",
            "tag": tag,
            "agent": agent,
            "reward": reward,
            "n_tokens": 1,
        }
        for name, tag, agent, reward in (("a", "x", "p", 1.0), ("b", "y", "p", 0.0), ("c", "x", "q", 4.0))
    ]
    by_both = answer({}, {"nodes": [root, *turns]})["paper"]["advantage"]
    by_agent = answer({"group_by": ["agent"]}, {"nodes": [root, *turns]})["paper"]["advantage"]
    assert by_both == {"a": 0, "b": 0, "c": 0}
    assert by_agent == {"a": 0.5, "b": -0.5, "c": 0}


#      0
#      1        agent 0
#      2        agent 1
#    3   4      agent 0
def test_turns_of_a_player_that_is_no_policy_are_no_yardstick():
    trees = labelled_trees([-1, 0, 0, 0], [NA] * 4, sizes=[1, 1, 1, 1])
    given = _said(trees, np.zeros(4, dtype=int), np.array([0.0, 1.0, 3.0, 8.0]))
    trees = replace(trees, given=given | {"sampled": np.array([False, True, True, False])})
    np.testing.assert_allclose(mars_credit(trees).advantage, [0, -1, 1, 0])


def _said(trees, agents, rewards):
    kinds = np.where(trees.parent < 0, PROMPT, STEP)
    return {"agent": agents, "step_reward": rewards, "kind": kinds, "sampled": trees.parent >= 0}


@pytest.mark.parametrize("form", ["paper", "official"])
def test_trees_are_the_turns_of_seats_along_paths(form):
    trees = labelled_trees([-1, 0, 1, 2, 2], [NA] * 5, sizes=[7, 1, 2, 3, 1])
    agents, rewards = np.array([0, 0, 1, 0, 0]), np.array([9.0, 0.0, 2.0, 1.0, 0.0])
    trees = replace(trees, given=_said(trees, agents, rewards))
    games = [(0, 0, [(0.0, 1), (1.0, 3)]), (0, 1, [(2.0, 2)]), (0, 0, [(0.0, 1), (0.0, 1)]), (0, 1, [(2.0, 2)])]
    rows = paper(games).advantage if form == "paper" else official(games).whitened
    expected = [0, (rows[0] + rows[3]) / 2, (rows[2] + rows[5]) / 2, rows[1], rows[4]]
    np.testing.assert_allclose(mars_credit(trees, MarsParams(form)).advantage, expected, atol=1e-9)


def test_unknown_form_is_named():
    with pytest.raises(BadConfig, match="code"):
        MarsParams("code")

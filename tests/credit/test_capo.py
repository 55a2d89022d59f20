"""CAPO: votes, reward levels, and advantages pooled over tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees

from pipeline.credit.capo import VOTES, CapoParams, Critiques, capo, capo_credit, parse_critique, wrong_steps
from pipeline.credit.ragged import ragged
from pipeline.errors import BadConfig


def critiques_of(said) -> Critiques:
    """From the critiques of each trajectory: lists of steps, None for an invalid one."""
    listed = [(row, named) for row, some in enumerate(said) for named in some]
    flags = [(place, step) for place, (_, named) in enumerate(listed) for step in named or []]
    return Critiques(
        np.array([row for row, _ in listed], np.int64),
        np.array([named is not None for _, named in listed], bool),
        np.array([place for place, _ in flags], np.int64),
        np.array([step for _, step in flags], np.int64),
    )


def vote(how, *said, steps=3):
    return wrong_steps(critiques_of([said]), np.array([0, steps]), how).tolist()


@pytest.mark.parametrize(
    ("how", "said", "wrong"),
    [
        pytest.param("intersection", ([0, 1], [1], [1, 2]), [0, 1, 0], id="all"),
        pytest.param("majority", ([0], [0, 1], [], []), [1, 0, 0], id="half is a majority"),
        pytest.param("majority", ([0], [1], [1]), [0, 1, 0], id="a third is none"),
        pytest.param("union", ([0], [], [2]), [1, 0, 1], id="any"),
        pytest.param("average", ([0], [0, 1], [], [0]), [0.75, 0.25, 0], id="share"),
        pytest.param("greedy", (None, [1], [0]), [0, 1, 0], id="the first valid one"),
        pytest.param("intersection", ([1], None), [0, 1, 0], id="an invalid one has no vote"),
        pytest.param("majority", ([1], None, None, None), [0, 1, 0], id="nor counts for the half"),
        pytest.param("union", ([1, 1, -1, 3, 99],), [0, 1, 0], id="steps that are not there"),
        pytest.param("average", ([1, 1], []), [0, 0.5, 0], id="named twice, counted once"),
        *(pytest.param(how, (None, None), [0, 0, 0], id=f"{how} of none valid") for how in VOTES),
        *(pytest.param(how, (), [0, 0, 0], id=f"{how} of none") for how in VOTES),
        *(pytest.param(how, ([0, 2],), [1, 0, 1], id=f"{how} of one") for how in VOTES),
    ],
)
def test_votes(how, said, wrong):
    assert vote(how, *said) == wrong


SAID = st.lists(st.lists(st.integers(-1, 4), max_size=4), min_size=1, max_size=5)


@given(SAID)
@settings(max_examples=60, deadline=None)
def test_votes_are_nested_and_have_no_order(said):
    every, half, some = (np.array(vote(how, *said, steps=4)) for how in ("intersection", "majority", "union"))
    assert (every <= half).all()
    assert (half <= some).all()
    for how in ("intersection", "majority", "union", "average"):
        assert vote(how, *said, steps=4) == vote(how, *said[::-1], steps=4)


def credit(said, sizes, outcomes, groups=None, how="majority", **params):
    flat = ragged(sizes, np.int64)
    return capo(
        wrong_steps(critiques_of(said), flat.offsets, how),
        flat.offsets,
        token_counts=flat.values,
        outcomes=np.array(outcomes, np.float64),
        groups=np.array(groups if groups is not None else [0] * len(sizes)),
        params=CapoParams(vote=how, **params),
    )


def test_four_levels():
    found = credit([[[]], [[1]], [[]], [[0]]], [[1], [1, 1], [1], [1]], [1, 1, 0, 0])
    assert found.rewards.tolist() == [2, 2, 1, 0, -1]


def test_average_takes_the_share_off():
    found = credit([[[0], [0, 1], [], []]], [[1, 1]], [1], how="average")
    assert found.rewards.tolist() == [1.5, 1.75]


def test_long_steps_weigh_more():
    found = credit([[], []], [[3], [1]], [1, 0])
    assert found.mean[0] == pytest.approx(1.5)
    assert found.std[0] == pytest.approx(np.sqrt(0.75))
    np.testing.assert_allclose(found.advantages, np.array([0.5, -1.5]) / (np.sqrt(0.75) + 1e-8))


@given(SAID, SAID, st.lists(st.integers(0, 3), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_order_and_other_tasks_do_not_matter(one, other, sizes):
    plain = credit([one, other], [sizes, [2]], [1, 0])
    turned = credit([other, one], [[2], sizes], [0, 1])
    np.testing.assert_allclose(plain.advantages, np.concatenate((turned.advantages[1:], turned.advantages[:1])))
    beside = credit([one, other, one], [sizes, [2], [1, 1, 1, 1]], [1, 0, 0], [0, 0, 1])
    np.testing.assert_array_equal(beside.advantages[:5], plain.advantages)
    assert np.isfinite(beside.advantages).all()


@given(SAID)
@settings(max_examples=30, deadline=None)
def test_without_a_penalty_a_rollout_has_one_advantage(said):
    found = credit([said, []], [[1, 2, 1, 1], [2]], [1, 0], w_process=0.0)
    assert len(set(found.advantages[:4])) == 1


def test_equal_rewards_and_nothing_at_all():
    assert credit([[], []], [[2, 1], [5]], [1, 1]).advantages.tolist() == [0, 0, 0]
    assert credit([[]], [[1]], [1]).advantages.tolist() == [0]
    empty = credit([[], []], [[], [0]], [1, 0])
    assert np.isnan(empty.mean[0])
    assert len(empty.advantages) == 1


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ('{"wrong_steps": [0, 2], "reasons": {"0": "sign"}}', [0, 2]),
        ('{"wrong_steps": []}', []),
        (f'{{"wrong_steps": [1, {10**30}]}}', [1]),
        ('{"wrong_steps": [true]}', None),
        ('{"wrong_steps": "0"}', None),
        ('{"steps": [0]}', None),
        ("[0]", None),
        ("step 3 is wrong", None),
        ("[" * 100_000, None),
        (None, None),
    ],
)
def test_parse_critique(text, steps):
    assert parse_critique(text) == steps


def test_credit_of_trees():
    #     0       the question
    #   1   2     two rollouts, whose second steps are 3 and 4; 5 has no verdict
    trees = labelled_trees(
        (-1, 0, 0, 1, 2, 0), (NA, NA, NA, 1, 0, NA), sizes=(9, 1, 1, 1, 1, 1), step_hard=(NA, 1, NA, 0, 0, 0)
    )
    rewards = np.array([2, 0, 1, -1])
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    np.testing.assert_allclose(capo_credit(trees).advantage, [0, *expected, NA], atol=1e-12)


def test_credit_of_a_shared_step_is_the_mean_of_its_leaves():
    trees = labelled_trees((-1, 0, 1, 1), (NA, NA, 1, 0), step_hard=(NA, 1, 1, 1))
    np.testing.assert_allclose(capo_credit(trees).advantage, [0, 0, 1, -1], atol=1e-6)


def test_an_unknown_vote_is_named():
    with pytest.raises(BadConfig, match="unanimous"):
        CapoParams(vote="unanimous")

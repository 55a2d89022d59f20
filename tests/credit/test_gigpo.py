"""GiGPO against its direct definition, and what must hold of it."""

from __future__ import annotations

import json
from difflib import SequenceMatcher

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import NA, labelled_trees
from spoken_trees import spoken_trees

from pipeline.credit import METHODS, anchors
from pipeline.credit.anchors import alike_state, same_state
from pipeline.credit.gigpo import BASELINES, MODES, GigpoParams, gigpo, gigpo_credit
from pipeline.credit.trajectories import depth_first_leaves
from pipeline.errors import BadConfig
from pipeline.golden.gigpo import answer
from schemas.words import FINISHES

STEP = st.tuples(st.sampled_from([0.0, 0.1, 1.0, 10.0]), st.integers(-1, 3), st.booleans())
BATCH = st.lists(st.tuples(st.integers(0, 2), st.lists(STEP, max_size=5)), max_size=7)
PARAMS = st.builds(
    GigpoParams,
    mode=st.sampled_from(MODES),
    baseline_over=st.sampled_from(BASELINES),
    step_advantage_w=st.sampled_from([1.0, 0.5]),
    ddof=st.sampled_from([0, 1]),
)
FIELDS = ("discounted_return", "step_reward", "episode_advantage", "step_advantage", "advantage")


def run(batch, params=None, **changes):
    """GiGPO of trajectories as pairs of a task and steps (reward, state, readable)."""
    steps = [step for _, trajectory in batch for step in trajectory]
    columns = {
        "rewards": np.array([step[0] for step in steps], float),
        "offsets": np.cumsum([0, *[len(trajectory) for _, trajectory in batch]], dtype=np.int64),
        "tasks": np.array([task for task, _ in batch], np.int64),
        "states": np.array([step[1] for step in steps], np.int64),
        "valid": np.array([step[2] for step in steps], bool),
        "params": params or GigpoParams(),
    } | changes
    return gigpo(columns.pop("rewards"), columns.pop("offsets"), **columns)


def direct(batch, params):
    """The definition, row by row: the fields of FIELDS."""
    rows = []
    for number, (task, steps) in enumerate(batch):
        for turn, (_, state, valid) in enumerate(steps):
            later = [reward for reward, _, _ in steps[turn:]]
            returned = sum(params.gamma**k * reward for k, reward in enumerate(later))
            penalty = 0 if valid else params.invalid_penalty
            episode = sum(reward for reward, _, _ in steps) - penalty
            key = (task, state) if state >= 0 else (task, "own", number, turn)
            rows.append((task, turn, key, returned, returned - penalty, episode))
    found = []
    for task, _, key, returned, stepped, episode in rows:
        group = [row for row in rows if row[0] == task and (params.baseline_over == "steps" or row[1] == 0)]
        cluster = [row[4] for row in rows if row[2] == key]
        of_episode = scaled(episode, [row[5] for row in group], params, lone=episode)
        of_step = scaled(stepped, cluster, params, lone=0.0)
        found.append((returned, stepped, of_episode, of_step, of_episode + params.step_advantage_w * of_step))
    return np.array(found).reshape(-1, 5)


def scaled(value, members, params, *, lone):
    by_std = params.mode == "mean_std_norm"
    if len(members) == 1:  # mean 0 and deviation 1, or nothing; another row of the same trajectory may differ
        return lone / (1 + params.epsilon) if by_std else lone
    less = value - np.mean(members)
    less = 0.0 if abs(less) < 1e-9 else less
    return less / (np.std(members, ddof=params.ddof) + params.epsilon) if by_std else less


@given(BATCH, PARAMS)
@settings(max_examples=60, deadline=None)
def test_is_its_definition(batch, params):
    found, expected = run(batch, params), direct(batch, params)
    for place, name in enumerate(FIELDS):
        np.testing.assert_allclose(getattr(found, name), expected[:, place], rtol=1e-6, atol=1e-7, err_msg=name)


@given(BATCH, PARAMS, st.randoms())
@settings(max_examples=25, deadline=None)
def test_neither_order_nor_names_nor_other_tasks_matter(batch, params, random):
    steps = [range(start, start + len(rows)) for start, (_, rows) in zip(starts(batch), batch, strict=True)]
    whole = run(batch, params).advantage
    order = list(range(len(batch)))
    random.shuffle(order)
    mixed = [place for trajectory in order for place in steps[trajectory]]
    np.testing.assert_allclose(run([batch[place] for place in order], params).advantage, whole[mixed], atol=1e-6)
    renamed = [(task, [(r, -1 if s < 0 else 90 - s, v) for r, s, v in rows]) for task, rows in batch]
    assert run(renamed, params).advantage.tolist() == whole.tolist()
    kept = [place for place, (task, _) in enumerate(batch) if task == 1]
    alone = run([batch[place] for place in kept], params).advantage
    assert alone.tolist() == whole[[step for place in kept for step in steps[place]]].tolist()


def starts(batch):
    return np.cumsum([0, *[len(rows) for _, rows in batch]])[:-1]


@given(BATCH, PARAMS)
@settings(max_examples=25, deadline=None)
def test_step_advantages_of_a_cluster_sum_to_nothing(batch, params):
    found = run(batch, params)
    assert np.isfinite(found.advantage).all()
    np.testing.assert_allclose(np.bincount(found.group, weights=found.step_advantage), 0, atol=1e-8)
    for group in set(found.group.tolist()):
        rows = found.group == group
        assert found.group_size[rows].tolist() == [rows.sum()] * rows.sum()
    _, firsts = np.unique(found.group, return_index=True)
    assert (np.diff(firsts) > 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_all_states_distinct_leaves_the_episode(mode, baseline):
    batch = [(0, [(0.0, 0, True), (1.0, 1, True)]), (0, [(0.0, 2, True)]), (1, [(3.0, 0, True), (0.0, 1, True)])]
    found = run(batch, GigpoParams(mode=mode, baseline_over=baseline))
    assert found.advantage.tolist() == found.episode_advantage.tolist()
    assert found.degenerate.tolist() == [False, False, False, *[baseline == "trajectories"] * 2]
    lone = 3.0 / (1 + 1e-6) if mode == "mean_std_norm" else 3.0
    assert found.episode_advantage[3] == pytest.approx(lone if baseline == "trajectories" else 0, abs=1e-12)


def test_idle_steps_at_the_end_move_only_the_baseline_over_steps():
    batch = [(0, [(1.0, 0, True)]), (0, [(0.0, 0, True)])]
    longer = [batch[0], (0, [(0.0, 0, True), (0.0, 7, True), (0.0, 8, True)])]
    for baseline in BASELINES:
        params = GigpoParams(baseline_over=baseline, mode="mean_norm")
        moved = run(batch, params).advantage[0] != run(longer, params).advantage[0]
        assert moved == (baseline == "steps")


def test_penalty_reaches_neither_other_rows_nor_earlier_returns():
    batch = [(0, [(0.0, 0, True), (1.0, 1, False)]), (0, [(0.0, 2, True)])]
    found = run(batch, GigpoParams(mode="mean_norm"))
    np.testing.assert_allclose(found.step_reward, [0.95, 0.9, 0])
    np.testing.assert_allclose(found.episode_advantage, np.array([1, 0.9, 0]) - 1.9 / 3)


def test_equal_rewards_give_exactly_nothing():
    batch = [(0, [(0.1, state, True) for state in (0, 1, 0)]) for _ in range(7)]
    assert not run(batch, GigpoParams(gamma=0)).step_advantage.any()
    assert not run(batch).episode_advantage.any()
    large = [(0, [(1e9 / 7, 0, True)])] * 7
    assert not run(large).advantage.any()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.text("abcé ", max_size=6))), max_size=14),
    st.sampled_from([0.4, 0.75, 0.95]),
)
@settings(max_examples=60, deadline=None)
def test_alike_states_are_those_difflib_finds(rows, threshold):
    clusters, expected = [], []
    for task, text in rows:
        near = (
            number
            for number, (other, first) in enumerate(clusters)
            if other == task and None not in (text, first) and SequenceMatcher(None, text, first).ratio() >= threshold
        )
        number = next(near, len(clusters))
        if number == len(clusters):
            clusters.append((task, text))
        expected.append(number)
    tasks = np.array([task for task, _ in rows], np.int64)
    assert alike_state([text for _, text in rows], tasks, threshold=threshold).tolist() == expected


def test_alike_states_are_not_symmetric_and_rarely_compared(monkeypatch):
    tasks = np.zeros(2, np.int64)
    assert alike_state(["tide", "diet"], tasks, threshold=0.4).tolist() == [0, 0]
    assert alike_state(["diet", "tide"], tasks, threshold=0.4).tolist() == [0, 1]
    compared = []

    class Counting(SequenceMatcher):
        def ratio(self):
            compared.append((self.a, self.b))
            return super().ratio()

    monkeypatch.setattr(anchors, "SequenceMatcher", Counting)
    texts = [chr(97 + place % 20) * (5 + place) for place in range(60)] * 3 + ["x" * 500 + "y", "x" * 501]
    found = alike_state(texts, np.zeros(len(texts), np.int64), threshold=0.95)
    assert found[-1] == found[-2]
    assert len(compared) == 1


def test_same_states_are_numbered_by_their_first():
    states = np.array([5, -1, 5, 2, -1, 5])
    assert same_state(states, np.array([1, 1, 0, 1, 1, 1])).tolist() == [0, 1, 2, 3, 4, 0]
    assert len(same_state(states[:0], states[:0])) == 0


def test_vector_fields_may_be_absent_and_states_nested():
    nodes = [
        {"task": "t", "id": "t.root", "parent": None},
        {"task": "t", "traj": "a", "id": "a0", "parent": "t.root", "turn": 0, "state_hash": {"x": [1], "y": 2}},
        {"task": "t", "traj": "a", "id": "a1", "parent": "a0", "turn": 1, "reward": 1.0},
        {"task": "t", "traj": "b", "id": "b0", "parent": "t.root", "turn": 0, "state_hash": {"y": 2, "x": [1.0]}},
        {"task": "t", "traj": "b", "id": "b1", "parent": "b0", "turn": 1, "state_hash": None, "valid": False},
    ]
    found = answer({"mode": "mean_norm"}, {"nodes": json.loads(json.dumps(nodes))})
    assert found["step_groups"] == [["a0", "b0"], ["a1"], ["b1"]]
    assert found["step_reward_after_penalty"]["b1"] == pytest.approx(-0.1)
    alike = answer({"enable_similarity": True, "similarity_thresh": 0.5}, {"nodes": nodes})
    assert alike["step_groups"] == [["a0", "b0"], ["a1"], ["b1"]]


def episodes(parent, step_reward, *, state=None, finish=None, calls=None, **given):
    """Trees as the store has those of an environment: by default all actions could be read."""
    count = len(parent)
    trees = spoken_trees(parent, [NA] * count, step_reward=step_reward, tool_calls=calls or {}, **given)
    trees.given["finish"] = np.array([(finish or {}).get(row, -1) for row in range(count)])
    trees.given["state"] = np.array(state or [-1] * count)
    return trees


#        0
#     1     2
#    3 4    5
def test_trees_are_their_paths():
    trees = episodes([-1, 0, 0, 1, 1, 2], [0.0, 1.0, 0.0, 2.0, 0.0, 0.0], state=[-1, 4, 4, 5, 5, 5])
    batch = [(0, [(1.0, 4, True), (2.0, 5, True)]), (0, [(1.0, 4, True), (0.0, 5, True)])]
    batch.append((0, [(0.0, 4, True), (0.0, 5, True)]))
    rows = run(batch).advantage
    expected = [0, (rows[0] + rows[2]) / 2, rows[4], rows[1], rows[3], rows[5]]
    np.testing.assert_allclose(gigpo_credit(trees).advantage, expected)


def test_what_was_shown_is_no_step():
    """An observation between two turns discounts nothing and earns nothing."""
    plain = episodes([-1, 0, 1, 0, 3], [0.0, 1.0, 2.0, 0.0, 1.0], state=[-1, 4, 5, 4, 5])
    shown = episodes(
        [-1, 0, 1, 2, 0, 4, 5], [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 1.0], rendered=(2, 5), state=[-1, 4, -1, 5, 4, -1, 5]
    )
    params = GigpoParams(gamma=0.5)
    expected = np.insert(gigpo_credit(plain, params).advantage, (2, 4), 0.0)
    np.testing.assert_allclose(gigpo_credit(shown, params).advantage, expected)


BROKEN, MIXED = '[{"name": null, "error": "no JSON"}]', '[{"name": "search"}, {"name": null, "error": "no JSON"}]'


@pytest.mark.parametrize(
    ("calls", "finish", "valid"),
    [
        pytest.param({3: BROKEN}, {}, False, id="no call could be read"),
        pytest.param({3: MIXED}, {}, True, id="one of two could"),
        pytest.param({3: '[{"name": "search", "ok": false}]'}, {}, True, id="a call that failed was read"),
        pytest.param({3: '"error"'}, {}, True, id="no list"),
        pytest.param({}, {3: FINISHES.index("invalid")}, False, id="ended as invalid"),
        pytest.param({}, {3: FINISHES.index("loop")}, True, id="ended otherwise"),
    ],
)
def test_a_step_that_could_not_be_read_is_fined(calls, finish, valid):
    trees = episodes([-1, 0, 0, 1], [0.0, 0.0, 1.0, 1.0], state=[-1, 4, 4, 5], calls=calls, finish=finish)
    rows = run([(0, [(0.0, 4, True), (1.0, 5, valid)]), (0, [(1.0, 4, True)])]).advantage
    np.testing.assert_allclose(gigpo_credit(trees).advantage, [0, rows[0], rows[2], rows[1]])


TEXTS = st.sampled_from(["a door and a key", "a door and a kex", "a door and a lamp", "a lake", ""])


@st.composite
def shown_episodes(draw):
    """Episodes by task as (text shown or None where the step hangs on the step before, paid)."""
    step = st.tuples(st.one_of(st.none(), TEXTS), st.sampled_from([0.0, 1.0]))
    return draw(st.lists(st.lists(st.lists(step, min_size=1, max_size=4), max_size=4), min_size=1, max_size=3))


@given(shown_episodes(), st.sampled_from([0.6, 0.95]))
@settings(max_examples=60, deadline=None)
def test_alike_states_of_stored_trees_are_those_of_a_loop(tasks, threshold):
    parent, tree, rendered, text, paid, rows = [], [], [], {}, [], []
    for number, trajectories in enumerate(tasks):
        root = len(parent)
        parent, tree, paid, text[root] = [*parent, -1], [*tree, number], [*paid, 0.0], "the question"
        firsts: list[str] = []
        for steps in trajectories:
            above, trajectory = root, []
            for turn, (shown, reward) in enumerate(steps):
                if shown is not None:
                    rendered.append(len(parent))
                    text[len(parent)] = shown
                    parent, tree, paid = [*parent, above], [*tree, number], [*paid, 0.0]
                    above = len(parent) - 1
                state = "the question" if shown is None and turn == 0 else shown or None
                parent, tree, paid = [*parent, above], [*tree, number], [*paid, reward]
                above = len(parent) - 1
                near = (
                    place
                    for place, first in enumerate(firsts)
                    if state is not None and SequenceMatcher(None, state, first).ratio() >= threshold
                )
                cluster = -1 if state is None else next(near, len(firsts))
                firsts += [state] if cluster == len(firsts) else []
                trajectory.append((above, reward, cluster))
            rows.append((number, trajectory))
    trees = episodes(parent, paid, tree=tree, rendered=rendered, text=text)
    params = GigpoParams(enable_similarity=True, similarity_thresh=threshold)
    expected = np.zeros(len(parent))
    batch = [(task, [(reward, cluster, True) for _, reward, cluster in steps]) for task, steps in rows]
    of_steps = iter(direct(batch, params)[:, 4])
    for _, steps in rows:
        for row, _, _ in steps:
            expected[row] = next(of_steps)
    np.testing.assert_allclose(gigpo_credit(trees, params).advantage, expected, rtol=1e-6, atol=1e-7)


def test_of_a_state_the_text_is_needed_or_the_code():
    method = METHODS["gigpo"]
    assert "state" in method.needs
    assert "text" not in method.needs
    alike = method.under(GigpoParams(enable_similarity=True))
    assert "text" in alike.needs
    assert "state" not in alike.needs
    assert METHODS["mars"].under(METHODS["mars"].params()) is METHODS["mars"]


def test_leaves_are_walked_depth_first():
    #   0 -> 1, 2, 3;  2 -> 4, 6;  1 -> 5, 7;  root 8 alone
    trees = labelled_trees([-1, 0, 0, 0, 2, 1, 2, 1, -1], [NA] * 9, tree=[0] * 8 + [1])
    assert depth_first_leaves(trees).tolist() == [5, 7, 4, 6, 3, 8]


def test_unknown_parameters_are_named():
    with pytest.raises(BadConfig, match="mean_typo"):
        GigpoParams(mode="mean_typo")
    with pytest.raises(BadConfig, match="rows"):
        GigpoParams(baseline_over="rows")
    with pytest.raises(BadConfig, match="between 0 and 1"):
        GigpoParams(enable_similarity=True, similarity_thresh=1.0)

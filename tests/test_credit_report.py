"""The figures of the credit report against numbers worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline.credit import METHODS
from pipeline.credit.inputs import INPUTS
from pipeline.credit_report.anew import credit_anew, label_anew
from pipeline.credit_report.calibration import calibration_error, hide_continuations, states_chances
from pipeline.credit_report.cost import PASSES, decoded_by, extra_tokens, passes_a_token, per_thousand
from pipeline.credit_report.lines import Line, table
from pipeline.credit_report.scores import (
    Figure,
    Scores,
    degenerate_share,
    first_error_accuracy,
    oracle_auc,
    rank_correlations,
    zero_share,
)
from pipeline.credit_report.spread import Resampled, resample_attempts, resample_spread
from pipeline.stages import side_by_side
from pipeline.statistics import auc, auc_interval, expected_calibration_error, pooled_share_interval
from trainers import scores as trained

NA = float("nan")
COLUMNS = {"tree": pl.String, "node": pl.Int32, "parent": pl.Int32, "depth": pl.Int32, "origin": pl.String}


def scores_of(*methods, task=None, right=None, attempts=()) -> Scores:
    """Steps scored by methods, a list each; attempts are lists of rows."""
    count = len(methods[0])
    return Scores(
        score=np.array(methods, np.float32).T,
        task=np.array(task or [0] * count),
        right=np.array(right or [NA] * count, np.float32),
        attempt=np.repeat(np.arange(len(attempts)), [len(rows) for rows in attempts]).astype(np.int64),
        step=np.array([row for rows in attempts for row in rows], np.int64),
    )


def test_methods_alike_opposed_and_constant():
    score = [0.3, -1, NA, 0.3, 7, 0]
    scores = scores_of(score, score, [-one for one in score], [1, 1, 1, 1, 1, 1], [NA, NA, 5, NA, NA, NA])
    found = rank_correlations(scores)
    assert found[0, 1] == (pytest.approx(1), 5, None, None)
    assert found[0, 2].value == pytest.approx(-1)
    assert found[0, 3].value is None
    assert found[0, 4] == (None, 0, None, None)
    assert found[1, 0] == found[0, 1]
    assert len(found) == 20


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_correlations_are_spearmans_over_the_steps_both_score(seed):
    draw = np.random.default_rng(seed)
    scores = draw.integers(-3, 4, size=(40, 4)).astype(float)
    scores[:, 1] += scores[:, 0]
    scores[draw.random(40) < 0.3, 2] = NA
    scores[draw.random(40) < 0.3, 3] = NA
    for (one, other), figure in rank_correlations(scores_of(*scores.T)).items():
        both = ~np.isnan(scores[:, one]) & ~np.isnan(scores[:, other])
        assert figure.value == pytest.approx(spearmanr(scores[both, one], scores[both, other]).statistic, abs=1e-9)
        assert figure.count == both.sum()


ATTEMPT = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("score", "right", "found"),
    [
        pytest.param([0, 0, -1, 0], [1, 1, 0, NA], 1, id="the lowest is the wrong one"),
        pytest.param([0, -2, -1, 0], [1, 1, 0, NA], 0, id="a step before it is lower"),
        pytest.param([0, 0, -1, -2], [1, 1, 0, NA], 0, id="a step after it is lower"),
        pytest.param([0, 0, -1, -1], [1, 1, 0, NA], 1, id="the first of a tie"),
        pytest.param([0, -1, -1, 0], [1, 1, 0, NA], 0, id="not the first of a tie"),
        pytest.param([-1, -1, -1, -1], [0, NA, NA, NA], 0, id="all alike is no pick"),
        pytest.param([0, 0, -1, NA], [1, 1, 0, NA], 1, id="unscored after it"),
        pytest.param([0, NA, -1, 0], [1, 1, 0, NA], None, id="unscored before it: not counted"),
        pytest.param([-1, NA, NA, NA], [0, NA, NA, NA], None, id="one score: nothing to choose from"),
        pytest.param([0, 0, -1, 0], [1, 1, 1, 1], None, id="no wrong step: not counted"),
    ],
)
def test_first_error_accuracy_of_an_attempt(score, right, found):
    figure = first_error_accuracy(scores_of(score, right=right, attempts=[ATTEMPT]), 0)
    assert (figure.value, figure.count) == (found, 0 if found is None else 1)


def test_a_labeller_that_calls_every_step_lost_picks_the_first():
    for soft, hit in ((0, 1), (1, 0)):
        scores = scores_of([soft] * 4, right=[0, NA, NA, NA], attempts=[ATTEMPT])
        assert first_error_accuracy(scores, 0, zero_is_wrong=True).value == hit


def test_first_error_accuracy_weighs_attempts_alike():
    score, right = [0, -1, 0, -1, -1, 0, -5, -5], [1, 0, 1, 0, 1, 0, NA, NA]
    scores = scores_of(score, task=[0, 0, 0, 0, 1, 1, 2, 2], right=right, attempts=[[0, 1], [2, 3], [4, 5], [6, 7]])
    figure = first_error_accuracy(scores, 0)
    assert figure == (pytest.approx(2 / 3), 3, 0, 1)


def test_the_oracle_itself_is_never_wrong():
    right = [1, 1, 0, NA, 0, NA, 1, 1]
    scores = scores_of(right, right=right, task=[0] * 4 + [1] * 4, attempts=[ATTEMPT, [4, 5], [6, 7]])
    assert oracle_auc(scores, 0)[:2] == (1, 6)
    assert first_error_accuracy(scores, 0)[:2] == (1, 1)


def test_without_an_oracle_there_is_nothing_to_agree_with():
    scores = scores_of([0, -1, 1, 0], attempts=[ATTEMPT])
    assert oracle_auc(scores, 0) is None
    assert first_error_accuracy(scores, 0) is None


def test_zero_and_degenerate():
    #                 task 0: alike  task 1: not    task 2: one step   task 3: unknown
    scores = scores_of([2, 2, 2, 0, 1e-12, 1, 0, NA, NA], task=[0, 0, 0, 1, 1, 1, 2, 3, 3])
    assert zero_share(scores, 0)[:2] == (3 / 7, 7)
    assert degenerate_share(scores, 0)[:2] == (1 / 2, 2)
    nothing = scores_of([NA, NA])
    assert zero_share(nothing, 0) == degenerate_share(nothing, 0) == (None, 0, None, None)


def test_interval_of_an_auc_is_that_of_drawn_tasks():
    draw = np.random.default_rng(5)
    task = np.repeat(np.arange(12), 5)
    score, positive = draw.integers(0, 6, 60).astype(float), draw.random(60) < 0.6
    found, again, values = auc_interval(score, positive, task + 100), np.random.default_rng(0), []
    for _ in range(200):
        rows = np.concatenate([np.flatnonzero(task == one) for one in again.integers(12, size=12)])
        values.append(auc(score[rows], positive[rows]))
    assert found == (auc(score, positive), *np.quantile(values, (0.025, 0.975)))
    assert auc_interval([1, 2], [True, True], [0, 1]) == (None, None, None)


def test_pooled_share_interval():
    mean, low, high = pooled_share_interval([3, 0, 1], [4, 0, 1])
    assert (mean, low, high) == (4 / 5, 3 / 4, 1)
    assert pooled_share_interval([], []) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "outcome", "bins", "found"),
    [
        pytest.param([0.2] * 5, [1, 0, 0, 0, 0], 10, 0, id="said a fifth, and so it was"),
        pytest.param([1, 1, 0, 0], [0, 0, 1, 1], 10, 1, id="always the contrary"),
        pytest.param([0.5, 0.5, 0.9, 0.9], [1, 1, 1, 0], 2, (0.5 + 0.4) / 2, id="two bins"),
        pytest.param([0.1, 0.3, 0.5, 0.7], [0, 0, 1, 1], 2, (0.2 + 0.4) / 2, id="values of a bin are pooled"),
        pytest.param([0.5, 0.5, 0.5, 1.0], [0, 1, 1, 1], 4, (3 / 6) / 4, id="equals share a bin"),
    ],
)
def test_expected_calibration_error(value, outcome, bins, found):
    assert expected_calibration_error(value, outcome, bins=bins) == pytest.approx(found)


def test_calibration_of_what_is_known():
    assert calibration_error(np.array([1.0, NA, 0.5]), np.array([1.0, 0.0, NA])) == (0, 1, None, None)
    assert calibration_error(np.array([NA]), np.array([1.0])) is None
    assert states_chances(0, 1)
    assert not any(states_chances(*ends) for ends in ((-0.05, 1), (0, 27), (0.5, 0.5), (None, None)))


#            0            the question
#       1        7        two attempts
#     2 3 4 6    8 9      their second steps: 3, 4, 6 and 9 are continuations; 4 goes on in 5
def grown(reward: dict[int, float]) -> pl.DataFrame:
    parents = [None, 0, 1, 1, 1, 4, 1, 0, 7, 7]
    origins = ["prompt", "sample", "sample", *["branch"] * 4, "sample", "sample", "branch"]
    depths = [0, 1, 2, 2, 2, 3, 2, 1, 2, 2]
    rows = list(zip(["t"] * 10, range(10), parents, depths, origins, strict=True))
    return pl.DataFrame(rows, schema=COLUMNS, orient="row").with_columns(
        task=pl.lit("t"),
        kind=pl.when(pl.col("node") == 0).then(pl.lit("prompt")).otherwise(pl.lit("step")),
        token_ids=pl.lit([7], pl.List(pl.Int32)),
        token_count=pl.lit(1, pl.Int32),
        reward=pl.Series([reward.get(node) for node in range(10)], dtype=pl.Float32),
    )


@pytest.mark.parametrize(
    ("reward", "gone", "outcome"),
    [
        pytest.param({2: 0, 3: 1, 5: 0, 6: 1, 8: 0, 9: 1}, [6], {1: 1}, id="the last of three; the only one stays"),
        pytest.param({2: 0, 3: 1, 5: 0, 8: 0, 9: 1}, [4, 5], {1: 0}, id="the last that is judged, with all its steps"),
        pytest.param({2: 0, 5: 0, 8: 0}, [], {}, id="one judged: nothing to compare with"),
    ],
)
def test_hidden_continuations(reward, gone, outcome):
    hidden = hide_continuations(grown(reward))
    assert np.flatnonzero(~hidden.kept).tolist() == gone
    assert {int(row): hidden.outcome[row] for row in np.flatnonzero(~np.isnan(hidden.outcome))} == outcome


def test_a_hidden_verdict_enters_no_value():
    values = []
    for verdict in (0.0, 1.0):
        nodes = grown({2: 0, 3: 1, 5: 0, 6: verdict, 8: 0, 9: 1})
        rest = label_anew(nodes.filter(pl.Series(hide_continuations(nodes).kept)), "monte_carlo")
        said = credit_anew(rest, METHODS["spo_tree"], METHODS["spo_tree"].params(), labeller="")
        values.append((said.value[1], rest["soft:monte_carlo"][1]))
    assert values[0] == values[1] == (pytest.approx(1 / 3), 1 / 2)


def test_a_method_without_what_it_needs_says_nothing():
    nodes = grown({2: 0, 3: 1, 8: 1})
    assert credit_anew(nodes, METHODS["capo"], METHODS["capo"].params(), labeller="monte_carlo") is None
    assert credit_anew(nodes, METHODS["lare"], METHODS["lare"].params(), labeller="") is None


def test_scores_go_with_the_nodes_that_are_drawn():
    rewards = np.arange(10) / 10
    nodes = grown({2: 0, 8: 1}).with_columns(pl.Series("score:latent_reward", rewards))
    resampled, method = resample_attempts(nodes, draws=30, seed=0), METHODS["lare"]
    found = credit_anew(resampled.nodes, method, method.params(), labeller="").advantage
    unseen = (resampled.nodes["origin"] == "branch").to_numpy()
    np.testing.assert_array_equal(found, np.where(unseen, NA, rewards[resampled.row]))


def test_attempts_are_drawn_whole():
    nodes = grown({2: 0, 3: 1, 5: 0, 6: 1, 8: 0, 9: 1})
    resampled = resample_attempts(nodes, draws=40, seed=3)
    attempt = np.array([-1, 1, 1, 1, 1, 1, 1, 7, 7, 7])
    seen = set()
    for draw in range(40):
        here = resampled.draw == draw
        copies, rows = resampled.nodes.filter(pl.Series(here)), resampled.row[here]
        assert copies["tree"].n_unique() == 1
        assert copies["node"].to_list() == list(range(len(copies)))
        for row, above in zip(rows[1:], copies["parent"][1:], strict=True):
            assert nodes["parent"][int(row)] == rows[above]
        starts = [int(attempt[row]) for row in rows if row in (1, 7)]
        assert len(starts) == 2
        assert len(rows) == 1 + sum({1: 6, 7: 3}[start] for start in starts)
        seen.add(tuple(starts))
    assert seen == {(1, 1), (1, 7), (7, 1), (7, 7)}
    assert resample_attempts(nodes.filter(pl.col("node") < 7), draws=2, seed=0).nodes.is_empty()


def test_a_method_sees_drawn_attempts_as_a_group():
    nodes = grown({2: 0, 8: 1})
    resampled = resample_attempts(nodes, draws=30, seed=0)
    method = METHODS["dr_grpo"]
    advantage = credit_anew(resampled.nodes, method, method.params(), labeller="").advantage
    for draw in range(30):
        here = resampled.draw == draw
        two = {1, 7} <= set(resampled.row[here].tolist())
        assert set(advantage[here & np.isin(resampled.row, (1, 2))].tolist()) <= {-0.5 if two else 0.0}


def test_spread_by_hand():
    """Step 1 is 1, then 3 and 5 in one draw: deviation of (1, 4). Step 2 is known once. Step 3 never moves."""
    row, draw = np.array([1, 2, 3, 1, 1, 3]), np.array([0, 0, 0, 1, 1, 1])
    resampled = Resampled(pl.DataFrame(), row, draw)
    advantage, stored = np.array([1, 9, 2, 3, 5, 2.0]), np.array([NA, 3, 0, 4])
    found = resample_spread(advantage, resampled, stored)
    assert found[:2] == (pytest.approx((3 / np.sqrt(2)) / 2 / np.sqrt(25 / 3)), 2)
    assert resample_spread(advantage, resampled, np.zeros(4)).value is None
    assert resample_spread(np.full(6, NA), resampled, stored) == (None, 0, None, None)


@pytest.mark.parametrize(
    ("name", "scored", "tokens"),
    [
        pytest.param("grpo", {}, 0, id="attempts alone"),
        pytest.param("spo_tree", {}, 70, id="branches"),
        pytest.param("r3l", {}, 5, id="retries"),
        pytest.param("capo", {}, 40, id="labels"),
        pytest.param("archer", {"critic_q": "", "critic_v": ""}, 70, id="forward passes decode nothing"),
        pytest.param("sotopia_rl", {"score_goal": "sotopia_rl", "score_knowledge": "sotopia_rl"}, 8, id="a judge once"),
        pytest.param("brpo", {"budget": "summaries"}, 73, id="what summaries decoded, once"),
        pytest.param("epo", {"key_turn": None}, None, id="a file: not known"),
    ],
)
def test_tokens_that_a_method_needs(name, scored, tokens):
    decoded = {"rollouts": 1000, "trees": 70, "retries": 5, "interventions": 9, "sotopia_rl": 8, "summaries": 3}
    assert extra_tokens(METHODS[name], decoded, labels=40, scored=scored) == tokens


@pytest.mark.parametrize(
    ("scored", "labeller", "passes"),
    [
        pytest.param({}, "", 0, id="none"),
        pytest.param({"tuned_logprobs": "", "reference_logprobs": ""}, "", 2, id="two models"),
        pytest.param({"critic_q": "", "critic_v": ""}, "", 1, id="one pass gives both"),
        pytest.param({"planning": ""}, "", 0, id="marked without a model"),
        pytest.param({"subgoals": "calm"}, "", 0, id="a judge decodes"),
        pytest.param({"budget": ""}, "", 0, id="read off rollouts"),
        pytest.param({"critic_q": "", "critic_v": None}, "", None, id="a file: not known"),
        pytest.param({}, "monte_carlo", 0, id="labels that are counted"),
        pytest.param({}, "prm", None, id="labels that a model reads"),
    ],
)
def test_passes_a_token(scored, labeller, passes):
    assert passes_a_token(scored, labeller) == passes


def test_every_score_that_models_give_has_its_passes():
    assert set(PASSES) == {name for names in trained.PASSES.values() for name in names} & set(INPUTS)


@pytest.mark.parametrize(
    ("name", "made_from", "stage"),
    [
        pytest.param("critic_v", {"critic": "a"}, "", id="a critic"),
        pytest.param("waad", {"policy": "a", "heads": "b"}, "", id="a policy"),
        pytest.param("waad", {"file": "a"}, None, id="a file"),
        pytest.param("score_goal", {"judge": "sotopia_rl", "policy": "a"}, "sotopia_rl", id="a judge"),
        pytest.param("latent_reward", {"judge": "lare", "policy": "a"}, "latent_reward", id="under its score's name"),
        pytest.param("subgoals", {"judge": "calm", "policy": "a"}, None, id="whose requests are gone"),
        pytest.param("budget", {"summaries": "a"}, "summaries", id="read off summaries"),
        pytest.param("budget", {"rollouts": "a"}, "", id="read off rollouts"),
    ],
)
def test_who_decoded_for_scores(name, made_from, stage):
    assert decoded_by(name, made_from, {"rollouts", "sotopia_rl", "latent_reward"}) == stage


def test_per_thousand():
    assert per_thousand(70, 200) == (350, 200, None, None)
    assert per_thousand(70, 0).value is None
    assert per_thousand(None, 200) == (None, 200, None, None)


def test_the_oracle_says_nothing_after_the_first_wrong_step():
    texts = ["1 + 2 + 3 =", "1 + 2 = 3", "3 + 3 = 7", "#### 7", "#### 8", "1 + 2 = 4", "4 + 3 = 7"]
    rows = {
        "task": ["t"] * 7,
        "tree": ["t"] * 7,
        "node": list(range(7)),
        "parent": [None, 0, 1, 2, 2, 0, 5],
        "text": texts,
        "finish": [None, None, None, "stop", "stop", None, "length"],
    }
    found = side_by_side.oracle_steps(pl.DataFrame(rows), {"t": texts[0]})
    assert found.rows() == [
        *(("t", 3, node, right) for node, right in ((1, True), (2, False), (3, None))),
        *(("t", 4, node, right) for node, right in ((1, True), (2, False), (4, None))),
        *(("t", 6, node, right) for node, right in ((5, False), (6, None))),
    ]
    unknown = side_by_side.oracle_steps(pl.DataFrame(rows), {"t": "How many?"})
    assert unknown["right"].null_count() == 8


def slice_of(tasks: dict[str, int], right: list[bool | None]) -> side_by_side.Slice:
    """Tasks of one attempt each of so many steps; the scores are 0, 1, 2, ..."""
    rows = [(task, task, node) for task, steps in tasks.items() for node in range(1, steps + 1)]
    scores = pl.DataFrame(rows, {"task": pl.String, "tree": pl.String, "node": pl.Int32}, orient="row")
    attempts = scores.select("tree", attempt=pl.lit(9, pl.Int32), node="node", right=pl.Series(right))
    scores = scores.with_columns(pl.arange(len(rows)).alias("m"))
    return side_by_side.Slice(scores.select("task", "tree", "node"), scores, attempts, *(Counter() for _ in range(3)))


def test_slices_are_numbered_on():
    first = side_by_side.numbered(slice_of({"a": 2, "b": 1}, [True, False, True]), ["m"], before=0)
    second = side_by_side.numbered(slice_of({"c": 1, "d": 2}, [False, True, None]), ["m"], before=3)
    scores = side_by_side.joined([first, second])
    assert scores.score[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert scores.task.tolist() == scores.attempt.tolist() == [0, 0, 1, 2, 3, 3]
    assert scores.step.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(scores.right, [1, 0, 1, 0, 1, NA])


def test_tasks_are_counted_over_slices():
    found = [
        side_by_side.some_tasks(slice_of(tasks, right), ["m"], every=2, before=before)
        for tasks, right, before in (({"a": 1, "b": 1, "c": 1}, [True] * 3, 0), ({"d": 2, "e": 1}, [True] * 3, 3))
    ]
    assert [list(zip(one["task"], one["m"], strict=True)) for one in found] == [[("a", 0), ("c", 2)], [("e", 2)]]


def test_lines_are_in_order_and_unknown_is_said():
    lines = [Line("credit/b", {"oracle_auc": Figure(None, 3)}), Line("credit/a", {"zero_share": Figure(0.25, 4)})]
    columns, rows = table(lines)
    assert columns == ["method", "AUC", "95 % interval", "zero", "steps"]
    assert rows == [["b", "unknown", "-", "-", 0], ["a", "-", "-", "0.250", 4]]

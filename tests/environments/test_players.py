"""Players that need no model: what they show a policy, the rows made of it, and what a policy earns against them."""

from __future__ import annotations

import json
import random

import polars as pl
import pytest
from environments.played_round import SEEDS, SUMS, TINY, Script, faults, nodes_of, played, verdicts_of

from pipeline.environments.players import Known, draw_moves, recite
from pipeline.environments.protocol import BadStep, Observation
from pipeline.errors import BadConfig, BadTable
from pipeline.stages.best_answers import BestAnswerConfig, write_best_answers
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.pairs import write_pairs
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work

KUHN = 'name = "open_spiel"\ngame = "kuhn_poker"'
HANABI = (
    'name = "open_spiel"\ngame = "hanabi"\nparameters = { players = 2, colors = 1, ranks = 2, hand_size = 2, '
    "max_information_tokens = 3, max_life_tokens = 2 }"
)
TOOLS = 'name = "tools"\ntools = ["calculator"]\nschemas = false'

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def bets(text: str, sample: int) -> str:
    return "Bet"


def adds(text: str, sample: int) -> str:
    """Calls the calculator and says what it said; sample 0 does not call, sample 2 says something else."""
    if "<tool_response>" in text:
        return "#### 0" if sample == 2 else f"#### {text.split('<tool_response>')[1].split()[0]}"
    expression = text.split("problem: ")[1].split("=")[0].strip()
    call = json.dumps({"name": "calculator", "arguments": {"expression": expression}})
    return f"<tool_call>{call}</tool_call>" if sample else "#### 0"


def nothing(text: str, sample: int) -> str:
    raise AssertionError("the policy is asked")


def rows_of(work: Work, table: str, stage: str) -> pl.DataFrame:
    return work.store.read(table, work.places(table, stage=stage))


class TestPlayers:
    def test_moves_are_among_those_that_can_be_made(self):
        say = draw_moves(Known(), random.Random(0))
        assert {say(Observation("x", actions=("a", "b"))) for _ in range(20)} == {"a", "b"}
        with pytest.raises(BadStep, match="names no moves"):
            say(Observation("x"))

    def test_calls_are_recited_and_then_the_answer(self):
        known = Known("7", '{"calls": [{"name": "search", "arguments": {"query": "a"}}]}')
        say = recite(known, random.Random(0))
        assert [say(Observation("x")) for _ in range(2)] == [
            '<tool_call>{"name": "search", "arguments": {"query": "a"}}</tool_call>',
            "#### 7",
        ]

    def test_a_player_that_does_not_exist(self, tmp_path):
        with played(tmp_path, KUHN, SEEDS, nothing) as work:
            write_tasks(work)
            with pytest.raises(BadConfig, match="player 'best' does not exist; choose of policy, random, recite"):
                write_episodes(work, EpisodeConfig(player="best"))
            with pytest.raises(BadTable, match=r"no rollouts of suite .*; run `branchpoint episodes --suite"):
                write_best_answers(work)


class TestWarmStart:
    def test_both_seats_are_played_and_imitated(self, tmp_path):
        with played(tmp_path, KUHN, SEEDS, nothing) as work:
            write_tasks(work)
            report = write_episodes(work, EpisodeConfig(group=4, player="random"))
            nodes, verdicts = nodes_of(work), verdicts_of(work)
            write_best_answers(work, BestAnswerConfig(least=0.0, best=0))
            rows, found = rows_of(work, "sft", "best_answers"), faults(work)
        assert found == []
        assert report.rows["requests"] == 0
        assert set(verdicts["reward"]) == {0.0, 0.25, 0.75, 1.0}, "lost or won, one chip or two"
        pairs = verdicts.with_columns(game=pl.col("tree").str.head(-2)).group_by("game").agg(pl.col("reward").sum())
        assert set(pairs["reward"]) == {1.0}, "one wins what the other loses"
        said = nodes.filter(kind="step")
        assert set(said["text"]) == {"Pass", "Bet"}
        assert not said["sampled"].any()
        assert said["logprobs"].null_count() == said["policy"].null_count() == said.height
        assert said.filter(pl.col("finish").is_not_null()).height == 3 * 4 * 2 == rows.height
        for row in rows.iter_rows(named=True):
            trained = [token for token, weight in zip(row["input_ids"], row["weights"], strict=True) if weight]
            turns = said.filter(tree=row["tree"])["token_ids"]
            assert trained == turns.explode().to_list()
            assert row["answer"] == TINY.decode(turns[-1].to_list())

    def test_what_has_no_calls_to_recite_fails_and_is_recorded(self, tmp_path):
        with played(tmp_path, TOOLS, SUMS, nothing) as work:
            write_tasks(work)
            report = write_episodes(work, EpisodeConfig(group=1, player="recite"))
            errors = verdicts_of(work)["error"]
        assert report.numbers["failed"] == 2
        assert report.notes == (f"2 failed, 2 of them: {errors[0]}",)
        assert errors.str.contains("no calls").all()


class TestOpponents:
    def test_only_the_seat_of_the_policy_is_trained(self, tmp_path):
        """It has each seat in turn."""
        with played(tmp_path, KUHN, SEEDS, bets) as work:
            write_tasks(work)
            write_episodes(work, EpisodeConfig(group=4, opponent="random"))
            write_credit(work, CreditConfig(("mars",)))
            write_rl_samples(work, RlSampleConfig("mars"))
            nodes, rows = nodes_of(work), rows_of(work, "rl_samples", "mars")
        seats = nodes.filter("sampled").select("agent", number=pl.col("tree").str.split("/").list.get(-2)).unique()
        assert set(seats.rows()) == {("player_0", "0"), ("player_1", "1"), ("player_0", "2"), ("player_1", "3")}
        assert set(rows["tree"]) == set(nodes.filter("sampled")["tree"])


class TestPairs:
    def test_turns_that_differ_after_the_same_tokens(self, tmp_path):
        """Sample 1 calls and is right; 0 does not call, 2 calls alike and is wrong in the end."""
        with played(tmp_path, TOOLS, SUMS, adds) as work:
            write_tasks(work)
            write_episodes(work, EpisodeConfig(group=3))
            write_pairs(work)
            nodes, pairs = nodes_of(work), rows_of(work, "pairs", "pairs")
        ids = {(tree, node): ids for tree, node, ids in nodes.select("tree", "node", "token_ids").iter_rows()}
        assert pairs.height == 2 * 2
        for row in pairs.iter_rows(named=True):
            for side in ("chosen", "rejected"):
                assert row[f"{side}_ids"] == ids[row["tree"], row[f"{side}_node"]], "one turn, nothing that was shown"
        shown = ["<tool_response>" in TINY.decode(prompt) for prompt in pairs["prompt_ids"].to_list()]
        assert sorted(shown) == [False, False, True, True]
        assert pairs.filter(pl.Series(shown))["chosen"].str.starts_with("####").all()


class TestEvals:
    def test_a_policy_is_measured_against_random_moves(self, tmp_path):
        """Whoever always bets at Kuhn poker wins or loses two chips, or one where the other folds."""
        with played(tmp_path, KUHN, SEEDS.replace("held_out = 1", "held_out = 40"), bets) as work:
            write_tasks(work)
            report = write_evals(work, EvalConfig(samples=4))
            rows = rows_of(work, "evals", work.policy.name)
            assert write_evals(work, EvalConfig(samples=4)).fresh == 0
        row = rows.filter(metric="score").row(0, named=True)
        assert (row["count"], row["split"]) == (40, "held_out")
        assert row["low"] < row["value"] < row["high"]
        assert 0.45 < row["value"] < 0.65
        assert 0 < report.numbers["pass@1"] < 1
        assert len(Script.last.asked) >= 4 * 40

    def test_those_who_win_together_are_measured_together(self, tmp_path):
        with played(tmp_path, HANABI, SEEDS, lambda text, sample: moves(text)) as work:
            write_tasks(work)
            report = write_evals(work, EvalConfig(samples=2))
            rivals = work.suite.environment.open().rivals
        assert not rivals
        assert 0 <= report.numbers["score"] <= 1
        seats = {place for place in (0, 1) for text in Script.last.asked if f"You are player {place}" in text}
        assert seats == {0, 1}

    def test_a_gain_is_that_of_the_score(self, tmp_path):
        with played(tmp_path, KUHN, SEEDS, bets) as work:
            write_tasks(work)
            report = write_evals(work, EvalConfig(samples=2, baseline="tiny"))
        assert report.numbers["score less tiny"] == 0


def moves(text: str) -> str:
    return text.split("Moves: ")[-1].split("<|end|>")[0].split(", ")[0]

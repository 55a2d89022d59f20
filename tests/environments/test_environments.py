"""Each environment by itself: what is seen, paid and judged, and what becomes of one that misbehaves."""

from __future__ import annotations

import json
from functools import partial

import pytest

from pipeline.environments import ENVIRONMENTS
from pipeline.environments.foreign import Foreign, Host
from pipeline.environments.games import chosen_move
from pipeline.environments.gym import GymEnvironment, Options
from pipeline.environments.protocol import (
    LONGEST,
    BadStep,
    Environment,
    Observation,
    Passed,
    Step,
    Task,
    checked_observation,
    checked_step,
    replay,
)
from pipeline.environments.tools import ToolEnvironment
from pipeline.errors import BadConfig
from pipeline.tasks.suites import SUITES, load_suite
from pipeline.tools.toolbox import Document, ToolAnswer

TASK = Task("question", json.dumps({"seed": 1}))
HOSTILE = {"id": "environments.hostile_gym:Hostile-v0", "seconds": 20.0}
PLAYED = [name for name in SUITES if (found := load_suite(name).environment) and found.name != "tools"]
SCENARIO = {"scenario": "A fence.", "names": ["Ada", "Ben"], "goals": ["sell", "buy"]}


def made(name: str, **options) -> Environment:
    module = ENVIRONMENTS[name]
    return module.opened(module.Options(**options)).make()


class TestProtocol:
    def test_what_is_too_long_is_cut_and_its_state_is_that_of_the_whole(self):
        long, longer = (checked_observation(Observation("x" * size), seats=1) for size in (100_000, 100_001))
        assert len(long.text) < LONGEST + 10
        assert long.text == longer.text
        assert long.state_key != longer.state_key

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(None, id="nothing"),
            pytest.param(Step(Observation(b"bytes")), id="bytes"),
            pytest.param(Step(Observation("x"), (float("nan"),)), id="nan"),
            pytest.param(Step(Observation("x"), ()), id="no rewards"),
            pytest.param(Step(Observation("x"), ("1",)), id="text for a reward"),
            pytest.param(Step(Observation("x", seat=1)), id="no such seat"),
            pytest.param(Step(None), id="neither ends nor goes on"),
            pytest.param(Step(None, done=True, scores=(2.0,)), id="a score above 1"),
        ],
    )
    def test_what_no_environment_may_give(self, step):
        with pytest.raises(BadStep):
            checked_step(step, seats=1)

    def test_half_a_surrogate_pair_becomes_text(self):
        assert checked_observation(Observation("a\ud800"), seats=1).text == "a?"

    @pytest.mark.parametrize("name", PLAYED)
    def test_embedded_environments_can_be_replayed(self, name: str):
        """The same seed and actions give the same state, also in another environment of its kind."""
        make = load_suite(name).environment.open().make
        first, second = make(), make()
        seen, way, passed = checked_observation(first.reset(TASK, 5), seats=len(first.seats)), [], []
        for _ in range(4):
            passed.append(Passed(seen.state_key, seen.actions[0] if seen.actions else "hello"))
            way.append(seen)
            assert [stand.seen for stand in replay(second, TASK, passed, seed=5)] == way
            step = first.step(passed[-1].action)
            if step.done:
                break
            seen = checked_observation(step.observation, seats=len(first.seats))
        assert len(way) > 1

    @pytest.mark.parametrize(
        ("passed", "seed", "why"),
        [
            pytest.param("ab", 6, "turn 0 came in another state", id="another seed"),
            pytest.param("ax", 5, "turn 1 came in another state", id="another action"),
            pytest.param("abcd", 5, "it ended after turn 2", id="an earlier end"),
        ],
    )
    def test_a_way_that_leads_elsewhere(self, passed: str, seed: int, why: str):
        states = [checked_observation(Observation(text), seats=1).state_key for text in ("5 ", "5 a", "5 ab", "5 abc")]
        way = [Passed(state, action) for state, action in zip(states, passed, strict=False)]
        way[-1:] = [way[-1]._replace(state_key="none")] if "x" in passed else way[-1:]
        with pytest.raises(BadStep, match=why):
            list(replay(Spelling(), TASK, way, seed=seed))

    def test_what_does_not_say_so_is_not_replayed(self):
        unsure = Spelling()
        unsure.replayable = False
        with pytest.raises(BadStep, match="does not say that it is replayable"):
            list(replay(unsure, TASK, [], seed=5))

    @pytest.mark.parametrize("name", [*PLAYED, "calculator"])
    def test_a_copy_goes_on_by_itself(self, name: str):
        """Both are shown the same from there on; neither notices the other's actions."""
        first = load_suite(name).environment.open().make()
        seen = first.reset(TASK, 5)
        if name == "number_path":  # nobody said that a deep copy will do
            assert first.copy() is None
            return
        other = first.copy()
        action = seen.actions[0] if seen.actions else "hello"
        step = first.step(action)
        assert other.step(action) == step
        if not step.done:
            third = first.copy()
            first.step(step.observation.actions[-1] if step.observation.actions else "there")
            moved = step.observation.actions[0] if step.observation.actions else "where"
            assert third.step(moved) == other.step(moved)


class Spelling:
    """Shows its seed and what was said, and ends at the third."""

    seats, instructions, judge, replayable = ("solver",), ("",), "environment", True

    def reset(self, task: Task, seed: int) -> Observation:
        self._shown = f"{seed} "
        return Observation(self._shown)

    def step(self, action: str) -> Step:
        self._shown += action
        return Step(Observation(self._shown), done=len(self._shown) == 5)


class TestGames:
    def test_a_game_of_tic_tac_toe(self):
        """Each seat sees what the other did; the winner's reward and the loser's come with the last move."""
        game = made("open_spiel", game="tic_tac_toe", valid_move=0.05)
        seen, steps = game.reset(TASK, 0), []
        assert seen.seat == 0
        for move in ("x(0,0)", "I think o(1,1).", "x(0,1)", "o(2,2)", "X(0,2)"):
            steps.append(game.step(move))
        assert "Player 0 moved: x(0,0)" in steps[0].observation.text
        assert [step.observation.seat for step in steps[:-1]] == [1, 0, 1, 0]
        assert [step.rewards for step in steps] == [(0.05, 0), (0, 0.05), (0.05, 0), (0, 0.05), (1.05, -1)]
        assert steps[-1].done
        assert steps[-1].scores == (1.0, 0.0)

    @pytest.mark.parametrize("move", ["", "x(9,9)", "o(0,0)", "<tool_call>"])
    def test_a_move_that_cannot_be_made_ends_the_game(self, move: str):
        game = made("open_spiel", game="tic_tac_toe", bad_move=10.0)
        game.reset(TASK, 0)
        step = game.step(move)
        assert (step.done, step.invalid, step.rewards, step.scores) == (True, True, (-11.0, 0.0), (0.0, 0.5))

    def test_a_seat_knows_its_own_card_alone(self):
        """Kuhn poker with the cards 0 and 1: seat 0 is told 0, seat 1 is told 1, and what was bet."""
        games = [made("open_spiel", game="kuhn_poker") for _ in range(6)]
        openings = {game.reset(TASK, seed).text.splitlines()[1] for seed, game in enumerate(games)}
        assert openings == {"0", "1", "2"}
        assert len({game.step("Pass").observation.text.splitlines()[2][0] for game in games}) > 1

    def test_a_cooperative_game_pays_both_alike(self):
        suite = load_suite("mini_hanabi")
        game = suite.environment.open().make()
        seen, paid = game.reset(TASK, 3), []
        while True:
            step = game.step(seen.actions[0])
            paid.append(tuple(reward - 0.05 * (seat == seen.seat) for seat, reward in enumerate(step.rewards)))
            if step.done:
                break
            seen = step.observation
        assert all(first == pytest.approx(second) for first, second in paid)
        assert step.scores[0] == step.scores[1]

    @pytest.mark.parametrize(
        ("text", "move"),
        [
            ("Bet", "Bet"),
            ("I could pass, but I bet.", "Bet"),
            ("Better not", None),
            ("add 3", "add 3"),
            ("add 33", None),
            ("add 3 2", "add 3 2"),
        ],
    )
    def test_the_move_that_is_named_last(self, text, move):
        assert chosen_move(text, ("Bet", "Pass", "add 3", "add 3 2")) == move

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"game": "none"}, "no game 'none'"),
            ({"game": "kuhn_poker", "parameters": {"players": "x"}}, "correct its parameters"),
            ({"game": "matching_pennies_3p"}, "has no turns"),
        ],
    )
    def test_refusals(self, options, why, capfd):
        with pytest.raises(BadConfig, match=why):
            made("open_spiel", **options)


class TestDialogue:
    def test_each_knows_its_own_goal(self):
        dialogue = made("dialogue", scenarios=[SCENARIO] * 2, turns=3)
        first = dialogue.reset(TASK, 0)
        assert first.told.endswith("Your goal: sell")
        assert first.shown == f"{first.told}\nYou begin."
        assert "buy" not in first.shown
        second = dialogue.step("Good day").observation
        assert (second.seat, second.text, second.told.splitlines()[-1]) == (1, "Ada: Good day", "Your goal: buy")
        assert "sell" not in second.shown
        third = dialogue.step("Hello").observation
        assert third.shown == "Ben: Hello"
        assert dialogue.step("Bye").done

    def test_one_leaves(self):
        dialogue = made("dialogue", scenarios=[SCENARIO] * 2)
        dialogue.reset(TASK, 0)
        assert dialogue.step("Enough. [leave]").done

    def test_no_such_scenario(self):
        with pytest.raises(BadStep, match="no scenario 1"):
            made("dialogue", scenarios=[SCENARIO]).reset(TASK, 0)

    def test_a_scenario_of_three(self):
        with pytest.raises(BadConfig, match="scenario 0 is not one of two"):
            made("dialogue", scenarios=[{**SCENARIO, "names": ["a", "b", "c"]}])


class Shelf:
    """A toolbox with a tool that works and one that fails."""

    schemas = (
        {"type": "function", "function": {"name": "upper", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "fail", "parameters": {"type": "object"}}},
    )

    def call(self, name: str, arguments: str):
        if name != "upper":
            return ToolAnswer("", f"there is no tool {name}")
        return ToolAnswer(json.loads(arguments)["text"].upper())


class TestTools:
    def test_documents_that_nobody_is_shown_are_not_among_what_was_found(self):
        """Of three answers of 3,990 characters the third begins where the observation is cut."""

        class Long(Shelf):
            def call(self, name: str, arguments: str):
                return ToolAnswer("x" * 3990, documents=(Document("first", 0), Document("last", 3980)))

        step = ToolEnvironment(Long(), "").step('<tool_call>{"name": "upper"}</tool_call>' * 3)
        found = [call["documents"] for call in json.loads(step.calls)]
        assert found == [["first", "last"], ["first"], []]
        cut = checked_step(step, seats=1).observation.text
        assert cut.endswith("[cut]")
        assert step.observation.text.startswith(cut.removesuffix("\n[cut]"))

    def test_a_dialogue(self):
        tools = ToolEnvironment(Shelf(), "Use them.")
        assert tools.reset(TASK, 0).text == "question"
        step = tools.step(
            '<tool_call>{"name": "upper", "arguments": {"text": "a"}}</tool_call><tool_call>{"name": "x"}'
        )
        assert step.observation.text == (
            "<tool_response>\nA\n</tool_response>\n<tool_response>\nerror: there is no tool x\n</tool_response>"
        )
        assert [(call["name"], call["ok"]) for call in json.loads(step.calls)] == [("upper", True), ("x", False)]
        assert not step.invalid
        assert tools.step("<tool_call>{broken").invalid
        end = tools.step("#### A")
        assert (end.done, end.answer, end.calls) == (True, "#### A", None)

    def test_what_was_printed_before_an_error_is_shown_with_it(self):
        code = {"name": "python", "arguments": {"code": "print(41)\n1 / 0"}}
        step = made("tools", tools=["python"]).step(f"<tool_call>{json.dumps(code)}</tool_call>")
        assert step.observation.text.startswith("<tool_response>\n41\n\nerror: ZeroDivisionError")
        assert not json.loads(step.calls)[0]["ok"]


class TestGymnasium:
    @pytest.mark.parametrize(
        ("action", "why"),
        [
            ("raise", "RuntimeError: out of cheese"),
            ("hang", "takes over 2 s"),
            ("die", "died"),
            ("nan", "rewards are .nan"),
        ],
    )
    def test_one_that_misbehaves_is_a_failure_and_the_others_go_on(self, action, why):
        """All live in one process; where it is killed, the other episode is brought back and goes on from there."""
        make = partial(GymEnvironment, Options(**HOSTILE))
        host = Host(make, seconds=20.0 if action != "hang" else 2.0, processes=1)
        said = {"seats": GymEnvironment.seats, "instructions": ("",), "judge": "environment"}
        bad, good = Foreign(host, **said), Foreign(host, **said)
        for one in (bad, good):
            one.reset(TASK, 0)
            one.step("go")
        with pytest.raises(BadStep, match=why):
            bad.step(action)
        assert good.step("go").observation.text == "2 done"
        assert [good.step("go").done, good.step("go").scores] == [False, (1.0,)]
        bad.close()

    def test_one_that_cannot_be_replayed_is_not_brought_back(self):
        """Its process is killed for the other's sake."""
        make = partial(GymEnvironment, Options(**HOSTILE, replayable=False))
        host = Host(make, seconds=20.0, processes=1)
        said = {"seats": GymEnvironment.seats, "instructions": ("",), "judge": "environment", "replayable": False}
        bad, good = Foreign(host, **said), Foreign(host, **said)
        for one in (bad, good):
            one.reset(TASK, 0)
            one.step("go")
        with pytest.raises(BadStep, match="died"):
            bad.step("die")
        with pytest.raises(BadStep, match="its process was ended, and it cannot be replayed"):
            good.step("go")

    def test_a_copy_where_one_is_said_to_do(self):
        first = made("gymnasium", **HOSTILE, copyable=True)
        first.reset(TASK, 0)
        first.step("go")
        other = first.copy()
        assert [first.step("go").observation.text, first.step("go").observation.text] == ["2 done", "3 done"]
        assert other.step("go").observation.text == "2 done"
        other.close()

    @pytest.mark.parametrize(("options", "replayable"), [({}, True), ({"replayable": False}, False)])
    def test_whether_it_is_replayable_is_said(self, options, replayable):
        assert made("gymnasium", **HOSTILE, **options).replayable is replayable

    def test_a_registration_may_say_that_it_is_not(self):
        import gymnasium

        gymnasium.register("Dice-v0", entry_point="environments.hostile_gym:Hostile", nondeterministic=True)
        assert not made("gymnasium", id="Dice-v0").replayable

    @pytest.mark.parametrize(("action", "begins"), [("flood", "xxx"), ("object", "{'not': 'text'}")])
    def test_what_is_no_short_text_is_made_one(self, action, begins):
        environment = made("gymnasium", **HOSTILE)
        environment.reset(TASK, 0)
        text = environment.step(action).observation.text
        assert text.startswith(begins)
        assert len(text) < LONGEST + 10

    def test_colours_of_a_drawing_become_brackets(self):
        environment = made(
            "gymnasium",
            id="FrozenLake-v1",
            parameters={"render_mode": "ansi", "is_slippery": False},
            actions=["left", "down", "right", "up"],
            seconds=20.0,
        )
        assert environment.reset(TASK, 0).text.startswith("[S]FFF\nFHFH")
        step = environment.step("go down")
        assert "SFFF\n[F]HFH" in step.observation.text
        wrong = environment.step("jump")
        assert wrong.invalid
        assert wrong.observation.state_key == step.observation.state_key

    def test_no_such_environment(self):
        with pytest.raises(BadConfig, match="no 'None-v0'"):
            made("gymnasium", id="None-v0")

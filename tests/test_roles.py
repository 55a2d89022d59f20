"""Parts of variants without an engine: effects, restarts, cuts, trees of roles, and answers that are nearly JSON."""

import math

import numpy as np
import pytest

from pipeline.builders.roles import role_outputs, role_pairs, role_sft
from pipeline.trees.grow import Tree
from pipeline.variants.answers import MOST_REPAIRED, Answer, read_answer
from pipeline.variants.effect import effect_of
from pipeline.variants.intervene import Continuations
from pipeline.variants.regenerate import Judgement, chance_of_right, judge_steps, read_cut
from pipeline.variants.restart import HEADING, guided_messages


@pytest.mark.parametrize(
    ("changed", "original", "interval"),
    [
        # Newcombe (1998), table II, method 10
        pytest.param((56, 70), (48, 80), (0.2, 0.0524, 0.3339), id="56/70 and 48/80"),
        pytest.param((9, 10), (3, 10), (0.6, 0.1705, 0.8090), id="9/10 and 3/10"),
        pytest.param((10, 10), (0, 20), (1.0, 0.6791, 1.0), id="all and none"),
        pytest.param((5, 56), (0, 29), (0.0893, -0.0381, 0.1926), id="5/56 and 0/29"),
    ],
)
def test_effects_are_those_of_newcombe(changed, original, interval):
    arms = [Continuations(count, right) for right, count in (changed, original)]
    assert tuple(effect_of(*arms)) == pytest.approx(interval, abs=1e-4)
    mirrored = effect_of(*arms[::-1])
    assert tuple(mirrored) == pytest.approx([-interval[0], -interval[2], -interval[1]], abs=1e-4)


def test_no_effect_without_both_arms():
    assert effect_of(Continuations(4, 2), Continuations(0, 0)) is None
    assert effect_of(Continuations(0, 0), Continuations(4, 2)) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param('{"a": 1}', Answer({"a": 1}, "exact"), id="JSON"),
        pytest.param("Sure: {'a': None, 'b': \"it's\",} ok", Answer({"a": None, "b": "it's"}, "repaired"), id="Python"),
        pytest.param('{"a": "x" "b": 2}', Answer({"a": "x", "b": 2}, "repaired"), id="comma missing"),
        pytest.param('{"a": 1} and {"b": 2}', None, id="two objects"),
        pytest.param('{"a": "cut of', None, id="cut off: the rest was never said"),
        pytest.param("{" + '"' * MOST_REPAIRED + "}", None, id="too long to be repaired"),
    ],
)
def test_answers_are_mended_but_not_made_up(text, answer):
    assert read_answer(text) == answer


MESSAGES = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": "o0"},
    {"role": "assistant", "content": "a0"},
    {"role": "user", "content": "o1"},
    {"role": "assistant", "content": "a1"},
]


GUIDANCE = "The earlier attempt had issues.\nR\nApply the lessons and do not mention them."


class TestGuidance:
    def test_at_a_turn(self):
        assert guided_messages(MESSAGES[:4], "R") == [*MESSAGES[:4], {"role": "system", "content": GUIDANCE}]

    def test_at_the_beginning(self):
        lessons = f"{HEADING}\n{GUIDANCE}"
        found = guided_messages(MESSAGES[:2], "R")
        assert found == [{"role": "system", "content": f"rules\n\n{lessons}"}, MESSAGES[1]]
        assert guided_messages(MESSAGES[1:2], "R") == [{"role": "system", "content": lessons}, MESSAGES[1]]

    def test_a_report_is_no_template(self):
        assert guided_messages(MESSAGES[:4], "$report")[-1]["content"] == GUIDANCE.replace("R\n", "$report\n")


class TestCut:
    @pytest.mark.parametrize(
        ("pieces", "logprobs", "chance"),
        [
            (["correct", ""], [math.log(0.8), -9.0], 0.8),
            (["1 = 2", " incorrect", ""], [-5.0, math.log(0.9), -9.0], 0.1),
            (["in", "correct"], [math.log(0.5), math.log(0.5)], 0.75),
            (["**Correct", ".**"], [math.log(0.6), math.log(0.5)], 0.6),
            (["maybe"], [-1.0], None),
            ([], [], None),
        ],
    )
    def test_chance_of_right(self, pieces, logprobs, chance):
        found = chance_of_right(pieces, logprobs, right="correct", wrong="incorrect")
        assert found == (None if chance is None else pytest.approx(chance))

    @pytest.mark.parametrize(
        ("scores", "found"),
        [
            ((0.9, 0.4, 0.2), Judgement(0.2, 1)),
            ((0.4,), Judgement(0.4, 0)),
            ((0.9, None, 0.5), Judgement(0.5)),
            ((None, 0.1), Judgement(0.1, 1)),
            ((None, None), None),
            ((), None),
        ],
    )
    def test_an_attempt_is_as_good_as_its_worst_step(self, scores, found):
        assert judge_steps(scores, threshold=0.5) == found

    @pytest.mark.parametrize(
        ("text", "cut"),
        [
            ('{"reason": "r", "first_flawed_step": 2}', 2),
            ('{"retry_from_step": "0"}', 0),
            ('{"first_flawed_step": 99}', None),
            ('{"first_flawed_step": -1}', None),
            ('{"first_flawed_step": null}', None),
            ('{"step": 1}', None),
            ("one", None),
        ],
    )
    def test_cuts(self, text, cut):
        assert read_cut(text, steps=3) == cut


def forest() -> Tree:
    """Two answers, two checks of each, two new answers below each check; of the last, one call failed.

    Rewards: 1 1 | 1 0 || 0 1 | 0 -
    """
    tree = Tree("t", "t@r0")
    tree.add_prompt(None, np.array([1]), text="q", agent="solver")
    said = 10

    def say(above: int, origin: str, kind: str) -> int:
        nonlocal said
        prompt = tree.add_prompt(above, np.array([above, 2]), text=f"about {above}", agent="verifier")
        said += 1
        return tree.add(
            prompt, kind=kind, origin=origin, agent="verifier", token_ids=[said], text=str(said), finish="stop"
        )

    for _ in range(2):
        answer = say(0, "generate", "step")
        for _ in range(2):
            check = say(answer, "verify", "critique")
            for _ in range(2):
                say(check, "refine", "step")
    tree.known, tree.nodes = dict(enumerate(tree.nodes)), []
    return tree


class TestForestOfRoles:
    @pytest.fixture(autouse=True)
    def grow(self):
        self.tree = forest()
        refined = [node for node, row in self.tree.known.items() if row["origin"] == "refine"]
        self.rewards = {("t@r0", node): reward for node, reward in zip(refined, (1, 1, 1, 0, 0, 1, 0), strict=False)}

    def test_values_are_means_of_means_and_failed_calls_are_left_out(self):
        outputs = role_outputs(self.tree, self.rewards)
        assert outputs.trees.depth.tolist() == [0, 1, 2, 3, 3, 2, 3, 3, 1, 2, 3, 3, 2, 3, 3]
        pairs = [(role, margin) for role, _, _, margin in role_pairs(self.tree, self.rewards)]
        # checks are worth 1, 1/2, 1/2, 0 and answers 3/4, 1/4: exactly one half is not good
        assert pairs == [("generator", 0.5), ("verifier", 0.5), ("refiner", 1.0), ("refiner", 1.0)]

    def test_good_outputs_are_imitated_in_their_own_context(self):
        rows = role_sft(self.tree, self.rewards, suite="s")
        assert [row["role"] for row in rows] == ["generator", "verifier", *["refiner"] * 4]
        for row in rows:
            prompt = self.tree[self.tree[row["node"]]["context"]]["token_ids"]
            assert row["input_ids"] == prompt + self.tree[row["node"]]["token_ids"]
            assert row["weights"] == [0, 0, 1]

    def test_all_alike_make_no_pair(self):
        assert role_pairs(self.tree, dict.fromkeys(self.rewards, 1)) == []
        assert role_pairs(self.tree, dict.fromkeys(self.rewards, 0)) == []
        assert role_pairs(self.tree, {}) == []

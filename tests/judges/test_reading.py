"""Each judge on answers given by hand: what it asks, what it says of nodes, and what becomes of answers that fail."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.errors import BadConfig
from pipeline.judges import JUDGES
from pipeline.judges.adasearch import AdaSearchJudge
from pipeline.judges.capo import CapoJudge
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.epo import EpoJudge
from pipeline.judges.genprm import GenPrmJudge, read_chance
from pipeline.judges.lare import LaReJudge, fit_decoder, latent_factors
from pipeline.judges.search_r2 import SearchR2Judge
from pipeline.judges.sophiavl import SophiaVlJudge
from pipeline.judges.sotopia_rl import SotopiaJudge, read_attributions
from pipeline.judges.talk import Reply, Said, shared
from pipeline.judges.thinkprm import ThinkPrmJudge
from pipeline.judges.tp_grpo import TpGrpoJudge
from pipeline.judges.wording import wording
from pipeline.labels.given import JUDGING
from pipeline.prompts import load_pack
from pipeline.stages.earlier import scores_command
from pipeline.tools.sandbox import Sandbox

TASK = {"task": "t", "question": "1 + 2 + 3 =", "answer": "6"}
GOOD = Attempt((1, 2, 3), ("1 + 2 = 3", "3 + 3 = 6", "#### 6"), (True, True, True), 1.0)
BAD = Attempt((4, 5, 6), ("1 + 2 = 4", "4 + 3 = 7", "#### 7"), (True, True, True), 0.0)


def reply(text: str, *, tokens: int = 0, logprob: float = -0.1) -> Reply:
    return Reply(text, ("x",) * tokens, (logprob,) * tokens)


def talk(judge, answers, *attempts: Attempt, told: str = "") -> tuple[dict[tuple[int, str], Said], list[str]]:
    """What a judge says by node and name, and the prompts it asked.

    answers: texts by a part of the prompt; a list is given one after the other.
    """
    name = next(name for name, kind in JUDGES.items() if kind is type(judge))
    words = wording(name, load_pack("instruct"))
    held, asked = judge.talk(Case(TASK, "t@r0", 0, attempts or (GOOD,), told), words), []
    replies: list[Reply] | None = None
    while True:
        try:
            asks = next(held) if replies is None else held.send(replies)
        except StopIteration as end:
            return {(one.node, one.name): one for one in end.value}, asked
        replies = []
        for ask in asks:
            text = "\n".join(message["content"] for message in ask.messages)
            asked.append(text)
            found = next(answer for part, answer in answers.items() if part in text)
            replies.append(reply(found.pop(0) if isinstance(found, list) else found, tokens=6))


def labels(said: dict[tuple[int, str], Said]) -> dict[int, tuple]:
    return {node: (one.hard, one.k, one.successes) for (node, _), one in said.items()}


def test_judges_are_known_by_what_they_give():
    assert {name for name, judge in JUDGES.items() if not judge.names} == set(JUDGING)
    assert scores_command("attribution_goal") == "judge --judge sotopia_rl"
    assert scores_command("mine") == "scores --name mine --file FILE"


JSON_ASKED = "Answer with one JSON object"


@pytest.mark.parametrize("name", JUDGES)
def test_answers_in_json_are_held_to_a_schema_that_the_example_of_the_prompt_has(name):
    """Unless the engine cannot; other answers are free."""
    attempts = (GOOD, BAD, Attempt((7, 8), ("Who?", "[a] A\nb"), (True, False), None))
    for guided in (True, False):
        held = JUDGES[name]().talk(Case(TASK, "t@r0", 0, attempts), wording(name, load_pack("instruct"), guided=guided))
        for ask in next(held):
            system = ask.messages[0]["content"]
            assert bool(ask.sampling.schema) == (guided and JSON_ASKED in system)
            if ask.sampling.schema:
                keys = list(json.loads(ask.sampling.schema)["properties"])
                example = system.split(JSON_ASKED)[1]
                assert all(f'"{key}"' in example for key in keys if key != "Utterance 2")
        held.close()
    assert wording(name, load_pack("instruct")).version != wording(name, load_pack("instruct"), guided=False).version


class TestCapo:
    def test_the_vote_is_the_label(self):
        critiques = ['{"wrong_steps": [1]}', '{"wrong_steps": [1, 0]}', '{"wrong_steps": [], "reasons": {}}']
        said, asked = talk(CapoJudge(k=3), {"grader": [*critiques]})
        assert labels(said) == {1: (True, 3, 2), 2: (False, 3, 1), 3: (True, 3, 3)}
        assert said[2, ""].value == pytest.approx(1 / 3)
        assert "<step 1>\n3 + 3 = 6\n</step 1>" in asked[0]
        assert "Reference answer: 6" in asked[0]
        union, _ = talk(CapoJudge(k=3, vote="union"), {"grader": critiques})
        assert [union[node, ""].hard for node in (1, 2, 3)] == [False, False, True]

    def test_an_answer_that_cannot_be_read_has_no_vote(self):
        said, _ = talk(CapoJudge(k=2), {"grader": ["I think all is fine.", '```json\n{"wrong_steps": [0]}\n```']})
        assert labels(said) == {1: (False, 1, 0), 2: (True, 1, 1), 3: (True, 1, 1)}
        assert sum(one.unread for one in said.values()) == 1
        assert sum(one.tokens for one in said.values()) == 12
        none, _ = talk(CapoJudge(k=1), {"grader": "no"})
        assert labels(none) == dict.fromkeys((1, 2, 3), (None, 0, 0))
        assert [none[1, ""].value, none[1, ""].text] == [None, "no"]


class TestGenPrm:
    def test_yes_and_no(self):
        texts = [r"<output>\boxed{Yes}</output>", r"<output>\boxed{No}</output>", "maybe"]
        words = load_pack("instruct")
        sure = Reply(texts[0], ("<output>\\boxed{", "Yes", "}"), (-0.1, np.log(0.8), -0.1))
        unsure = Reply(texts[1], ("<output>\\boxed{", "No", "}"), (-0.1, np.log(0.6), -0.1))
        assert read_chance(sure, words) == pytest.approx(0.8)
        assert read_chance(unsure, words) == pytest.approx(0.4)
        assert read_chance(Reply("maybe", ("maybe",), (-0.1,)), words) is None
        word = Reply("3 + 3 = 7 incorrect", ("3 + 3 = 7", " incorrect", ""), (-0.1, np.log(0.9), 0.0))
        assert read_chance(word, words) == pytest.approx(0.1)

    def test_steps_that_read_the_same_are_asked_about_once(self):
        twin = Attempt((7, 8, 9), GOOD.texts, GOOD.said, 1.0)
        said, asked = talk(GenPrmJudge(), {"Judge the last step": "nothing"}, GOOD, twin)
        assert len(asked) == 3
        assert set(said) == {(node, "") for node in (1, 2, 3, 7, 8, 9)}
        assert sum(one.tokens for one in said.values()) == 18
        assert sum(one.unread for one in said.values()) == 3


def test_thinkprm_says_nothing_of_steps_after_the_first_wrong_one():
    text = r"Step 0: fine \boxed{correct} Step 1: \boxed{incorrect} Step 2: \boxed{correct}"
    said, _ = talk(ThinkPrmJudge(), {"Check the steps": text})
    assert labels(said) == {1: (True, 1, 1), 2: (False, 1, 0), 3: (None, 0, 0)}
    assert sum(one.unread for one in said.values()) == 0


class TestTpGrpo:
    def test_a_right_solution_by_its_reflections(self):
        answers = {
            "doubtful or to be done again": '{"reflections": [{"step": 1, "from": 0, "to": 0}]}',
            "Range: steps 0 to 0": '{"wrong_steps": [0, 1]}',
        }
        said, _ = talk(TpGrpoJudge(), answers)
        assert labels(said) == {1: (False, 1, 0), 2: (True, 1, 1)}

    def test_without_reflections_all_steps_are_right(self):
        said, asked = talk(TpGrpoJudge(), {"doubtful": '{"reflections": []}'})
        assert labels(said) == {1: (True, 1, 1), 2: (True, 1, 1)}
        assert len(asked) == 1

    def test_steps_of_a_wrong_solution_match_its_answer_or_are_unknown(self):
        said, asked = talk(TpGrpoJudge(), {"state the same thing": '{"matching_steps": [1, 9]}'}, BAD)
        assert labels(said) == {4: (None, 0, 0), 5: (False, 1, 0)}
        assert "Answer:\n#### 7" in asked[0]

    def test_what_cannot_be_read_is_unknown(self):
        said, _ = talk(TpGrpoJudge(), {"doubtful": "none"})
        assert labels(said) == {1: (None, 0, 0), 2: (None, 0, 0)}
        assert sum(one.unread for one in said.values()) == 1


def test_sophiavl_scores_the_leaf():
    said, asked = talk(SophiaVlJudge(), {"Rate the quality": ["<answer>0.7</answer>", "good"]}, GOOD, BAD)
    assert {node: (one.value, one.hard, one.unread) for (node, _), one in said.items()} == {
        3: (0.7, None, 0),
        6: (None, None, 1),
    }
    assert "#### 6" in asked[0]


class TestSotopia:
    dialogue = Attempt((1, 2, 3), ("Hello.", "What do you want?", "The blanket."), (True, False, True), None)

    def test_attributions_and_scores(self):
        answers = {
            "Score the dialogue": '{"goal": 7, "relationship": -6, "knowledge": 2.5}',
            "goal was reached": '{"Utterance 0": 0, "Utterance 1": 3}',
            "got better or worse": ['{"Utterance 0": 1}', '{"Utterance 0": 1, "Utterance 1": 4}'],
            "learnt": "nothing",
        }
        said, asked = talk(SotopiaJudge(retries=1), answers, self.dialogue)
        values = {key: one.value for key, one in said.items()}
        assert [values[node, "attribution_goal"] for node in (1, 3)] == [0.0, 3.0]
        assert [values[node, "attribution_relationship"] for node in (1, 3)] == [1.0, None]
        assert [values[node, "attribution_knowledge"] for node in (1, 3)] == [None, None]
        assert json.loads(said[1, "attribution_knowledge"].text) == "nothing"
        assert [values[3, f"score_{name}"] for name in ("goal", "relationship", "knowledge")] == [7.0, None, 2.5]
        assert "<Utterance 1>\nThe blanket." in asked[0]
        assert "<other>\nWhat do you want?" in asked[0]

    def test_what_was_told_stands_apart_from_what_was_said(self):
        heard = self.dialogue._replace(before=("Good day.",), after=("Agreed.",))
        _, asked = talk(SotopiaJudge(retries=0), {"Score": "{}", "much it": "{}"}, heard, told="Your goal: a blanket.")
        for text in asked:
            told, said = text.split("What the speaker was told:\n")[1].split("\n\nDialogue:\n")
            assert told == "Your goal: a blanket."
            assert said.startswith("<other>\nGood day.\n</other>\n<Utterance 0>\nHello.\n</Utterance 0>\n<other>")
            assert "</Utterance 1>\n<other>\nAgreed.\n</other>\n" in said

    def test_texts_that_are_no_object(self):
        assert read_attributions("[1, 2]", 2) is None
        assert read_attributions('{"Utterance 0": true, "Utterance 1": "2"}', 2) == [None, None]


class TestEpo:
    def test_a_turn_is_key_that_an_episode_through_it_names(self):
        other = GOOD._replace(nodes=(1, 2, 9), reward=None)
        answers = {"decisive": ['{"key_utterances": [0, 7, "2"]}', '{"key_utterances": [1]}']}
        said, asked = talk(EpoJudge(), answers, GOOD, other)
        values = {node: one.value for (node, _), one in said.items()}
        assert values == {1: 1.0, 2: 1.0, 3: 1.0, 9: 0.0}
        assert "Score: 1\n" in asked[0]
        assert "Score: not known\n" in asked[1]

    @pytest.mark.parametrize("text", ["none", '{"key_utterances": 3}', "[0]"])
    def test_what_cannot_be_read_is_untold(self, text):
        said, _ = talk(EpoJudge(), {"decisive": text})
        assert {(one.value, one.text) for one in said.values()} == {(None, json.dumps(text))}
        assert sum(one.unread for one in said.values()) == 1


class TestSearchR2:
    found = Attempt(
        (1, 2, 3, 4, 5),
        (
            "search",
            "<tool_response>\n[a-1] Ada\nBorn in [1]\n\nx.\n\n[b] Bo\n</tool_response>",
            "again",
            "nothing",
            "Ada",
        ),
        (True, False, True, False, True),
        1.0,
    )

    def test_each_passage_of_a_step_is_asked_about(self):
        said, asked = talk(SearchR2Judge(), {"<passage 1>": '{"useful": [1, 0]}'}, self.found)
        assert {key: one.text for key, one in said.items()} == {(1, "useful"): "[1, 0]"}
        assert "<passage 0>\n[a-1] Ada\nBorn in [1]\n\nx.\n</passage 0>\n<passage 1>\n[b] Bo" in asked[0]
        assert len(asked) == 1

    @pytest.mark.parametrize("text", ["yes", '{"useful": [1]}', '{"useful": [1, 2]}', '{"useful": [1, "0"]}'])
    def test_what_cannot_be_read_is_unknown(self, text):
        said, _ = talk(SearchR2Judge(), {"<passage 1>": text}, self.found)
        assert {key: (one.text, one.unread) for key, one in said.items()} == {(1, "useful"): (None, 1)}

    def test_passages_of_another_form(self):
        shown = self.found._replace(texts=("q", "Doc 1: a\nDoc 2: b\nDoc 3: c", "", "", ""))
        said, _ = talk(SearchR2Judge(passage=r"Doc \d+:"), {"<passage 2>": '{"useful": [0, 0, 1]}'}, shown)
        assert said[1, "useful"].text == "[0, 0, 1]"
        with pytest.raises(BadConfig, match="search_r2 passage '\\(' is no expression"):
            SearchR2Judge(passage="(")


class TestAdaSearch:
    @pytest.mark.parametrize(
        ("judge", "texts", "calls", "searched"),
        [
            (AdaSearchJudge(), ("a", "b"), (None, None), 0),
            (AdaSearchJudge(), ("a", "b"), ('[{"name": "search", "ok": false}]', None), 1),
            (AdaSearchJudge(), ("a", "b"), ('[{"name": "calculator"}, {"name": null}]', "?"), 0),
            (AdaSearchJudge(tool="wiki"), ("a", "b"), (None, '[{"name": "wiki"}]'), 1),
            (AdaSearchJudge(decision="do"), ("I know. <do> No_search\n</do>", "b"), ('[{"name": "search"}]', None), 0),
            (AdaSearchJudge(decision="do"), ("<do>search</do>", "<do>no_search</do>"), (None, None), 1),
            (AdaSearchJudge(decision="do"), ("<do>perhaps</do>", "b"), (None, None), -1),
            (AdaSearchJudge(decision="do"), ("a", "b"), ('[{"name": "search"}]', None), -1),
        ],
    )
    def test_the_run_itself_tells(self, judge, texts, calls, searched):
        said, asked = talk(judge, {}, Attempt((4, 5), texts, (True, True), None, calls))
        assert {key: one.value for key, one in said.items()} == {(5, "searched"): searched}
        assert asked == []


class TestCalm:
    def test_subgoals_and_what_steps_achieve(self):
        answers = {
            "List the subgoals": '{"subgoals": ["add", "answer"]}',
            "Step:\n1 + 2 = 3": '{"achieved": ["add"]}',
            "Step:\n3 + 3 = 6": "none",
            "Step:\n#### 6": '{"achieved": []}',
        }
        said, asked = talk(JUDGES["calm"](), answers)
        texts = {node: one.text for (node, _), one in said.items()}
        assert texts == {0: '["add", "answer"]', 1: '["add"]', 2: None, 3: "[]"}
        assert "Before:\n1 + 2 = 3" in asked[2]
        given, asked = talk(JUDGES["calm"](subgoals='["add"]'), answers)
        assert given[0, "subgoals"].text == '["add"]'
        assert len(asked) == 3

    def test_a_tree_without_subgoals_is_untold(self):
        said, _ = talk(JUDGES["calm"](), {"List the subgoals": "no"})
        assert {key: (one.text, one.unread) for key, one in said.items()} == {(0, "subgoals"): (None, 1)}


FINE = "def evaluation_func(observation, action):\n    return [[[float(one)] for one in observation['holding']], [[1.0] for _ in action]]"  # noqa: E501
ROGUE = {
    "loops": "def evaluation_func(o, a):\n    while True:\n        pass",
    "takes all memory": "def evaluation_func(o, a):\n    return [0] * 10**10",
    "reads a file": "def evaluation_func(o, a):\n    return open('/etc/passwd').read()",
    "runs a program": "import os\ndef evaluation_func(o, a):\n    return os.system('true')",
    "opens a socket": "import socket\ndef evaluation_func(o, a):\n    return socket.socket()",
    "has the wrong shape": "def evaluation_func(o, a):\n    return [[1.0]]",
    "gives no number": "def evaluation_func(o, a):\n    return [[['x'], ['y']]]",
    "raises": "def evaluation_func(o, a):\n    return 1 / 0",
    "gives a number beyond floats": "def evaluation_func(o, a):\n    return [[[10**400], [1]]]",
    "gives a number whose square is none": "def evaluation_func(o, a):\n    return [[[1e200], [1.0]]]",
}


def written(source: str) -> str:
    return json.dumps({"understanding": "sums", "analysis": "", "function": source})


class TestLaRe:
    @pytest.mark.parametrize("source", ROGUE.values(), ids=ROGUE)
    def test_what_goes_wrong_in_the_sandbox_is_recorded_and_mended(self, source):
        answers = {"say what the task is about": written(source), "Mend it": written(FINE)}
        said, asked = talk(LaReJudge(candidates=1, retries=2), answers)
        told = json.loads(said[0, "latent_reward"].text)
        assert told["source"] == FINE
        stopped, mended = told["trials"]
        assert (stopped["source"], mended["error"], said[0, "latent_reward"].tokens) == (source, None, 12)
        assert stopped["error"] in asked[1]
        assert len(asked) == 2
        assert "What went wrong:" in asked[1]

    def test_without_a_function_that_passes_there_is_none(self):
        broken = written(ROGUE["raises"])
        said, asked = talk(
            LaReJudge(candidates=1, retries=2), {"say what the task is about": broken, "Mend it": broken}
        )
        told = json.loads(said[0, "latent_reward"].text)
        assert told["source"] is None
        assert "division by zero" in told["trials"][0]["error"]
        assert len(asked) == 3

    def test_why_no_answer_came_is_recorded(self):
        """A prompt that is longer than the judge's positions, as the talks answer it."""
        judge, words = LaReJudge(candidates=1), wording("lare", load_pack("instruct"))
        held = judge.talk(Case(TASK, "t@r0", 0, (GOOD,)), words)
        next(held)
        with pytest.raises(StopIteration) as end:
            held.send([Reply("", error="the prompt has 9000 tokens, the judge 1024 positions")])
        (said,) = end.value.value
        told = json.loads(said.text)
        assert (told["source"], said.unread) == (None, 1)
        assert [trial["error"] for trial in told["trials"]] == ["the prompt has 9000 tokens, the judge 1024 positions"]

    def test_a_factor_that_is_the_same_in_all_steps_has_no_weight_whatever_its_rounding(self):
        latent = np.column_stack((np.full(999, 0.1), np.arange(999) % 7))
        assert latent.std(axis=0)[0] > 0
        assert fit_decoder(latent, np.array([0, 400, 999]), np.array([1.0, 0.0])).weight[0] == 0

    def test_several_functions_are_merged(self):
        answers = {"say what the task is about": written(FINE), "Write one function": written(FINE + "\n# merged")}
        said, _ = talk(LaReJudge(candidates=2), answers)
        assert json.loads(said[0, "latent_reward"].text)["source"].endswith("# merged")

    def test_factors_of_every_step_and_those_that_vary_have_weight(self):
        with Sandbox(workers=1) as sandbox:
            latent, errors = latent_factors(FINE, [GOOD, BAD], sandbox)
        assert errors == []
        assert latent.tolist() == [[1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [0, 1]]
        offsets, returns = np.array([0, 3, 6]), np.array([1.0, 0.0])
        decoder = fit_decoder(latent, offsets, returns)
        rewards = latent @ decoder.weight + decoder.bias
        assert decoder.weight[0] > 0
        assert decoder.weight[1] == 0
        assert np.add.reduceat(rewards, offsets[:-1]) == pytest.approx([1.0, -1.0], abs=1e-3)

    def test_a_function_that_fails_on_some_steps_leaves_them_unknown(self):
        source = "def evaluation_func(o, a):\n    return [[[1 / (3 - len(a))] for _ in a]]"
        with Sandbox(workers=1) as sandbox:
            latent, errors = latent_factors(source, [GOOD], sandbox)
        assert np.isnan(latent).all()
        assert "division by zero" in errors[0]
        assert fit_decoder(latent, np.array([0, 3]), np.array([1.0])).bias == 0.0


@pytest.mark.parametrize(("tokens", "count", "each"), [(7, 3, [3, 2, 2]), (0, 2, [0, 0]), (2, 3, [1, 1, 0])])
def test_tokens_are_shared_by_the_labels_that_an_answer_gives(tokens, count, each):
    assert shared(tokens, count) == each

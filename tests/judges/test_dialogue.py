"""Judges of a dialogue in a scenario: what stands in the store of it, and what they are shown."""

from __future__ import annotations

import json
import re

from environments.played_round import Script, played

from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.tasks import write_tasks
from pipeline.tasks.suites import load_suite

BANDS = """
[[bands]]
name = "scenarios"
source = "seeds"
question = "Play your part in the scenario."
sizes = { train = 1, held_out = 1 }
seeds = { train = 0, held_out = 1 }
"""
SCORES = '{"goal": 7, "relationship": 1, "knowledge": 0}'


def says(text: str, sample: int) -> str:
    """Speaks by its name; as a judge it scores all utterances alike."""
    if "Score the dialogue" in text:
        return SCORES
    if "For each utterance" in text:
        return json.dumps(dict.fromkeys(re.findall(r"<(Utterance \d)>", text), 2))
    name = re.search(r"You are (\w+), the other", text)[1]
    return f"{name} says {text.count('assistant')}."


def bargains() -> str:
    """The first scenarios of the suite that is shipped."""
    options = load_suite("bargains").environment.options
    scenarios = "".join(
        "\n[[environment.scenarios]]\n" + "\n".join(f"{key} = {value!r}" for key, value in one.items())
        for one in options.scenarios[:2]
    )
    return f'name = "dialogue"\nturns = 4{scenarios}'


def test_the_judge_of_a_speaker_sees_its_goal_and_all_that_was_said(tmp_path):
    with played(tmp_path, bargains(), BANDS, says) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=1))
        nodes = work.store.read("nodes", work.places("nodes")).sort("tree", "node")
        roots = nodes.filter(node=0).sort("agent")["text"].to_list()
        goals = [text.partition("Your goal: ")[2] for text in roots]
        assert goals == ["Sell the bicycle for at least 60.", "Buy the bicycle for at most 70, with the lamp."]
        spoken = nodes.filter(kind="step").sort("turn")["text"].to_list()
        assert len(spoken) == 4
        asked = len(Script.last.asked)
        (report,) = write_judgements(work, JudgeConfig(("sotopia_rl",)))
        assert report.numbers["untold"] == 0
        shown = Script.last.asked[asked:]
        assert len(shown) == 2 * 4
        for text in shown:
            told, said = text.split("What the speaker was told:\n")[1].split("\n\nDialogue:\n")
            assert told in roots
            places = [said.index(one) for one in spoken]
            assert places == sorted(places)
            assert said.startswith("<Utterance 0>") == (told == roots[0])
        write_credit(work, CreditConfig(("sotopia_rl",)))
        credit = work.store.read("credit", work.places("credit")).join(nodes.filter(kind="step"), on=["tree", "node"])
        assert credit["advantage"].is_finite().all()

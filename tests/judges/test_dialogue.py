"""Judges of a dialogue in a scenario: what stands in the store of it, and what they are shown."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from environments.played_round import Script, played

from pipeline.errors import BadTable
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
    """Speaks by its name; as a judge it scores all utterances alike, and holds each first one for decisive."""
    if "Score the dialogue" in text:
        return SCORES
    if "were decisive" in text:
        return '{"key_utterances": [0]}'
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


def test_epo_takes_the_score_for_the_goal_where_nobody_judges(tmp_path):
    epo, by_goal = JudgeConfig(("epo",), params='{"outcome": "goal"}'), CreditConfig(("epo",), '{"outcome": "goal"}')
    with played(tmp_path, bargains(), BANDS, says) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=1))
        with pytest.raises(BadTable, match="has no scores score_goal") as refused:
            write_judgements(work, epo)
        assert "judge --judge sotopia_rl" in refused.value.remedy
        write_judgements(work, JudgeConfig(("sotopia_rl",)))
        asked = len(Script.last.asked)
        write_judgements(work, epo)
        shown = Script.last.asked[asked:]
        assert len(shown) == 2
        assert all("Score: 0.7\n" in text for text in shown)

        write_credit(work, by_goal)
        credit = work.store.read("credit", work.places("credit", stage="epo"))
        nodes = work.store.read("nodes", work.places("nodes")).filter(kind="step")
        turns = credit.join(nodes, on=["tree", "node"]).sort("tree", "depth")
        for _, rows in turns.group_by("tree"):  # the first turn is decisive, the last has the score
            np.testing.assert_allclose(rows["value"], [1 + 0.99 * 0.7, 0.7], rtol=1e-6)
            np.testing.assert_allclose(rows["advantage"], [1, 0.7 / 1.693], rtol=1e-6)
        assert write_judgements(work, epo)[0].fresh == 0
        write_judgements(work, JudgeConfig(("sotopia_rl",), params='{"temperature": 0.5}'))
        assert write_judgements(work, epo)[0].fresh == 0  # the same scores
        with pytest.raises(BadTable, match="key_turn of played, round r0, train-000 was given with") as refused:
            write_credit(work, CreditConfig(("epo",)))
        assert "`branchpoint judge --judge epo --per-task 2 --suite played --round r0` first" in refused.value.remedy
        write_judgements(work, JudgeConfig(("epo",)))
        write_credit(work, CreditConfig(("epo",)))  # nobody judged
        blank = work.store.read("credit", work.places("credit", stage="epo")).join(nodes, on=["tree", "node"])
        assert blank["advantage"].null_count() == len(blank)


def test_turns_that_were_named_by_other_scores(tmp_path):
    """The remedy gives them once more as they were given."""
    epo, by_goal = (
        JudgeConfig(("epo",), '{"outcome": "goal"}', per_task=0),
        CreditConfig(("epo",), '{"outcome": "goal"}'),
    )
    remedy = """`branchpoint judge --judge epo --params '{"outcome": "goal"}' --per-task 0 --suite played --round r0`"""
    scores = [SCORES]

    def say(text: str, sample: int) -> str:
        return scores[-1] if "Score the dialogue" in text else says(text, sample)

    with played(tmp_path, bargains(), BANDS, say) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=1))
        write_judgements(work, JudgeConfig(("sotopia_rl",)))
        write_judgements(work, epo)
        scores.append(SCORES.replace("7", "3"))
        write_judgements(work, JudgeConfig(("sotopia_rl",), params='{"temperature": 0.5}'))
        with pytest.raises(BadTable, match="before scores score_goal changed") as refused:
            write_credit(work, by_goal)
        assert remedy in refused.value.remedy
        write_judgements(work, JudgeConfig(("epo",), per_task=0))
        with pytest.raises(BadTable, match="was given with") as refused:
            write_credit(work, by_goal)
        assert remedy in refused.value.remedy
        write_judgements(work, epo)
        assert write_credit(work, by_goal)[0].fresh == 1

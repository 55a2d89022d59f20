"""A round without tools, what AdaSearch makes of it, and what is made anew of its episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from environments.played_round import SEEDS, SUMS, Script, faults, nodes_of, played, verdicts_of
from varied_round import reflection

from pipeline.errors import BadConfig
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.intervene import InterveneConfig, write_interventions_by_hand
from pipeline.stages.interventions import write_interventions
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.regenerations import write_regenerations
from pipeline.stages.retries import write_retries
from pipeline.stages.scores import ScoresConfig, write_scores
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work, make_work
from pipeline.store.query import open_database, run_query

TOOLS = 'name = "tools"\ntools = ["calculator"]\nschemas = false'
KNOWN = """
select n.tree, 0 as node, avg(v.reward) as value from nodes n join verdicts v using (task)
where n.suite = 'played' and n.round = 'r0' and n.node = 0 and v.round = 'closed' group by n.tree
"""
CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}</tool_call>'


def says(text: str, sample: int) -> str:
    """From memory it calls a tool all the same; else the second episode of a task calls one, the first does not."""
    if "from memory" in text:
        return CALL
    return CALL if sample == 1 and "<tool_response>" not in text else "#### 2"


def test_runs_are_credited_by_a_round_without_tools(tmp_path):
    """Nobody knows by heart, so whoever calls the tool is right to."""
    with played(tmp_path, TOOLS, SUMS, says) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=2))
        closed = make_work(work.settings, suite="played", round="closed", engine="scripted")
        write_episodes(closed, EpisodeConfig(group=2, closed_book=True))
        assert faults(closed) == []
        ends = nodes_of(closed).filter(kind="step")
        assert (set(ends["text"]), set(ends["finish"]), ends["tool_calls"].count()) == ({CALL}, {"stop"}, 0)
        assert not any("calculator" in text.split("<|assistant|>")[0] for text in Script.last.asked if "memory" in text)
        assert verdicts_of(closed)["reward"].to_list() == [0.0] * 4

        with open_database(work.store) as connection:
            found = run_query(connection, KNOWN)
            rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
        (tmp_path / "closed.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        write_scores(work, ScoresConfig("closed_book", str(tmp_path / "closed.jsonl")))
        write_judgements(work, JudgeConfig(("adasearch",), per_task=0, params='{"tool": "calculator"}'))
        write_credit(work, CreditConfig(("adasearch",)))
        credit = work.store.read("credit", work.places("credit")).join(nodes_of(work), on=["tree", "node"])
        ended = credit.filter(kind="step").filter(finish="stop").sort("tree", "depth")
        assert [(depth, value) for depth, value in ended.select("depth", "value").iter_rows()] == [(1, 0), (3, 1)] * 2


def test_what_has_no_tools_is_not_played_without(tmp_path):
    with played(tmp_path, 'name = "open_spiel"\ngame = "kuhn_poker"', SEEDS, says) as work:
        write_tasks(work)
        with pytest.raises(BadConfig, match="has no tools to be left without"):
            write_episodes(work, EpisodeConfig(closed_book=True))


def from_memory(text: str, sample: int) -> str:
    """Answers wrongly. A judge rejects it, and says where to cut."""
    if "Reflect on" in text:
        return reflection(retry_from_step=0)
    return "incorrect" if "Is the last step" in text else "#### 2"


@contextmanager
def closed(folder: Path) -> Iterator[Work]:
    """A round without tools."""
    with played(folder, TOOLS, SUMS, from_memory) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=1, closed_book=True))
        yield work


def test_its_episodes_are_made_anew_without_tools(tmp_path):
    with closed(tmp_path) as work:
        assert write_retries(work).numbers["retries"] == 2
        assert write_regenerations(work).numbers["revised"] == 2
        assert faults(work) == []
        for origin in ("retry", "regenerate"):
            new = nodes_of(work).filter(origin=origin)
            assert new.select("text", "finish", "tool_calls").rows() == [("#### 2", "stop", None)] * 2
        assert (write_retries(work).fresh, write_regenerations(work).fresh) == (0, 0)


def test_its_answers_are_not_written_anew(tmp_path):
    """Refused before anybody is asked."""
    with closed(tmp_path) as work:
        asked, edit = len(Script.last.asked), InterveneConfig(tree=nodes_of(work)["tree"][0], node=1, text="so")
        for write in (write_interventions, partial(write_interventions_by_hand, config=edit)):
            with pytest.raises(BadConfig, match="was played closed-book") as refused:
                write(work)
            assert "retries and regenerations take this one" in refused.value.remedy
        assert len(Script.last.asked) == asked

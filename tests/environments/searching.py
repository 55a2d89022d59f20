"""Rounds of trees of searches over a small encyclopedia, by a scripted policy, shared by tests of them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
from environments.played_round import Script, faults, nodes_of, played, verdicts_of

from pipeline.environments.searches import LAST
from pipeline.generation.scripted import ScriptedEngine
from pipeline.report import Progress
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store.audit import audit

VILLAGE = """name = "tools"
tools = ["search"]
schemas = false
instructions = "Answer the question."
options = { search = { k = 1, world = { towns = 8 } } }
"""
WITH_CALCULATOR = VILLAGE.replace('["search"]', '["search", "calculator"]')
HOPS = """
[[bands]]
name = "2-hop"
source = "multi_hop"
hops = 2
world = { towns = 8 }
sizes = { train = 3, held_out = 1 }
"""
GROWN = EpisodeConfig(strategy="treeps_rag", threshold=0.8, candidates=3, width=3, depth=3)


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def search(query: str) -> str:
    return call("search", query=query)


class Searcher:
    """First looks for the first name, for the same name backwards, and for the second. Then, by its sample, for the
    second name, says the answer, or says another. At the last turn it answers where it saw the first name found, and
    else searches on. It does not reflect on what it did.
    """

    def __init__(self, work: Work, last=None):
        write_tasks(work)
        self._last = last
        rows = work.store.tasks(work.suite.name).to_dicts()
        self._known = {
            row["question"]: (row["answer"], [call["arguments"]["query"] for call in json.loads(row["info"])["calls"]])
            for row in rows
        }

    def __call__(self, text: str, sample: int) -> str:
        if "Reflect on" in text:
            return "I cannot."
        answer, (first, second) = next(known for question, known in self._known.items() if question in text)
        if LAST in text and self._last is not None:
            return self._last(answer)
        if LAST in text:
            return f"#### {answer}" if f"] {first}" in text else search("more")
        if "<tool_response>" not in text:
            return search((first, " ".join(first.split()[::-1]), second)[sample])
        return (search(second), f"#### {answer}", "#### nobody")[sample % 3]


def grown(folder, config: EpisodeConfig = GROWN, *, kind: type[ScriptedEngine] = ScriptedEngine, then=None, says=None):
    """A round of trees. then: done with the work before it is put away. says: at the last turn, of the answer."""
    script = {}
    with played(folder, VILLAGE, HOPS, lambda text, sample: script["says"](text, sample), kind=kind) as work:
        script["says"] = Searcher(work, says)
        return outcome(work, config, then=then)


def scripted(folder, says, **options) -> SimpleNamespace:
    """A round of trees by what a policy says, with a calculator too."""
    with played(folder, WITH_CALCULATOR, HOPS, says) as work:
        write_tasks(work)
        return outcome(work, replace(GROWN, **options))


def outcome(work: Work, config: EpisodeConfig, *, then=None) -> SimpleNamespace:
    progress: list[Progress] = []
    report = write_episodes(replace(work, on_progress=progress.append), config)
    scores = work.store.read("scores", work.places("scores"))
    out = SimpleNamespace(report=report, nodes=nodes_of(work), verdicts=verdicts_of(work), scores=scores)
    out.asked, out.faults, out.progress = list(Script.last.asked), faults(work), progress
    out.audit = [found for found in audit(work.store, suite="played") if not found.passed]
    out.then = then(work) if then else None
    return out


def turns(nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Turns with their verdict and the turn before them."""
    above = nodes.select("tree", pl.col("node").alias("parent"), pl.col("parent").alias("before"))
    steps = nodes.filter(kind="step").join(above, on=["tree", "parent"], how="left")
    return steps.join(verdicts.select("tree", "node", "reward", "error"), on=["tree", "node"], how="left")

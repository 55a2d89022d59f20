"""An environment of three rooms, and rounds of episodes in it, shared by tests of what is made anew of episodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from environments.played_round import SEEDS, TINY, Says, faults, nodes_of, played

from pipeline.environments import ENVIRONMENTS
from pipeline.environments.chat import chat_of
from pipeline.environments.protocol import Observation, Opened, Step
from pipeline.stages.arms import FIRST_SAMPLE
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store.audit import audit
from pipeline.trees.grow import Tree, read_trees
from pipeline.variants.checks import VARIANT_CHECKS

WAYS = """
[[bands]]
name = "games"
source = "file"
path = "ways.jsonl"
held_out = 0.0
"""
ANEW = range(FIRST_SAMPLE, FIRST_SAMPLE + (1 << 20))
"""Samples of continuations; those of episodes are far away."""
COUNTED = {"made": 0, "steps": 0}


class Corridor:
    """Three rooms; whoever goes left in each is out, and whoever flies at once. Rooms differ by the task's number."""

    seats = ("solver",)
    instructions = ("Go left or right.",)
    judge = "environment"

    def __init__(self, options: CorridorOptions):
        self._options, self.replayable = options, options.replayable

    def reset(self, task, seed):
        COUNTED["made"] += 1
        self._done, self._seed = [], int(re.search(r"number (\d+)", task.question)[1])
        return self._seen()

    def step(self, action):
        COUNTED["steps"] += 1
        if action == "boom":
            raise KeyError("in the middle")
        self._done.append(action)
        if action == "jump":
            return Step(self._seen(), invalid=True)
        if action == "fly":
            return Step(None, (1.0,), done=True, scores=(1.0,))
        if len([one for one in self._done if one != "jump"]) == 3:
            astray = any("right" in one for one in self._done)
            return Step(None, (1.0,), done=True, scores=(float(not astray),))
        return Step(self._seen(), (0.25,))

    def copy(self):
        if not self._options.copies:
            return None
        other = Corridor(self._options)
        other._done, other._seed = [*self._done], self._seed
        return other

    def close(self):
        return None

    def _seen(self):
        drift = COUNTED["made"] if self._options.drifts == "text" and self._seed == 11 else 0
        key = COUNTED["made"] if self._options.drifts == "state" and self._seed == 11 else 0
        return Observation(f"room {self._seed} {len(self._done)} {drift}", f"{self._done} {key}")


@dataclass(frozen=True)
class CorridorOptions:
    copies: bool = False
    replayable: bool = True
    drifts: str = ""


@contextmanager
def corridor(
    folder: Path, says: Says, *, group: int = 2, begin=lambda work: None, bands: str = SEEDS, **options
) -> Iterator[Work]:
    """A round of episodes in the corridor. Tasks have the numbers 10, 11 and 12. begin: done before it is played."""
    named = "".join(f"\n{name} = {json.dumps(value)}" for name, value in options.items())
    with pytest.MonkeyPatch.context() as patch:
        module = SimpleNamespace(Options=CorridorOptions, opened=lambda given: Opened(lambda: Corridor(given), "1"))
        patch.setitem(ENVIRONMENTS, "corridor", module)
        with played(folder, f'name = "corridor"{named}', bands, says) as work:
            begin(work)
            write_tasks(work)
            write_episodes(work, EpisodeConfig(group=group))
            yield work


def forget_thoughts(work: Work, *, patch: pytest.MonkeyPatch) -> None:
    """Let the chat template leave out what was said before `</t>`, so that each turn has a context of its own."""
    tokenizer = chat_of(work.policy)._tokenizer
    kept = "{{ message.content.split('</t>')[-1] }}"
    patch.setattr(tokenizer, "chat_template", tokenizer.chat_template.replace("{{ message.content }}", kept))


def own_turns(tree: Tree, leaf: int) -> list[str]:
    """What was done in an episode, down to its end."""
    return [tree[node]["text"] for node in tree.line(leaf) if tree[node]["kind"] == "step"]


def not_sent(work: Work, asked: list[str]) -> list[dict]:
    """Nodes that a policy sampled after other tokens than it was sent, as their texts tell."""
    found, decode = [], TINY._tokenizer.decode
    for tree in forest(work).values():
        sampled = [row for row in tree.known.values() if row["sampled"]]
        found += [row for row in sampled if decode(tree.tokens(row["parent"]).tolist()) not in asked]
    return found


def variants_of(work: Work) -> list[dict]:
    return work.store.read("variants", work.places("variants")).sort("tree", "source_leaf").to_dicts()


def forest(work: Work) -> dict[str, Tree]:
    return read_trees(nodes_of(work))


def all_faults(work: Work, *, but: str = "") -> list:
    """What the checks find that should hold of any round; `but` names one that shall not."""
    places = work.places("variants")
    bad = {name: check(work.store, "variants", places) for name, check in VARIANT_CHECKS.items() if name != but}
    found = [finding for finding in audit(work.store, suite="played") if not finding.passed]
    return [*faults(work), *(name for name, one in bad.items() if not one.passed), *(found if not but else [])]

"""A round of episodes with a scripted engine, shared by tests of environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from pipeline.generation import engines
from pipeline.generation.engine import Request
from pipeline.generation.policies import find_policy
from pipeline.generation.scripted import ScriptedEngine
from pipeline.generation.tokens import tokens_of
from pipeline.settings import Settings
from pipeline.stages.work import Work, make_work
from pipeline.store.checks import CHECKS

SUITE = """
name = "played"
description = "Played in an environment."
prompts = "tiny"
separator = "\\n"
max_tokens = 200
"""
SUMS = """
[[bands]]
name = "sums"
source = "reasoning_gym"
dataset = "chain_sum"
parameters = { min_terms = 2, max_terms = 2, min_digits = 2, max_digits = 2 }
sizes = { train = 2, held_out = 1 }
seeds = { train = 77, held_out = 7700 }
"""
SEEDS = """
[[bands]]
name = "games"
source = "seeds"
question = "Play."
sizes = { train = 3, held_out = 1 }
seeds = { train = 10, held_out = 90 }
"""
TINY = tokens_of(find_policy("tiny", policies=Path("none")))

Says = Callable[[str, int], str]
"""What a policy says, given its whole context as text and the sample's index."""


class Script:
    """Answers with what `says` gives, and an end token. asked: every context so far. last: the one made last."""

    last: Script

    def __init__(self, says: Says):
        self._says, self.asked = says, []
        Script.last = self

    def __call__(self, request: Request) -> list[int]:
        text = TINY._tokenizer.decode(request.prompt.tolist())
        self.asked.append(text)
        return [*TINY.encode(self._says(text, request.sample)).tolist(), 1]


@contextmanager
def played(
    folder: Path, environment: str, bands: str, says: Says, *, kind: type[ScriptedEngine] = ScriptedEngine
) -> Iterator[Work]:
    """Surroundings of a suite with an environment, whose policy says what it is given to say."""
    (folder / "played.toml").write_text(f"{SUITE}\n[environment]\n{environment}\n{bands}")
    settings = Settings(folder / "store", folder / "policies", folder / "release", folder)
    script = Script(says)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            engines.ENGINES,
            "scripted",
            lambda policy: kind(script, fingerprint=engines.engine_fingerprint("scripted", policy)),
        )
        engines.close_engines()
        try:
            yield make_work(settings, suite="played", round="r0", engine="scripted")
        finally:
            engines.close_engines()


def nodes_of(work: Work) -> pl.DataFrame:
    return work.store.read("nodes", work.places("nodes")).sort("tree", "node")


def verdicts_of(work: Work) -> pl.DataFrame:
    return work.store.read("verdicts", work.places("verdicts")).sort("tree", "node")


def faults(work: Work) -> list[str]:
    """What the checks of the tables find."""
    return [
        f"{table} {name}: {finding.detail}"
        for table in ("nodes", "verdicts", "requests")
        for name, check in CHECKS[table].items()
        if not (finding := check(work.store, table, work.places(table))).passed
    ]


def dying(after: int) -> type[ScriptedEngine]:
    """An engine that ends the process, as far as a test can, after so many answers."""

    class Dies(ScriptedEngine):
        def generate(self, asked):
            for count, completion in enumerate(super().generate(asked)):
                if count == after:
                    raise KeyboardInterrupt
                yield completion

    return Dies

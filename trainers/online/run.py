"""What all rounds of an online run share, and the note by which it is known again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import BadConfig
from pipeline.stages.work import Work
from pipeline.store.write import disk_errors
from trainers.online.recipe import OnlineRecipe
from trainers.online.round_work import RoundWork, chosen_shards, first_draw
from trainers.online.watch import STAGE
from trainers.stages import policy_name

VERSION = "1"
"""Of the update. Raise it when it comes to make another policy of the same rows, parent and recipe."""


class Run(NamedTuple):
    """What all rounds of a run share. folder: beside the policies, of the optimiser's states. unanswered: see
    `RoundWork`."""

    work: Work
    recipe: OnlineRecipe
    seed: int
    names: list[str]
    folder: Path
    unanswered: float = 0.0

    def at(self, number: int) -> RoundWork:
        """The surroundings of a round, with the policy that it samples from: the one that its update begins from, or
        under `overlap` the one before that."""
        policy = self.made(number - 1 - self.recipe.overlap)
        return self.around(self.names[number], policy=policy, shards=self.recipe.shards, number=number)

    def around(self, round: str, *, policy: str, shards: int, number: int = 0) -> RoundWork:
        """The surroundings of a round of so many shards, with the run's seed."""
        names = chosen_shards(sorted(self.work.shards()), count=shards, round=number, seed=self.seed)
        said = {one.name: getattr(self.work, one.name) for one in fields(Work)}
        said |= {"round": round, "policy_name": policy}
        first = first_draw(self.seed, round=number)
        own = {"chosen": names, "held": self.recipe.eval_shards, "first_sample": first, "unanswered": self.unanswered}
        return RoundWork(**said, **own)

    def made(self, number: int) -> str:
        """Name of the policy that a round makes; below 0: of the one that the first round samples from."""
        if number < 0:
            return self.work.policy_name
        return policy_name(replace(self.work, round=self.names[number]), STAGE)


def begin(run: Run) -> None:
    """Note what the run is, or make sure that it is the one that began here. What left no node began nothing."""
    said = {"recipe": asdict(run.recipe), "seed": run.seed, "policy": run.work.policy.fingerprint, "version": VERSION}
    text, file = json.dumps(said, indent=2, sort_keys=True), run.folder / "run.json"
    if file.exists() and run.work.store.places("nodes", suite=run.work.suite.name, round=run.names[0]):
        if file.read_text() != text:
            raise BadConfig(
                f"round {run.names[0]} was begun with another recipe, seed or policy",
                remedy=f"give another --round, such as a0 or b0, or remove {run.folder}",
            )
        return
    with disk_errors(file, setting="BRANCHPOINT_POLICIES"):
        run.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(text)
        os.replace(part, file)

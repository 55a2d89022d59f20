"""What earlier stages left in a shard: what it says a stage is made from, and what was replaced since.

Reads what files say of themselves, never their rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any

import polars as pl

from pipeline.errors import BadConfig, BadTable
from pipeline.exchange import IMPORTED
from pipeline.judges import JUDGES
from pipeline.labels.given import GIVEN
from pipeline.stages.work import Work, inputs
from pipeline.store.catalogue import Entry
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION

BEFORE: dict[str, tuple[str, ...]] = {
    "rollouts": (),
    "trees": ("rollouts",),
    "retries": ("rollouts", "trees"),
    "interventions": ("rollouts", "trees", "retries"),
    "regenerations": ("rollouts", "trees", "retries", "interventions"),
    "roles": ("rollouts", "trees", "retries", "interventions", "regenerations"),
    "summaries": ("rollouts", "trees", "retries", "interventions", "regenerations", "roles"),
    "intervene": ("rollouts", "trees", "retries", "interventions", "regenerations", "roles", "summaries"),
}
"""The stages that grow trees, each with those whose nodes it may hang on. Node numbers go on from theirs."""

GENERATING = tuple(BEFORE)
ROLLOUTS, JUDGING = GENERATING[0], "verdicts"
_BESIDE = ("requests", "scores", "step_labels", "variants", "verdicts")
"""Tables that say something of nodes in words."""
_OF_VARIANTS = ("pairs", "patches", "rl_samples")
"""Tables made from variants too."""


class Earlier:
    """What the files of a shard say of themselves, each asked once."""

    def __init__(self, work: Work, shard: str):
        self._work, self._shard = work, shard
        self._entries: dict[tuple[str, str], Entry | None] = {}

    def entry(self, table: str, stage: str) -> Entry | None:
        """Of the file that a stage left; None where it left none."""
        if (table, stage) not in self._entries:
            self._entries[table, stage] = self._work.store.entry(table, self._work.place(stage, self._shard))
        return self._entries[table, stage]

    def digests(self, stages: Iterable[str], *, tables: Iterable[str] = ("nodes", "verdicts")) -> str:
        """Digests of what earlier stages left, joined. A file that does not say what it was made from passes.

        Raises:
            BadTable: one of them grew on nodes that are no longer in the store; its own would hang on the wrong ones.
        """
        stages = tuple(stages)
        first, tasks = self.entry("nodes", ROLLOUTS), self.tasks
        if first is not None and first.inputs.get("tasks", tasks) != tasks:
            raise _replaced(self._work, ROLLOUTS, self._shard, "tasks")
        for stage in stages:
            before = BEFORE.get(stage, GENERATING)
            entry = self.entry("nodes" if stage in BEFORE else "verdicts", stage)
            nodes = self._joined(before)
            if entry is not None and before and entry.inputs.get("nodes", nodes) != nodes:
                raise _replaced(self._work, stage, self._shard, " or ".join(before))
        return self._joined(stages, tables)

    def judged_from(self, of: str) -> dict[str, str]:
        """As the function `judged_from`."""
        if of == "scores":
            return {"nodes": self.digests(GENERATING, tables=("nodes",))}
        variants = ("variants",) if of in _OF_VARIANTS else ()
        return {
            "nodes": self.digests(GENERATING, tables=("nodes", "verdicts", *variants)),
            "verdicts": self.digests((JUDGING,), tables=("verdicts",)),
        }

    def refuse_replaced(self, table: str, stage: str) -> None:
        """Make sure that what a stage left was made from what the store now holds, and so was what that was made from.

        Raises:
            BadTable: it was not.
        """
        entry = self.entry(table, stage)
        if entry is None:
            return
        if any(entry.inputs.get(name, digests) != digests for name, digests in self.judged_from(table).items()):
            what = "nodes" if table == "scores" else "nodes or verdicts"
            raise _replaced(self._work, stage, self._shard, what, of=table)
        for grown in BEFORE.keys() & entry.inputs.keys() if table == "scores" else ():
            if entry.inputs[grown].split(" ")[0] != self._joined((grown,), ("nodes",)):
                raise _replaced(self._work, stage, self._shard, f"nodes of {grown}", of=table)
        for read, name, digest in _annotations(entry.inputs):
            self.refuse_replaced(read, name)
            now = self.entry(read, name)
            if digest != (now.digest if now else ""):
                raise _replaced(self._work, stage, self._shard, f"{read} {name}", of=table)

    def refuse_otherwise(self, name: str, wanted: Mapping[str, Any], *, method: str) -> None:
        """Make sure that scores are of a judge with the parameters that a credit method has, where he has them.

        Raises:
            BadTable: they are of one with others; names the command for those that are wanted.
        """
        entry, work = self.entry("scores", name), self._work
        made_from = entry.inputs if entry else {}
        said = json.loads(made_from.get("config", "{}"))
        if others := {of: said[of] for of, value in wanted.items() if said.get(of, value) != value}:
            wanted = {of: wanted[of] for of in others}
            command = scores_command(name, made_from, **wanted)
            raise BadTable(
                f"{name} of {work.suite.name}, round {work.round}, {self._shard} was given with {json.dumps(others)}, "
                f"and {method} shall be with {json.dumps(wanted)}",
                remedy=f"run `branchpoint {command} --suite {work.suite.name} --round {work.round}` first, "
                f"or credit with --params '{json.dumps(others)}'",
            )

    @cached_property
    def tasks(self) -> str:
        """Digest of the shard's tasks."""
        return self._work.store.tasks_digest(self._work.suite.name, self._shard)

    def _joined(self, stages: Iterable[str], tables: Iterable[str] = ("nodes", "verdicts")) -> str:
        entries = [self.entry(table, stage) for stage in stages for table in tables]
        return " ".join(entry.digest if entry else "" for entry in entries)


def rollout_shards(work: Work, *, columns: Sequence[str] | None = None) -> dict[str, pl.DataFrame]:
    """The suite's training tasks by shard, of a round that has rollouts of them all: later stages begin so.

    Args:
        columns: those wanted beside `task` and `split`; None: all. What walks by names alone wants none, and so holds
            no texts of all tasks while it streams.

    Raises:
        BadConfig: there are no training tasks.
        BadTable: some shard has no rollouts.
    """
    shards, sampled = work.shards(columns=columns), {place.shard for place in work.places("nodes", stage=ROLLOUTS)}
    if lacking := shards.keys() - sampled:
        some = f", in {len(lacking)} of {len(shards)} shards" if len(lacking) < len(shards) else ""
        command = "rollouts" if work.suite.environment is None else "episodes"
        raise BadTable(
            f"the store has no rollouts of suite {work.suite.name}, round {work.round}{some}",
            remedy=f"run `branchpoint {command} --suite {work.suite.name} --round {work.round}` first",
        )
    return shards


def grown_from(work: Work, shard: str, stage: str, version: str, *, config: object, policy: str) -> dict[str, str]:
    """What a stage that asks the policy makes a shard from.

    Args:
        policy: the engine's fingerprint.

    Raises:
        BadConfig: the round's rollouts are another policy's.
        BadTable: see `Earlier.digests`.
    """
    earlier = Earlier(work, shard)
    rollouts = earlier.entry("nodes", ROLLOUTS) if BEFORE[stage] else None
    if rollouts is not None and rollouts.inputs["policy"] != policy:
        remedy = "give --policy as it was given to rollouts, or begin another --round"
        if rollouts.inputs["policy"] == IMPORTED:
            remedy = "import them again with --tokens, which says whose token ids they have"
        raise BadConfig(
            f"the rollouts of {work.suite.name}, round {work.round}, are not of policy {work.policy_name} as it is now "
            "on this engine",
            remedy=remedy,
        )
    return inputs(
        version,
        config=config,
        policy=policy,
        prompts=work.pack.digest,
        reading=f"{work.suite.max_tokens} {work.suite.separator!r}",
        tasks=earlier.tasks,
        verifier=VERIFIER_VERSION,
        **({"nodes": earlier.digests(BEFORE[stage])} if BEFORE[stage] else {}),
    )


def judged_from(work: Work, shard: str, *, of: str) -> dict[str, str]:
    """What the rows of a table of annotations or training rows are made from, of a shard: nodes, and verdicts on them;
    scores of nodes alone.

    Args:
        of: the table.

    Raises:
        BadTable: see `Earlier.digests`.
    """
    return Earlier(work, shard).judged_from(of)


def refuse_replaced(work: Work, table: str) -> None:
    """Make sure that a table of annotations or training rows was made from what the store now holds.

    Raises:
        BadTable: some of its rows were not.
    """
    shards: dict[str, Earlier] = {}
    for place in work.places(table):
        shards.setdefault(place.shard, Earlier(work, place.shard)).refuse_replaced(table, place.stage)
    said = texts_beside(work) if table == "hygiene" else {}
    for place in work.places(table) if table == "hygiene" else ():
        made_from = work.store.entry(table, place).inputs
        if "version" in made_from and made_from.get("texts") != said.get(place.shard, ""):
            raise _replaced(work, table, place.shard, "what is said of its nodes")


def texts_beside(work: Work) -> dict[str, str]:
    """By shard, a digest of what the round says in words beside its nodes; none where it says nothing."""
    found: dict[str, list[str]] = {}
    for table in _BESIDE:
        for place in work.places(table):
            found.setdefault(place.shard, []).append(f"{table} {place.stage} {work.store.digest(table, place)}")
    return {shard: hashlib.sha256("\n".join(said).encode()).hexdigest()[:32] for shard, said in found.items()}


def _annotations(made_from: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """The step labels and scores that credit says it was made from: table, labeller or name, digest."""
    for key, said in made_from.items():
        if key == "labels":
            yield "step_labels", *said.split(" ", 1)
        elif key == "credit":
            yield "credit", *said.split(" ", 1)
        elif key.startswith("labels "):
            yield "step_labels", key.removeprefix("labels "), said
        elif key.startswith("scores "):
            yield "scores", key.removeprefix("scores "), said


def scores_command(name: str, made_from: Mapping[str, str] = MappingProxyType({}), **params: Any) -> str:
    """What gives scores once more.

    Args:
        made_from: what their file says; a judge's parameters are those that he had, but for `params`.
    """
    if name == "budget":
        return "summaries"
    judge = next((judge for judge, kind in JUDGES.items() if name in (judge, *kind.names)), None)
    if judge is None:
        return f"scores --name {name} --file FILE"
    usual = json.loads(json.dumps(asdict(JUDGES[judge]())))
    given = {**json.loads(made_from.get("config", "{}")), **params}
    given = {of: value for of, value in given.items() if of in usual and value != usual[of]}
    command = f"judge --judge {judge}" + (f" --params '{json.dumps(given)}'" if given else "")
    return command + (f" --per-task {made_from['per_task']}" if "per_task" in made_from else "")


def _replaced(work: Work, stage: str, shard: str, what: str, *, of: str = "") -> BadTable:
    scored = work.store.entry("scores", work.place(stage, shard))
    command = {
        "credit": f"credit --method {stage}",
        "step_labels": GIVEN[stage].command if stage in GIVEN else f"step-labels --labeller {stage}",
        "scores": scores_command(stage, scored.inputs if scored else {}),
        "token_rewards": "token-rewards",
        "rl_samples": stage if stage == "retry_rows" else f"rl-samples --method {stage}",
        "prm_steps": f"prm-steps --labels {stage}",
    }.get(of, "intervene --anew" if stage == "intervene" else stage)
    command = command.removeprefix("branchpoint ")
    return BadTable(
        f"{stage} of {work.suite.name}, round {work.round}, {shard} were made before {what} changed",
        remedy=f"run `branchpoint {command} --suite {work.suite.name} --round {work.round}` again",
    )

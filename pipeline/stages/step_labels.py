"""Stage: step labels by one labeller, entries of a ledger that is only added to.

What earlier runs said of the same nodes stays; entries of rollouts that are no longer in the store go with them. Draws
and judges nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from pipeline.errors import BadConfig, BadTable
from pipeline.labels import LABELLERS, PARAMS, UNVERIFIED
from pipeline.labels.given import GIVEN
from pipeline.labels.human import LINE, Violation, human_rows, read_human_labels, refuse
from pipeline.labels.ledger import newest, with_entries, with_voices
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, JUDGING, ROLLOUTS, judged_from, rollout_shards
from pipeline.stages.params import read_json_params
from pipeline.stages.verdicts import judged_shards
from pipeline.stages.work import Shards, Work, inputs
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION

VERSION = "2"
HUMAN = "human"


@dataclass(frozen=True, slots=True)
class StepLabelConfig:
    """labeller: key of LABELLERS. params: JSON object of what shall not be as published. file: JSON Lines with labels
    of people, for `human`: tree, node, author, hard or soft, rationale, created.
    """

    labeller: str = "monte_carlo"
    params: str = ""
    file: str = ""


def write_step_labels(work: Work, config: StepLabelConfig = StepLabelConfig()) -> Report:
    """Label the steps of the round's attempts.

    Raises:
        BadConfig: there is no such labeller or parameter, or its labels come from elsewhere, or no file is given.
        BadInput: a line of the file is no label of a node of the round; nothing is written.
        BadTable: some verdicts are of another version of the verifier and were not given anew.
    """
    name = config.labeller
    if name not in LABELLERS:
        raise BadConfig(f"labeller {name!r} does not exist", remedy=f"choose one of {', '.join(LABELLERS)}")
    if config.params and name not in PARAMS:
        raise BadConfig(f"labeller {name} has no parameters", remedy="leave --params out")
    if name == HUMAN:
        return _write_human(work, config.file)
    if config.file:
        raise BadConfig(f"labeller {name} reads no file", remedy="give --file with --labeller human alone")
    if name in GIVEN:
        raise BadConfig(f"labels of {name} come from elsewhere", remedy=f"run `{GIVEN[name].command}`")
    params = read_json_params(PARAMS[name](), config.params, of=name) if name in PARAMS else None
    label = LABELLERS[name] if params is None else partial(LABELLERS[name], params=params)
    verifier = "" if name in UNVERIFIED else VERIFIER_VERSION
    shards = Shards(work, name, ("step_labels",))
    for shard in judged_shards(shards, inputs(VERSION, config=params, labeller=name, verifier=verifier)):
        if verifier:
            _refuse_mixed(work, shard.name)
        said = label(shard.nodes, shard.verdicts)
        if verifier:
            said = said.with_columns(version=pl.col("version") + f"-verifier{verifier}")
        entries = with_entries(earlier_entries(work, name, shard.name, shard.made_from), said)
        shards.write(shard.name, shard.made_from, step_labels=entries)
    return shards.finish(**figures(shards.read("step_labels")))


def earlier_entries(work: Work, labeller: str, shard: str, made_from: dict[str, str]) -> pl.DataFrame:
    """What a labeller has said so far of the rollouts there are; nothing, where they were replaced.

    Args:
        made_from: of the shard that is made now, its `nodes` beginning with the digest of the rollouts' nodes.
    """
    place = work.place(labeller, shard)
    entry = work.store.entry("step_labels", place)
    same = entry is not None and _rollouts(entry.inputs) == _rollouts(made_from)
    return work.store.read("step_labels", [place] if same else [])


def figures(labels: pl.DataFrame) -> dict[str, float | int | None]:
    """Numbers of a report, over the newest entries."""
    last = newest(labels)
    return {
        "labelled": last.filter(pl.any_horizontal(pl.col("hard", "soft").is_not_null())).height,
        "hard_share": last["hard"].mean(),
        "mean_soft": last["soft"].mean(),
        "mean_k": last["k"].mean(),
        "undecided": last["hard"].null_count(),
        "tokens": int(last["tokens"].sum() or 0),
    }


def _rollouts(made_from: dict[str, str]) -> str:
    return made_from.get("nodes", "").partition(" ")[0]


def _refuse_mixed(work: Work, shard: str) -> None:
    """Make sure that no leaf has but a verdict of another version of the verifier.

    Raises:
        BadTable: one has.
    """
    places = [work.place(stage, shard) for stage in (*GENERATING, JUDGING)]
    verdicts = work.store.read("verdicts", places, columns=["task", "tree", "node", "version"])
    present = pl.col("version") == VERIFIER_VERSION
    other = verdicts.filter(~present.any().over("tree", "node"))
    if other.height:
        first = other.row(0, named=True)
        raise BadTable(
            f"{other.height} verdicts of {shard}, as that on node {first['node']} of {first['tree']}, are of version "
            f"{first['version']} of the verifier; it is {VERIFIER_VERSION}",
            remedy=f"run `branchpoint verdicts --suite {work.suite.name} --round {work.round}` first",
        )


def _write_human(work: Work, name: str) -> Report:
    """Add what a file says to the ledger; see `write_step_labels`."""
    if not name:
        raise BadConfig("no file is given", remedy="name it with --file")
    path, by_shard, shards = Path(name), rollout_shards(work, columns=()), Shards(work, HUMAN, ("step_labels",))
    said = read_human_labels(path)
    named = {shard: _of_nodes(work, shard, said) for shard in by_shard}
    known = pl.concat([rows[LINE] for rows in named.values()])
    strangers = said.filter(~pl.col(LINE).is_in(known.implode()))
    refuse(
        path,
        [
            Violation(line, f"no attempt of round {work.round} of {work.suite.name} has node {node} of tree {tree!r}")
            for line, node, tree in strangers.select(LINE, "node", "tree").iter_rows()
        ],
    )
    made_from = inputs(VERSION, file=hashlib.sha256(path.read_bytes()).hexdigest())
    for shard, _, parts in shards.stale(
        by_shard, lambda shard: {**made_from, **judged_from(work, shard, of="step_labels")}
    ):
        before = earlier_entries(work, HUMAN, shard, parts)
        shards.write(shard, parts, step_labels=with_voices(before, human_rows(named[shard])))
    return shards.finish(**figures(shards.read("step_labels")))


def _of_nodes(work: Work, shard: str, said: pl.DataFrame) -> pl.DataFrame:
    """The labels of steps of a shard's attempts, with their task."""
    nodes = work.store.read("nodes", [work.place(ROLLOUTS, shard)], columns=["task", "tree", "node", "kind"])
    steps = nodes.filter(pl.col("kind") == "step").drop("kind")
    return said.join(steps, on=["tree", "node"], how="inner", maintain_order="left")

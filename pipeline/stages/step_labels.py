"""Stage: step labels by one labeller."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import BadConfig
from pipeline.labels import LABELLERS
from pipeline.report import Report
from pipeline.stages.verdicts import judged_shards
from pipeline.stages.work import Shards, Work, inputs

VERSION = "1"


@dataclass(frozen=True, slots=True)
class StepLabelConfig:
    """labeller: key of LABELLERS."""

    labeller: str = "monte_carlo"


def write_step_labels(work: Work, config: StepLabelConfig = StepLabelConfig()) -> Report:
    """Label the steps of the round's attempts.

    Raises:
        BadConfig: there is no such labeller.
    """
    if config.labeller not in LABELLERS:
        raise BadConfig(f"labeller {config.labeller!r} does not exist", remedy=f"choose one of {', '.join(LABELLERS)}")
    shards = Shards(work, config.labeller, ("step_labels",))
    made_from = inputs(VERSION, config=config)
    for shard in judged_shards(shards, made_from):
        labels = LABELLERS[config.labeller](shard.nodes, shard.verdicts)
        shards.write(shard.name, shard.made_from, step_labels=labels)
    labels = shards.read("step_labels")
    return shards.finish(
        hard_share=labels["hard"].mean(),
        mean_soft=labels["soft"].mean(),
        mean_k=labels["k"].mean(),
        tokens=int(labels["tokens"].sum() or 0),
    )

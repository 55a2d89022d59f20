"""The release: a folder as the Hub wants it, staged, never uploaded from here."""

import dagster as dg

from assets.annotate import agreement, credits_of_every_round, labels
from assets.build import pairs, patches
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from assets.train import evals
from pipeline.stages.release import ReleaseConfig, write_release

Release = launch_form(ReleaseConfig)


@round_asset(
    deps=[pairs, patches, agreement, *credits_of_every_round, *labels, *evals],
    group="publish",
    kinds={"huggingface", "parquet"},
    owners=["team:data"],
)
def release(context: dg.AssetExecutionContext, config: Release, workplace: Workplace) -> dg.MaterializeResult:
    """A dataset folder with every table, its card and its digests, which `datasets.load_dataset` opens."""
    work = workplace.open(context)
    return result(work, write_release(work, filled(ReleaseConfig, config)))

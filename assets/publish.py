"""The release: a folder as the Hub wants it, staged, never uploaded from here."""

import dagster as dg

from assets.annotate import agreement, credits, labels
from assets.build import pairs, patches
from assets.partitions import suite_rounds
from assets.resources import Workplace
from assets.tables import filled, launch_form, result
from assets.train import evals
from pipeline.stages.release import ReleaseConfig, write_release

Release = launch_form(ReleaseConfig)


@dg.asset(
    deps=[pairs, patches, agreement, *credits, *labels, *evals],
    partitions_def=suite_rounds,
    group_name="publish",
    kinds={"huggingface", "parquet"},
    owners=["team:data"],
    code_version="1",
)
def release(context: dg.AssetExecutionContext, config: Release, workplace: Workplace) -> dg.MaterializeResult:
    """A dataset folder with every table, its card and its digests, which `datasets.load_dataset` opens."""
    work = workplace.open(context)
    return result(work, write_release(work, filled(ReleaseConfig, config)))

"""Training rows."""

import dagster as dg

from assets.generate import verdicts
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from pipeline.stages.pairs import PairConfig, write_pairs
from pipeline.stages.patches import PatchConfig, write_patches

Pairs, Patches = launch_form(PairConfig), launch_form(PatchConfig)

OWNERS = ["team:data"]


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("pairs",))
def pairs(context: dg.AssetExecutionContext, config: Pairs, workplace: Workplace) -> dg.MaterializeResult:
    """Preference pairs: right against wrong answers, branches of one prefix, retries against their sources."""
    work = workplace.open(context)
    return result(work, write_pairs(work, filled(PairConfig, config)), tables=("pairs",))


@round_asset(deps=[verdicts], group="build", kinds={"parquet"}, owners=OWNERS, tables=("patches",))
def patches(context: dg.AssetExecutionContext, config: Patches, workplace: Workplace) -> dg.MaterializeResult:
    """InT rows: a right prefix and the one step written in place of the first wrong one."""
    work = workplace.open(context)
    return result(work, write_patches(work, filled(PatchConfig, config)), tables=("patches",))

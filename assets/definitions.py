"""The graph: every asset by name. `dg dev` and the demo both start here."""

import dagster as dg

from assets.annotate import agreement, credits, credits_of_every_round, labels
from assets.build import pairs, patches
from assets.generate import interventions, retries, rollouts, tasks, trees, verdicts
from assets.publish import release
from assets.resources import Workplace
from assets.train import dpo, evals, int_sft

ASSETS = [
    tasks,
    rollouts,
    trees,
    retries,
    interventions,
    verdicts,
    *credits,
    *labels,
    agreement,
    pairs,
    patches,
    dpo,
    int_sft,
    *evals,
    release,
]
WITHOUT_ENVIRONMENT = [asset for asset in ASSETS if asset not in credits or asset in credits_of_every_round]
"""What a suite of plain text can materialise."""


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, one process a run: a CPU machine has nothing to gain from more."""
    return dg.Definitions(assets=ASSETS, resources={"workplace": Workplace()}, executor=dg.in_process_executor)

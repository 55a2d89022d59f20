"""The graph: every asset by name. `dg dev` and the demo both start here."""

import dagster as dg

from assets.annotate import agreement, credits, labels
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


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, one process a run: a CPU machine has nothing to gain from more."""
    return dg.Definitions(assets=ASSETS, resources={"workplace": Workplace()}, executor=dg.in_process_executor)

"""The graph: every asset by name. `dg dev` and the demo both start here."""

import dagster as dg

from assets.annotate import (
    agreement,
    credits,
    credits_of_every_round,
    judges,
    judges_of_every_round,
    label_agreement,
    labels,
)
from assets.build import (
    best_answers,
    pairs,
    patches,
    prm_steps,
    retry_rows,
    rl_prompts,
    role_rows,
    sessions,
    unpaired,
)
from assets.generate import (
    episodes,
    interventions,
    regenerations,
    retries,
    roles,
    rollouts,
    summaries,
    tasks,
    trees,
    verdicts,
)
from assets.online import next_round, online, online_round, round_job
from assets.publish import hygiene, published, release
from assets.resources import Workplace
from assets.score import critics, scores
from assets.train import dpo, evals, int_sft, prm, prm_evals, sft, sft_evals, token_rewards, treg

ASSETS = [
    tasks,
    rollouts,
    episodes,
    trees,
    retries,
    interventions,
    regenerations,
    roles,
    summaries,
    verdicts,
    *critics,
    *scores,
    *credits,
    *labels,
    *judges,
    label_agreement,
    agreement,
    pairs,
    patches,
    retry_rows,
    role_rows,
    prm_steps,
    best_answers,
    unpaired,
    rl_prompts,
    sessions,
    token_rewards,
    dpo,
    treg,
    sft,
    int_sft,
    prm,
    *evals,
    sft_evals,
    prm_evals,
    online,
    online_round,
    hygiene,
    release,
    published,
]
BY_CHOICE = (regenerations, roles, summaries, role_rows, sft, sft_evals, online_round, published, *critics, *scores)
"""What costs many tokens or a model of one's own: nobody wants all of it of every round."""
WITHOUT_ENVIRONMENT = [
    asset
    for asset in ASSETS
    if asset not in (episodes, *BY_CHOICE)
    and (asset not in credits or asset in credits_of_every_round)
    and (asset not in judges or asset in judges_of_every_round)
]
"""What the demo materialises of a suite of plain text."""


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, one process a run: a CPU machine has nothing to gain from more."""
    return dg.Definitions(
        assets=ASSETS,
        jobs=[round_job],
        sensors=[next_round],
        resources={"workplace": Workplace()},
        executor=dg.in_process_executor,
    )

"""What models say of a round's nodes, one asset a pass, and the critics, one asset a kind."""

import dagster as dg

from assets.generate import verdicts
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset
from pipeline.credit import scored_by
from pipeline.credit.columns import Method
from trainers.scores import PASSES
from trainers.scores.critic_recipe import KINDS, CriticRecipe
from trainers.scores.critic_stage import train_critic
from trainers.scores.passes import ScoreConfig
from trainers.scores.stage import score_reports

OWNERS = ["team:training"]
READS = {
    "tuned_logprobs": ["policies", "dpo"],
    "prm_logprobs": ["policies", "dpo"],
    "critic": ["policies", "token_critic"],
    "archer": ["policies", "utterance_critic"],
}
"""What a pass looks through, where that is made of the round."""
Critic = launch_form(CriticRecipe)


class Scoring(dg.Config):
    """Through whose eyes: policies and a critic by name, empty: the round's own; tokens of a pack."""

    reference: str = ScoreConfig().reference
    tuned: str = ScoreConfig().tuned
    prm: str = ScoreConfig().prm
    critic: str = ScoreConfig().critic
    max_tokens: int = ScoreConfig().max_tokens


def critic_asset(kind: str) -> dg.AssetsDefinition:
    """The asset of one kind of critic."""

    @round_asset(
        "policies",
        f"{kind}_critic",
        deps=[verdicts],
        group="train",
        kinds={"pytorch"},
        owners=OWNERS,
        pool="gpu",
        description=f"A critic of {kind}s on the round's judged trees.",
    )
    def critic(context: dg.AssetExecutionContext, config: Critic, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        return result(work, train_critic(work, filled(CriticRecipe, Critic(**{**config.model_dump(), "kind": kind}))))

    return critic


def score_asset(what: str) -> dg.AssetsDefinition:
    """The asset of one pass."""

    @round_asset(
        "score",
        what,
        deps=[verdicts, *([dg.AssetKey(READS[what])] if what in READS else ())],
        group="score",
        kinds={"pytorch", "parquet"},
        owners=OWNERS,
        tables=("scores",),
        pool="gpu",
        description=f"What a model says of nodes: {', '.join(PASSES[what])}.",
    )
    def score(context: dg.AssetExecutionContext, config: Scoring, workplace: Workplace) -> dg.MaterializeResult:
        work = workplace.open(context)
        found = score_reports(work, ScoreConfig((what,), **config.model_dump()))
        first, *others = (result(work, report, tables=("scores",)) for report in found)
        return joined(first, others)

    return score


def joined(first: dg.MaterializeResult, others: list[dg.MaterializeResult]) -> dg.MaterializeResult:
    """The results of a pass that fills several columns as one; a check passes where it does for each."""
    checks = []
    for alike in zip(first.check_results, *(other.check_results for other in others), strict=True):
        checks.append(next((check for check in alike if not check.passed), alike[0]))
    return first._replace(check_results=checks)


def scores_for(method: Method) -> list[dg.AssetKey]:
    """The passes whose columns a credit method reads."""
    needed = set(scored_by(method))
    return [dg.AssetKey(["score", what]) for what, names in PASSES.items() if needed & set(names)]


critics = [critic_asset(kind) for kind in KINDS]
scores = [score_asset(what) for what in PASSES]

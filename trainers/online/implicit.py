"""Rows on which an implicit reward model takes its step: what its loss says of every token of a round's attempts.

The loss is one of whole attempts, but its derivative by a token's log-probability is a number an attempt. So the step
is that of a policy gradient without a ratio whose advantages are minus these numbers, and the policy's own update
takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.credit import METHODS
from pipeline.credit.columns import Trees
from pipeline.credit.implicit_prm import ImplicitPrmParams
from pipeline.credit.oprl import OprlParams, preference_pairs, step_rewards, trajectory_scores
from pipeline.credit.ragged import row_sums
from pipeline.credit.spoken import spoken
from pipeline.credit.tables import trees_from_nodes
from pipeline.credit.token_rows import known_throughout, token_rows
from pipeline.stages.credit import batches, read_params
from pipeline.stages.work import Work
from trainers.online.recipe import OnlineRecipe


class Slopes(NamedTuple):
    """Of `M` attempts of some whole tasks.

    ends:   `[M]` int64, rows of the nodes that end them.
    slopes: `[M]` float64, derivative of the sum of the losses by the log-probability of any token of the attempt.
    losses: `[K]` float64, nats: a pair each, or an attempt each.
    right:  `[K]` bool, told the right way round.
    scores: `[M]` float64, of the attempts, reward units.
    """

    ends: np.ndarray
    slopes: np.ndarray
    losses: np.ndarray
    right: np.ndarray
    scores: np.ndarray


def preference_slopes(trees: Trees, params: OprlParams) -> Slopes:
    """Every success of a task against every failure, by the model's log-ratio to the policy that sampled.

    Args:
        trees: as `oprl_credit` takes them.
        params: the same.

    Source: OPRL (2025), as `pipeline.credit.oprl.prm_loss`.
    """
    policy, model = trees.given["logprobs"], trees.given["prm_logprobs"]
    sampled = ~np.isnan(policy)
    found = known_throughout(trees, spoken(trees, judged=True), "prm_logprobs", counted=sampled)
    ratios = token_rows(trees, found, counted=sampled).by_step(model - policy)
    scores = trajectory_scores(step_rewards(ratios, params=params).raw, found.paths.offsets, params=params)
    pairs = preference_pairs(trees.reward[found.ends], found.tasks, params=params)
    losses = np.logaddexp(0.0, scores[pairs.loser] - scores[pairs.winner])
    wrong, count = -np.expm1(-losses), len(scores)
    by_score = np.bincount(pairs.loser, wrong, count) - np.bincount(pairs.winner, wrong, count)
    shares = np.maximum(np.diff(found.paths.offsets), 1) if params.score == "mean" else 1
    right = scores[pairs.winner] > scores[pairs.loser]
    return Slopes(found.ends, by_score * params.beta / shares, losses, right, scores)


def outcome_slopes(trees: Trees, params: ImplicitPrmParams) -> Slopes:
    """The outcome of an attempt against the model's log-ratio to the reference.

    Args:
        trees: as `implicit_prm_credit` takes them.
        params: the same.

    Source: PRIME (Cui et al., 2025), as `pipeline.credit.implicit_prm.implicit_prm`.
    """
    found = known_throughout(trees, spoken(trees, judged=True), "prm_logprobs", "reference_logprobs")
    ratios = token_rows(trees, found).of(trees.given["prm_logprobs"] - trees.given["reference_logprobs"])
    scores = params.beta_train * row_sums(ratios.values, ratios.offsets)
    outcomes = trees.reward[found.ends]
    losses = np.logaddexp(0.0, scores) - outcomes * scores
    slopes = params.beta_train * (0.5 * (1 + np.tanh(scores / 2)) - outcomes)
    return Slopes(found.ends, slopes, losses, (scores > 0) == (outcomes > 0.5), scores)


LEARNT: dict[str, Callable[[Trees, Any], Slopes]] = {"oprl": preference_slopes, "implicit_prm": outcome_slopes}
"""What an implicit reward model learns from a round, by credit method."""


def taught_rows(work: Work, rows: pl.DataFrame, *, method: str, params: str) -> tuple[pl.DataFrame, dict[str, float]]:
    """Rows of a round as the implicit reward model learns them.

    Args:
        work: surroundings of the round.
        rows: of its `rl_samples`.
        method: key of LEARNT.
        params: of it, as JSON.

    Returns:
        The same rows, their advantages such that `loss_recipe` takes a step of the mean loss; and of the model before
        it: prm_loss (nats), prm_accuracy (share told right), step_score (mean score of an attempt); none of these
        where there is nothing to compare.
    """
    keys, found = [], []
    for nodes, slopes in _each(work, method, read_params(method, params)):
        ends = nodes.select(pl.col("tree").cast(pl.String), "node")[slopes.ends]
        keys.append(ends.with_columns(slope=pl.Series(slopes.slopes)))
        found.append(slopes)
    losses, right, scores = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("losses", "right", "scores")
    )
    numbers = {"step_score": float(scores.mean())} if len(scores) else {}
    if len(losses):
        numbers |= {"prm_loss": float(losses.mean()), "prm_accuracy": float(right.mean())}
    advantage = pl.col("slope").fill_null(0.0) * (-len(rows) / max(1, len(losses)))
    taught = rows.join(pl.concat(keys), on=["tree", "node"], how="left", maintain_order="left")
    each = taught.select(advantage.repeat_by(pl.col("answer_ids").list.len()).cast(rows.schema["advantages"]))
    return rows.with_columns(each.to_series().alias("advantages")), numbers


def loss_recipe(recipe: OnlineRecipe) -> OnlineRecipe:
    """The recipe of the step: one, over all rows; the sum of the tokens' losses over the number of rows."""
    plain = {"kl": "none", "kl_weight": 0.0, "entropy_weight": 0.0, "most_weight": 0.0, "whiten": False}
    whole = {"normalise": "constant", "constant": 1, "minibatch": 0, "epochs": 1, "idle": True, "most_norm": 10.0}
    every = {"most_probability": 0.0, "most_ratio": 0.0, "learning_rate": recipe.implicit_rate}
    return replace(recipe, loss="reinforce", **plain, **whole, **every)


def _each(work: Work, method: str, params: Any) -> Iterator[tuple[pl.DataFrame, Slopes]]:
    """Nodes of whole tasks with what is learnt from them."""
    one = METHODS[method]
    for shard in work.shards():
        for batch in batches(work, one, shard):
            nodes = batch.nodes.sort("tree", "node")
            trees = trees_from_nodes(
                nodes, batch.verdicts, needs=one.needs, judged=one.judged, labels=batch.labels, scores=batch.scores
            )
            yield nodes, LEARNT[method](trees, params)

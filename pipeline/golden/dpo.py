"""Vectors of DPO, its kin and TDPO: losses, implicit rewards and what trainers log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.credit.ragged import ragged, require_same_rows, row_sums
from pipeline.metrics.preference import Preference, PreferenceParams, Side, dpo, mean_known, reward_metrics, tdpo

_OPTIONS = ("loss_type", "beta", "label_smoothing", "alpha")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of every pair, and their means. A Step-DPO case is one pair behind a shared prefix."""
    options = PreferenceParams(**{name: params[name] for name in _OPTIONS if name in params})
    if options.loss_type == "step_dpo" and "chosen_step" in given:
        return _step(options, given)
    if options.loss_type.startswith("tdpo"):
        return _figures(tdpo(_summed(given, "chosen"), _summed(given, "rejected"), options), options)
    pairs = given["pairs"]
    return _figures(dpo(side(pairs, "chosen"), side(pairs, "rejected"), options), options)


def side(pairs: Sequence[Mapping[str, Any]], name: str, *, shared: Sequence[int] | None = None) -> Side:
    """One side of some pairs as columns; behind `shared` untrained tokens of unknown probability, where given."""
    before = shared or [0] * len(pairs)
    columns = {}
    for key in ("logprobs_policy", "logprobs_reference"):
        rows = [[None] * count + list(pair[name].get(key) or []) for pair, count in zip(pairs, before)]
        columns[key] = ragged(rows)
    policy, reference = columns["logprobs_policy"], columns["logprobs_reference"]
    trained = [[0] * count + [1] * len(pair[name]["logprobs_policy"]) for pair, count in zip(pairs, before)]
    absent = all(pair[name].get("logprobs_reference") is None for pair in pairs)
    if not absent:
        require_same_rows(policy.offsets, reference.offsets, names=("the policy", "the reference"))
    return Side(
        policy=policy.values,
        offsets=policy.offsets,
        reference=None if absent else reference.values,
        trained=ragged(trained).values.astype(bool),
    )


def _step(options: PreferenceParams, given: Mapping[str, Any]) -> dict[str, Any]:
    count = int(given.get("shared_prefix", {}).get("n_tokens", 0))
    pair = [{"chosen": given["chosen_step"], "rejected": given["rejected_step"]}]
    sides = [side(pair, name, shared=[count]) for name in ("chosen", "rejected")]
    found = dpo(*sides, options)
    return _figures(found, options) | {
        "margin": (found.rewards_chosen - found.rewards_rejected)[0],
        "prefix_tokens_in_loss": int(sum(one.trained[:count].sum() for one in sides)),
    }


def _summed(given: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-ratio and KL of each response: given as sums, or token by token."""
    if "pairs" not in given:
        return tuple(np.array(given[f"{name}_{key}"], np.float64) for key in ("logratio_sum", "sequential_kl"))
    kl = ragged([pair[name]["position_kl"] for pair in given["pairs"]])
    return side(given["pairs"], name).ratios(), row_sums(*kl)


def _figures(found: Preference, options: PreferenceParams) -> dict[str, Any]:
    return {
        "per_pair_loss": found.loss,
        "loss": mean_known(found.loss),
        "rewards_chosen": found.rewards_chosen,
        "rewards_rejected": found.rewards_rejected,
        "metrics": reward_metrics(found, beta=options.strength),
    }

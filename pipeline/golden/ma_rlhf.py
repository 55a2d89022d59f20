"""Vectors of MA-RLHF: one response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.ma_rlhf import MaRlhfParams, ma_rlhf, macro_actions, policy_loss, token_rewards, value_loss
from pipeline.credit.ragged import Ragged, ragged
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(MaRlhfParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of its macro actions and tokens."""
    renamed = {"lam" if name == "lambda" else name: value for name, value in params.items()}
    options = MaRlhfParams(**chosen(renamed, *_PARAMS))
    old, rewards = ragged([given.get("logprobs_old", [])]), np.array(given.get("rewards", []), np.float64)
    if "rewards" not in given:
        rewards = token_rewards(
            old, ragged([given["logprobs_reference"]]), np.array([given["score"]], np.float64), options
        )
    macros = macro_actions(
        np.array([len(rewards)]), options, perplexities=_perplexities(given), keys=np.zeros(1, np.int64)
    )
    values = np.array(given["values"], np.float64)
    found = ma_rlhf(values, rewards, macros, options)
    answers = {
        "boundaries": macros.boundaries,
        "macro_lengths": macros.lengths,
        "token_rewards": rewards,
        "macro_values": found.values,
        "macro_rewards": found.rewards,
        "macro_advantages": found.advantages,
        "macro_returns": found.returns,
        "token_advantages": found.token_advantages,
    }
    if "logprobs_new" in given:
        new = np.array(given["logprobs_new"], np.float64)
        answers["policy_loss"] = policy_loss(new, old.values, found.token_advantages, clip=options.clip)
    if "values_new" in given:
        new = np.array(given["values_new"], np.float64)
        answers["value_loss"] = value_loss(new, values, found.token_returns, clip=options.clip)
    return answers


def _perplexities(given: Mapping[str, Any]) -> Ragged | None:
    """Of the tokens, as they are given or by the reference; None where neither is known."""
    if given.get("token_ppl") is not None:
        return ragged([given["token_ppl"]])
    if given.get("logprobs_reference") is None:
        return None
    reference = ragged([given["logprobs_reference"]])
    return Ragged(np.exp(-reference.values), reference.offsets)

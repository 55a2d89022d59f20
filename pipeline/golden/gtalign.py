"""Vectors of GTAlign: rewards and payoffs by reply, normalised by source of data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any

import numpy as np

from pipeline.credit.gtalign import GTAlignParams, gtalign, normalised_by_source, read_replies
from pipeline.credit.payoff import (
    CELLS,
    PriceShift,
    best_product_cells,
    pareto_cells,
    shifted_payoff,
    welfare_actions,
)
from pipeline.golden.forest import turns


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A node is a reply; the matrix at other prices is given where there are some and the reply has a matrix."""
    options = GTAlignParams(epsilon=params.get("epsilon", 1e-4))
    found = turns(given["nodes"])
    replies = read_replies([str(node.get("text") or "") for node in found.nodes])
    verdicts = found.column("judge_accuracy", 0.0)
    credit = gtalign(replies, verdicts, harmful=found.column("harmful", False, bool), params=options)
    names = [str(node.get("data_source") or "") for node in found.nodes]
    sources = np.array([sorted(set(names)).index(name) for name in names], dtype=np.int64)
    chosen = {"pareto_keys": pareto_cells(replies.payoff), "best_product_keys": best_product_cells(replies.payoff)}
    said = {
        "format": found.by_id(replies.well_formed.astype(np.float64)),
        "payoff_spread": found.by_id(credit.spread),
        "user_reward": found.by_id(credit.user),
        "llm_reward": found.by_id(credit.llm),
        "reward": found.by_id(credit.reward),
        "reward_gap": found.by_id(credit.gap),
        "linear_reward": found.by_id(credit.linear),
        "zscore_by_source": found.by_id(normalised_by_source(credit.reward, sources, options)),
    }
    for name, kept in chosen.items():
        said[name] = found.by_id([list(compress(CELLS, row)) for row in kept & replies.scored[:, None]])
    prices = params.get("price_shift")
    if prices is not None:
        shift = PriceShift(llm=prices.get("scale_llm") or 0.0, user=prices.get("scale_user") or 0.0)
        shifted = {
            name: shifted_payoff(payoff, shift)
            for name, payoff in zip(found.ids, replies.payoffs, strict=True)
            if payoff is not None
        }
        said["transformed_payoff"] = {
            name: {"payoff": payoff, "actions": welfare_actions(payoff)} for name, payoff in shifted.items()
        }
    return said

"""Vectors of SPO-chain: one response, and what the continuations from its cuts earned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.ragged import ragged
from pipeline.credit.spo_chain import SpoChainParams, cut_points, cut_values, spo_chain
from pipeline.golden.nodes import chosen, numbers


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Cuts and their values, and every token's."""
    options = SpoChainParams(**chosen(params, "rho", "cutpoint_interval", "mc_samples", "unfinished_penalty"))
    steps = [node for node in given["nodes"] if node["parent"] is not None]
    logprobs = ragged(node.get("logprobs") or () for node in steps).values
    offsets = np.array([0, len(logprobs)])
    cuts = cut_points(logprobs, offsets, options)
    drawn = ragged((given.get("mc_rewards_by_cutpoint") or {}).get(str(cut)) or () for cut in cuts.tokens)
    members = np.repeat(np.arange(len(cuts.tokens)), np.diff(drawn.offsets))
    values = cut_values(drawn.values, members, count=len(cuts.tokens), params=options)
    found = spo_chain(logprobs, offsets, scores=numbers(steps, "reward")[-1:], values=values, params=options)
    return {
        "cutpoints": cuts.tokens,
        "cutpoint_values": values,
        "token_values": found.values,
        "token_advantages": found.advantages,
        "loss_mask": found.loss_mask,
        "segments": [
            {"start_token": start, "end_token": end, "value_start": before, "value_end": after}
            for _, start, end, before, after in zip(*found.segments, strict=True)
        ],
    }

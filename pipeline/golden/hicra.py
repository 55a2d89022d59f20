"""Vectors of HICRA: the tokens of a group, the mining of phrases, or their entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.hicra import HicraParams, hicra
from pipeline.credit.ragged import split
from pipeline.credit.strategic_grams import GramMatcher, mine_grams, semantic_entropy
from pipeline.errors import BadConfig
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(HicraParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the word `op` asks for; without one, credit."""
    match params.get("op"):
        case None:
            return _credit(HicraParams(**chosen(params, *_PARAMS)), given)
        case "mine":
            mined = mine_grams(given["solutions"], given["clusters"], top_fraction=params.get("top_fraction", 0.2))
            return {
                "cluster_document_frequency": mined.frequencies,
                "kept_clusters": mined.kept,
                "strategic_grams": mined.grams,
            }
        case "semantic_entropy":
            return {"entropy": semantic_entropy(np.array(list(given["gram_counts"].values()), np.float64))}
        case other:
            raise BadConfig(
                f"hicra op {other!r} is not known", remedy="use 'mine' or 'semantic_entropy', or leave it out"
            )


def _credit(options: HicraParams, given: Mapping[str, Any]) -> dict[str, Any]:
    group, matcher = given["group"], GramMatcher(given["strategic_grams"])
    names = [one["trajectory_id"] for one in group]
    masks = [matcher.mask(one["tokens"]) for one in group]
    offsets = np.cumsum([0, *map(len, masks)])
    found = hicra(
        np.array([one["reward"] for one in group], np.float64),
        np.zeros(len(group), np.int64),
        planning=np.concatenate(masks),
        offsets=offsets,
        params=options,
    )
    return {
        "base_advantage": dict(zip(names, found.base, strict=True)),
        "planning_mask": {name: mask.astype(np.int64) for name, mask in zip(names, masks, strict=True)},
        "token_advantages": dict(zip(names, split(found.token_advantages, offsets), strict=True)),
    }

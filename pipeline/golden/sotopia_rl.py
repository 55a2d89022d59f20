"""Vectors of Sotopia-RL: rewards of one speaker's utterances under several attributions, and their combination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.credit.sotopia_rl import RANGES, Dimension, SotopiaRLParams, combine, utterance_rewards
from pipeline.golden.forest import turns

SPEAKER = "p0"


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By dimension and utterance; what names a goal is of the dimension listed first."""
    found = turns(
        [node for node in given["nodes"] if node["parent"] is None or (node.get("agent") or SPEAKER) == SPEAKER]
    )
    names, offsets = list(given["episode_scores"]), found.offsets
    ranges, weights = params.get("ranges") or {}, params.get("weights") or dict.fromkeys(names, 1 / max(1, len(names)))
    options = SotopiaRLParams(scale=params.get("scale", "default"), discount=params.get("discount", 0.9))
    said = [node.get("attribution") or {} for node in found.nodes]
    attributions = np.array([[one.get(name, np.nan) for one in said] for name in names], dtype=np.float64)
    attributions = attributions.reshape(len(names), len(said))
    scores = np.array([given["episode_scores"][name] for name in names], dtype=np.float64)
    scores = np.repeat(scores[:, None], len(found.trajectories), axis=1)
    place = np.arange(len(said)) - np.repeat(offsets[:-1], np.diff(offsets))
    marks = np.repeat(np.isin(place, params.get("key_turns") or [])[None], len(names), axis=0).astype(np.float64)

    def rewards(attribution: str, annotated: np.ndarray) -> np.ndarray:
        return utterance_rewards(annotated, scores, offsets=offsets, params=replace(options, attribution=attribution))

    direct = rewards("direct", attributions)
    extremes = {name: (row.min(), row.max()) for name, row in zip(names, direct, strict=True) if len(said)}
    bounds = extremes | RANGES | {name: tuple(one) for name, one in ranges.items() if one}
    combined = tuple(Dimension(name, *bounds[name], weights.get(name, 0)) for name in names if name in bounds)
    by_dimension = {"per_dimension": direct, "sum_normalised": rewards("sum_normalised", attributions)}
    of_first = {"discounted_goal": rewards("discounting", marks), "key_utterance_goal": rewards("key_utterance", marks)}
    return {
        name: {dimension: found.by_id(row) for dimension, row in zip(names, rows, strict=True)}
        for name, rows in by_dimension.items()
    } | {
        "combined": found.by_id(combine(direct, replace(options, dimensions=combined))),
        **{name: found.by_id(rows[0]) for name, rows in of_first.items() if names},
    }

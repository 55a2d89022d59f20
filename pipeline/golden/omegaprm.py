"""Vectors of OmegaPRM: candidates to select from, or a wrong solution to halve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.omegaprm import OmegaprmParams, locate, priorities, select
from pipeline.golden.nodes import chosen, links, numbers


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of the candidates in the pool and which is selected; or where the solution goes wrong."""
    if "candidates" in given:
        length = {"length": params["L"]} if params.get("L") is not None else {}
        return _selection(OmegaprmParams(**chosen(params, "alpha", "beta", "c_puct"), **length), given)
    nodes = given["nodes"]
    quality = numbers(nodes, "mc")[np.argsort(links(nodes).depth)]
    found = locate(np.array([len(quality)]), lambda _, lengths: quality[lengths - 1])
    return {
        "probed_prefix_lengths": found.lengths,
        "first_error_step": int(found.first_error[0]) or None,
        "n_probes": len(found.lengths),
        "labels": {str(length): mc for length, mc in sorted(zip(found.lengths.tolist(), found.mc, strict=True))},
    }


def _selection(options: OmegaprmParams, given: Mapping[str, Any]) -> dict[str, Any]:
    candidates, counts = given["candidates"], given.get("visits") or {}
    states = {name: place for place, name in enumerate(dict.fromkeys([*counts, *(one["state"] for one in candidates)]))}
    found = priorities(
        numbers(candidates, "mc"),
        numbers(candidates, "rollout_len"),
        states=np.array([states[one["state"]] for one in candidates], np.int64),
        visits=np.array([counts.get(name) or 0 for name in states], np.int64),
        params=options,
    )
    rows = zip(found.q, found.u, found.score, strict=True)
    scores = [dict(zip(("Q", "U", "score"), row, strict=True)) for row in rows]
    best = select(found.score)
    return {
        "scores": {one["id"]: row for one, row in zip(candidates, scores, strict=True) if not np.isnan(row["score"])},
        "selected": candidates[best]["id"] if best >= 0 else None,
    }

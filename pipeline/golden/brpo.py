"""Vectors of BRPO: thinking nodes by their place on the trace, summaries by their budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.brpo import BrpoParams, mean_scores, summary_advantages, thinking_advantages
from pipeline.golden.nodes import by_id, chosen, links, numbers

_PARAMS = ("budgets", "budget_probs", "prior", "n_summary", "variance_reduction", "summary_method", "discount")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Thinking by node, summaries by node; a summary without a reward is wrong."""
    options = BrpoParams(**chosen(params, *_PARAMS))
    nodes, way = given["nodes"], links(given["nodes"])
    kinds = [node.get("kind") for node in nodes]
    trace, segment, traces = np.full(len(nodes), -1), np.full(len(nodes), -1), []
    for row in np.argsort(way.depth, kind="stable")[np.count_nonzero(way.depth == 0) :]:
        above = way.parent[row]
        if trace[above] < 0:
            traces.append(way.root[row])
        trace[row] = trace[above] if trace[above] >= 0 else len(traces) - 1
        segment[row] = segment[above] + (kinds[row] == "think")
    groups = np.unique(np.array(traces, np.int64), return_inverse=True)[1]
    asked = np.flatnonzero([kind == "summary" for kind in kinds])
    scores, at = numbers(nodes, "reward", 0.0)[asked], numbers(nodes, "budget_index", 0)[asked].astype(np.int64)
    quality = mean_scores(scores, trace[asked], at, count=len(traces), params=options)
    found = thinking_advantages(quality, groups, options)
    summaries = summary_advantages(scores, trace[asked], at, nodes=way.parent[asked], groups=groups, params=options)
    thinks = np.array([kind == "think" for kind in kinds]) & (segment < len(options.budgets))

    def by_segment(values: np.ndarray) -> dict[str, Any]:
        return by_id([nodes[row] for row in np.flatnonzero(thinks)], values[trace[thinks], segment[thinks]])

    return {
        "thinking_segment_return": by_segment(found.returns),
        "baseline_v1_same_trace": by_segment(found.baseline_v1),
        "baseline_v2_group": by_segment(found.baseline_v2),
        "thinking_segment_advantage": by_segment(found.advantage),
        "summary_advantage": by_id([nodes[row] for row in asked], summaries),
    }

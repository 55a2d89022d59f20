"""Vectors of GroundedPRM: a rollout and what it leaves in the tree, or a path and its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from pipeline.credit.groundedprm import (
    GroundedprmParams,
    backpropagate,
    find_markers,
    judge_texts,
    label_paths,
    rollout_rewards,
)
from pipeline.golden.nodes import by_id, chosen, links, numbers

_VALUES = ("decay", "step_true", "step_false", "final_true", "final_false")


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Labels where there are steps. Labels follow the code, which is not strict, unless a case says so."""
    if "steps" in given:
        return _labels(GroundedprmParams(strict=bool(params.get("strict"))), given)
    return _rollout(GroundedprmParams(**chosen(params, *_VALUES)), given)


def _labels(options: GroundedprmParams, given: Mapping[str, Any]) -> dict[str, Any]:
    steps = given["steps"]
    texts = pl.Series([step.get("verdict_text") or "" for step in steps], dtype=pl.String)
    found = label_paths(
        numbers(steps, "value"),
        find_markers(texts),
        np.array([0, len(steps)]),
        positive=np.array([given["outcome_label"] == "positive"]),
        params=options,
    )
    if not found.kept[0]:
        return {"kept": False}
    return {
        "kept": True,
        "labels": found.labels[found.used],
        "judge_text": judge_texts(texts.filter(found.used)).to_list(),
    }


def _rollout(options: GroundedprmParams, given: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout that earned nothing did not reach the answer."""
    nodes, way = given["nodes"], links(given["nodes"])
    expanded = next(row for row, node in enumerate(nodes) if node["id"] == given["expanded_node"])
    simulated = np.array([node.get("origin") == "simulation" for node in nodes])
    chain, above = [], expanded
    for row in np.argsort(way.depth, kind="stable"):
        if simulated[row] and way.parent[row] == above:
            chain.append(row)
            above = row
    outcome = numbers(nodes, "reward", options.final_false)[[above]]
    verdicts = numbers(nodes, "step_verdict")[chain]
    earned = rollout_rewards(verdicts, np.array([0, len(chain)]), outcome)
    backed = backpropagate(
        way.parent,
        value=numbers(nodes, "value_before", 0.0),
        visits=numbers(nodes, "visits_before", 0.0),
        expanded=np.array([expanded]),
        rewards=earned,
        params=options,
    )
    return {
        "rollout_reward": earned[0],
        "value_after": by_id(nodes, backed.value, ~simulated),
        "visits_after": by_id(nodes, backed.visits, ~simulated),
    }

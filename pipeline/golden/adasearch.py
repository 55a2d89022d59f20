"""Vectors of AdaSearch: labels and rewards by question, and how well a set of runs knew what it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.adasearch import DECISIONS, UNPARSED, AdaSearchParams, adasearch, label_questions
from pipeline.credit.ragged import row_sums
from pipeline.golden.forest import Node, turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(AdaSearchParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Questions without a label, or without a run, are left out."""
    options = AdaSearchParams(**chosen(params, *_PARAMS))
    found = turns(given["nodes"])
    steps = [found.nodes[start:end] for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    modes = np.array([next((step["mode"] for step in some if step.get("mode")), "") for some in steps], dtype=str)
    closed, adaptive = modes == "parametric", modes == "adaptive"
    rewards = row_sums(found.column("reward", 0.0), found.offsets)
    labels = label_questions(rewards[closed], found.groups[closed], count=len(found.tasks), params=options)
    decisions = np.array([_decision(some) for some in steps], dtype=np.int64)
    aware = adasearch(decisions[adaptive], found.groups[adaptive], labels.label, options)
    return {
        "parametric_accuracy": _known(found.by_task(labels.accuracy)),
        "label": {task: DECISIONS[code] for task, code in found.by_task(labels.label).items() if code >= 0},
        "decision_reward": _known(found.by_task(aware.decision_reward)),
        "counts": {
            "TP": aware.true_positive,
            "FP": aware.false_positive,
            "FN": aware.false_negative,
            "TN": aware.true_negative,
        },
        "precision": aware.precision,
        "recall": aware.recall,
        "f1_aware": aware.f1,
        "search_rate": aware.search_rate,
    }


def _known(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not np.isnan(value)}


def _decision(steps: Sequence[Node]) -> int:
    """The first decision that a run states; else what it did."""
    stated = [step["decision"] for step in steps if step.get("decision") is not None]
    if stated:
        return DECISIONS.index(stated[0]) if stated[0] in DECISIONS else UNPARSED
    searched = any(call.get("name") == "search" for step in steps for call in step.get("tool_calls") or ())
    return DECISIONS.index("search" if searched else "no_search")

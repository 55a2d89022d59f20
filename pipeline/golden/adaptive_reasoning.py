"""Vectors of adaptive deep reasoning: one prompt, or several, each then by its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.adaptive_reasoning import AdaptiveReasoningParams, adaptive_reasoning, switch_losses
from pipeline.golden.nodes import by_id, chosen, links, numbers

_PARAMS = tuple(field.name for field in fields(AdaptiveReasoningParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards by trajectory, the rest by prompt; a trajectory without a verdict is wrong."""
    options = AdaptiveReasoningParams(**chosen(params, *_PARAMS))
    nodes, way = given["nodes"], links(given["nodes"])
    own = [node for node in nodes if node["parent"] is not None]
    roots, groups = np.unique(way.root, return_inverse=True)
    found = adaptive_reasoning(
        numbers(own, "correct", 0.0),
        groups[way.parent >= 0],
        long=np.array([node["kind"] == "long" for node in own], dtype=bool),
        lengths=numbers(own, "n_tokens", 0.0),
        count=len(roots),
        params=options,
    )
    logits = given.get("first_token_logits") or {}
    tasks = [nodes[row].get("task", nodes[row]["id"]) for row in roots]
    by_task = [logits.get(task) or {} for task in tasks] if len(roots) > 1 else [logits]
    losses = switch_losses(numbers(by_task, "short"), numbers(by_task, "long"), found.simple, options)
    parts = zip(found.mode_reward, found.length_penalty, found.total, strict=True)
    rewards = [dict(zip(("mode_reward", "length_penalty", "total"), row, strict=True)) for row in parts]
    by_prompt = {
        "accuracy_short": found.accuracy_short,
        "accuracy_long": found.accuracy_long,
        "prompt_is_simple": found.simple,
        "switch_target": ["short" if simple else "long" for simple in found.simple],
    }
    told = {name: values[0] if len(roots) == 1 else dict(zip(tasks, values)) for name, values in by_prompt.items()}
    return told | {"rewards": by_id(own, rewards), "switch_loss": losses.mean()}

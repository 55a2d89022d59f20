"""Vectors of TEMPO: token advantages, and the mean reward of every distinct prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.tempo import TempoParams, prefix_values, tempo
from pipeline.golden.forest import forest
from pipeline.golden.nodes import chosen


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By leaf and by task."""
    found = forest(given["nodes"], unfinished=params.get("unfinished_penalty") or 0.0)
    trees, ids = found.trees, found.ids
    options = TempoParams(**chosen(params, "normalize_by_std", "eps", "ddof"))
    advantages = tempo(trees, options).token_advantages
    offsets, ends = trees.token_offsets, found.ends()
    paths = trees.paths(ends)
    responses = [
        np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in paths.nodes[start:end]])
        for start, end in zip(paths.offsets[:-1], paths.offsets[1:], strict=True)
    ]
    tokens = trees.tokens[np.concatenate(responses)] if responses else trees.tokens[:0]
    starts = np.cumsum([0, *map(len, responses)])
    values = prefix_values(tokens, starts, groups=trees.tree[ends], rewards=trees.reward[ends])
    tasks = [node.get("task", "") for node in found.nodes if node["parent"] is None]
    by_task: dict[str, dict[str, float]] = {task: {} for task in tasks}
    for code, task in enumerate(tasks):
        rewards = trees.reward[ends][trees.tree[ends] == code]
        by_task[task][""] = rewards.mean() if len(rewards) else np.nan
    for end, start, places in zip(ends, starts, responses, strict=False):
        said = [str(token) for token in trees.tokens[places].tolist()]
        task = tasks[trees.tree[end]]
        by_task[task] |= {",".join(said[: place + 1]): values[start + place] for place in range(len(said))}
    return {
        "token_advantages": {ids[end]: advantages[places] for end, places in zip(ends, responses, strict=True)},
        "prefix_values": by_task,
    }

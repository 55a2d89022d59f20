"""Vectors of MatchTIR: rewards of turns and trajectories, and advantages, under every assignment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import polars as pl

from pipeline.credit.matchtir import MatchtirParams, answer_f1, turn_advantages, turn_rewards
from pipeline.credit.tool_calls import Call, call_columns
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_BLOCKS = {"greedy": "greedy", "optimal": "optimal", "ot": "soft"}
_PARAMS = tuple(field.name for field in fields(MatchtirParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A block an assignment."""
    found = turns(given["nodes"])
    of_task = [(given.get("references") or {}).get(task) or {} for task in found.tasks]
    wanted = [task.get("reference_tool_calls") or [] for task in of_task]
    made = [node.get("tool_calls") or [] for node in found.nodes]
    calls, references = call_columns(
        [Call(call.get("name"), call.get("arguments")) for turn in made for call in turn],
        [Call(call.get("name"), call.get("parameters")) for task in wanted for call in task],
    )
    tasks = np.repeat(found.groups, np.diff(found.offsets)).tolist()
    scores = answer_f1(
        _texts(node.get("answer") for node in found.nodes),
        _texts(of_task[task].get("reference_answer") for task in tasks),
    )
    blocks = {}
    for block, assignment in _BLOCKS.items():
        options = MatchtirParams(**{**chosen(params, *_PARAMS), "assignment": assignment})
        rewards = turn_rewards(
            calls,
            np.repeat(np.arange(len(made)), [len(turn) for turn in made]),
            offsets=found.offsets,
            tasks=found.groups,
            references=references,
            reference_offsets=np.cumsum([0, *map(len, wanted)], dtype=np.int64),
            answer_scores=scores,
            params=options,
        )
        advantages = turn_advantages(rewards.turn, found.offsets, tasks=found.groups, params=options)
        blocks[block] = {
            "turn_reward": found.by_id(rewards.turn),
            "advantage": found.by_id(advantages.advantage),
            "trajectory_reward": found.by_trajectory(advantages.trajectory_reward),
        }
    return blocks


def _texts(values: Iterable[Any]) -> pl.Series:
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)

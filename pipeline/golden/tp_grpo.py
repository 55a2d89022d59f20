"""Vectors of TP-GRPO: the solutions of one group, their thoughts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.credit.ragged import Ragged, ragged
from pipeline.credit.tp_grpo import LABELS, ThoughtCredit, TpGrpoParams, tp_grpo
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(TpGrpoParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By solution."""
    group = given["group"]
    labels = ragged(([LABELS.index(label) for label in one["step_labels"]] for one in group), np.int64)
    found = tp_grpo(
        labels.values,
        labels.offsets,
        correct=np.array([one["correct"] for one in group], bool),
        groups=np.zeros(len(group), np.int64),
        params=TpGrpoParams(**chosen(params, *_PARAMS)),
    )
    names = [one["trajectory_id"] for one in group]
    return {
        "acc_group": found.accuracy[0],
        "r_c": found.process[0],
        "trajectories": {name: _solution(group[row], labels, found, row) for row, name in enumerate(names)},
    }


def _solution(one: Mapping[str, Any], labels: Ragged, found: ThoughtCredit, row: int) -> dict[str, Any]:
    span = slice(*labels.offsets[row : row + 2].tolist())
    thoughts, advantages, said = found.thoughts[span].tolist(), found.advantages[span], one["step_labels"]
    runs = [list(run) for _, run in groupby(range(len(said)), key=thoughts.__getitem__)]
    for_it, against_it = LABELS[:2] if one["correct"] else LABELS[2:]
    return {
        "outcome_advantage": found.outcome[row],
        "thoughts": [{"label": said[run[0]], "steps": run, "advantage": advantages[run[0]]} for run in runs],
        "answer_advantage": found.outcome[row],
        "step_advantages": advantages,
        "unit_reward": {for_it: found.unit_rewards[row], against_it: -found.unit_rewards[row]},
    }

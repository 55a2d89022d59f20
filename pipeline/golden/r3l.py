"""Vectors of R3L: group and step-wise advantages, pivot masks, reflections, records and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.builders.r3l import Episode, RecordParams, Trial, r3l_records
from pipeline.credit.r3l import (
    R3lParams,
    amplified_advantages,
    from_first_action,
    group_baselines,
    opmd_loss,
    pivot_masks,
    settle_pivots,
)
from pipeline.errors import BadConfig
from pipeline.variants.reflect import Reflection, read_reflection, validate_reflection

_OPTIONS = ("alpha", "max_reward", "max_reward_advantage", "baseline", "tau")
_REPORT_TOKENS = 3


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the operation of the case asks for.

    Raises:
        BadConfig: no such operation.
    """
    op = params["op"]
    if op not in _OPERATIONS:
        raise BadConfig(f"r3l operation {op!r} is not known", remedy=f"use one of {tuple(_OPERATIONS)}")
    return _OPERATIONS[op](params, given)


def _group_advantage(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    group = given["group"]
    ids = [one["trajectory_id"] for one in group]
    rows = {name: row for row, name in enumerate(ids)}
    masks = [_mask(one["steps"]) for one in group]
    offsets = np.cumsum([0, *map(len, masks)])
    pivots = np.array([-1 if one.get("pivot_turn") is None else int(one["pivot_turn"]) for one in group], int)
    sources = np.array([rows.get(one.get("source_trajectory_id"), -1) for one in group], int)
    kept = pivot_masks(np.concatenate([np.zeros(0, bool), *masks]), offsets, settle_pivots(pivots, sources))
    rewards, codes, options = _rewards(group), np.zeros(len(group), int), _options(params)
    scores = amplified_advantages(rewards, codes, options)
    baseline = group_baselines(rewards, codes, options)
    by_token = np.where(kept, np.repeat(scores, np.diff(offsets)), 0.0)
    return {
        "baseline": baseline[0] if len(group) else np.nan,
        "trajectory_scalar": dict(zip(ids, scores)),
        "action_mask": dict(zip(ids, np.split(kept.astype(int), offsets[1:-1]))),
        "token_advantages": dict(zip(ids, np.split(by_token, offsets[1:-1]))),
    }


def _pivot_mask(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    mask = _mask(given["steps"])
    pivot = np.array([int(given.get("pivot_turn") or 0)])
    return {"action_mask": pivot_masks(mask, np.array([0, len(mask)]), pivot).astype(int)}


def _validate_reflection(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    found = _read(given["reflection"], steps=given["n_turns"])
    return {"is_valid": found.valid, "is_perfect": found.perfect, "retry_from_step": found.pivot}


def _emit_records(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    named = {"repeat_times": params["repeat_times"]} if "repeat_times" in params else {}
    domain = params.get("domain", "interactive")
    options = RecordParams(domain="math" if "math" in domain or domain == "single_turn" else domain, **named)
    between = given.get("observation_tokens_between_turns", 0)
    trials = [
        Trial(
            base=_episode(one["base"], between),
            reflection=_read(one.get("reflection"), steps=_turns(one["base"])),
            retry=None if one.get("retry") is None else _episode(one["retry"], between),
            report_tokens=_REPORT_TOKENS,
        )
        for one in given["attempts"]
    ]
    records = r3l_records(given["task_id"], trials, options)
    named = ("kind", "group", "run", "reward")
    return {
        "records": [
            {name: getattr(record, name) for name in named} | {"action_mask": record.action_mask.astype(int)}
            for record in records
        ]
    }


def _stepwise(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    runs = given["runs"]
    tasks = list(dict.fromkeys(run.get("task_id") for run in runs))
    groups = np.array([tasks.index(run.get("task_id")) for run in runs], int)
    last = [run["steps"][-1] if run["steps"] and "reward" in run["steps"][-1] else run for run in runs]
    scores = amplified_advantages(_rewards(last), groups, _options(params))
    return {
        "token_advantages": {
            run["run_id"]: [[score] * int(step["n_tokens"]) for step in run["steps"]]
            for run, score in zip(runs, scores)
        },
        "trajectory_scalar": {run["run_id"]: score for run, score in zip(runs, scores)},
    }


def _opmd_loss(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    columns = [
        np.array([value for row in given[name] for value in row], np.float64)
        for name in ("logprobs", "advantages", "action_mask")
    ]
    offsets = np.cumsum([0, *map(len, given["logprobs"])])
    options = {name: params[name] for name in ("tau", "agg") if name in params}
    return {"loss": opmd_loss(*columns, offsets, **options)}


_OPERATIONS = {
    "group_advantage": _group_advantage,
    "pivot_mask": _pivot_mask,
    "validate_reflection": _validate_reflection,
    "emit_records": _emit_records,
    "stepwise_group_advantage": _stepwise,
    "opmd_loss": _opmd_loss,
}


def _options(params: Mapping[str, Any]) -> R3lParams:
    return R3lParams(**{name: params[name] for name in _OPTIONS if name in params})


def _rewards(some: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([one.get("reward") for one in some], np.float64)


def _mask(steps: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """From the first token of the assistant on."""
    wrote = [step["role"] == "assistant" for step in steps]
    return from_first_action(np.repeat(np.array(wrote, bool), [int(step["n_tokens"]) for step in steps]))


def _episode(one: Mapping[str, Any], between: int) -> Episode:
    spoken = [{"role": "assistant", "n_tokens": count} for count in one["assistant_turn_tokens"]]
    heard = {"role": "user", "n_tokens": between}
    steps = [step for turn in spoken for step in (turn, heard)][:-1]
    return Episode(float(np.array(one["reward"], np.float64)), _turns(one), _mask(steps))


def _turns(one: Mapping[str, Any]) -> int:
    return int(one.get("n_turns", len(one["assistant_turn_tokens"])))


def _read(reflection: Any, *, steps: int) -> Reflection:
    """A report as JSON, or the text it stands in."""
    if isinstance(reflection, str):
        return read_reflection(reflection, steps=steps)
    return validate_reflection(reflection, steps=steps)

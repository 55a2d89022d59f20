"""Vectors of CAPO: the votes, and the tokens of a group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.capo import CapoParams, Critiques, capo, parse_critique, wrong_steps
from pipeline.credit.ragged import ragged
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(CapoParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By trajectory, tokens by step."""
    options, group = CapoParams(**chosen(params, *_PARAMS)), given["group"]
    steps = ragged((one["step_tokens"] for one in group), np.int64)
    said = [(row, _steps(said)) for row, one in enumerate(group) for said in one.get("critiques") or []]
    flags = [(place, step) for place, (_, named) in enumerate(said) for step in named or []]
    critiques = Critiques(
        trajectory=np.array([row for row, _ in said], np.int64),
        valid=np.array([named is not None for _, named in said], bool),
        flag_critique=np.array([place for place, _ in flags], np.int64),
        flag_step=np.array([step for _, step in flags], np.int64),
    )
    found = capo(
        wrong_steps(critiques, steps.offsets, options.vote),
        steps.offsets,
        token_counts=steps.values,
        outcomes=np.array([one["outcome"] for one in group], np.float64),
        groups=np.zeros(len(group), np.int64),
        params=options,
    )
    spans = {one["trajectory_id"]: slice(*steps.offsets[row : row + 2].tolist()) for row, one in enumerate(group)}

    def tokens(values: np.ndarray) -> dict[str, Any]:
        """The value of each step, once a token."""
        return {
            name: [[value] * size for value, size in zip(values[span], steps.values[span].tolist(), strict=True)]
            for name, span in spans.items()
        }

    return {
        "wrong_steps": {name: np.flatnonzero(found.wrong[span]) for name, span in spans.items()},
        "token_rewards": tokens(found.rewards),
        "mean": found.mean[0],
        "std": found.std[0],
        "token_advantages": tokens(found.advantages),
    }


def _steps(critique: Any) -> list[int] | None:
    """The steps a critique names, given as a list, as an object or as text. None: it cannot be read."""
    if isinstance(critique, list):
        critique = {"wrong_steps": critique}
    return parse_critique(critique if isinstance(critique, str) else json.dumps(critique))

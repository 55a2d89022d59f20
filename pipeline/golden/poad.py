"""Vectors of POAD: tokens under the method, its flat baseline and its repository's third variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.poad import VARIANTS, PoadParams, poad
from pipeline.credit.ragged import ragged
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(PoadParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A block a variant; lists of tokens by step."""
    found = turns(given["nodes"])
    values = ragged(node.get("values") or [] for node in found.nodes)
    boots = given.get("bootstrap_value") or {}
    blocks = {}
    for variant in VARIANTS:
        tokens = poad(
            values,
            found.column("reward", 0.0),
            done=found.column("done", False, bool),
            segments=found.offsets,
            bootstrap=np.array([boots.get(found.tasks[group]) or 0.0 for group in found.groups.tolist()], np.float64),
            params=PoadParams(**{**chosen(params, *_PARAMS), "variant": variant}),
        )
        fields = {
            "token_advantage": tokens.advantage,
            "token_return": tokens.returns,
            "token_advantage_normalised": tokens.normalised,
        }
        blocks[variant.upper()] = {
            name: found.by_id(np.split(flat, values.offsets[1:-1]) if found.ids else [])
            for name, flat in fields.items()
        }
    return blocks

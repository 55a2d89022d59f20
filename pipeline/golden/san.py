"""Vectors of SAN: strata and advantages of trajectories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import polars as pl

from pipeline.credit.ragged import row_sums
from pipeline.credit.san import SanParams, find_searches, san, search_counts
from pipeline.credit.tool_calls import canonical
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(SanParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By trajectory."""
    found, options = turns(given["nodes"]), SanParams(**chosen(params, *_PARAMS))
    calls = pl.Series([json.dumps(node.get("tool_calls") or []) for node in found.nodes], dtype=pl.String)
    columns: dict[str, Any] = dict(search_counts(find_searches(calls), found.offsets))
    names = options.columns()
    values = [columns[name].tolist() if name in columns else found.last(name, None, object).tolist() for name in names]
    single = isinstance(options.stratum_key, str) and len(names) == 1
    strata = [stratum[0] if single else list(stratum) for stratum in zip(*values, strict=True)]
    codes: dict[Any, int] = {}
    coded = [codes.setdefault(canonical(stratum), len(codes)) for stratum in strata]
    by_trajectory = san(
        row_sums(found.column("reward", 0.0), found.offsets),
        tasks=found.groups,
        strata=np.array(coded, np.int64),
        params=options,
    )
    return {
        "stratum": found.by_trajectory(strata),
        "a_global": found.by_trajectory(by_trajectory.a_global),
        "a_san": found.by_trajectory(by_trajectory.a_san),
        "advantage": found.by_trajectory(by_trajectory.advantage),
        "bias_term": found.by_trajectory(by_trajectory.bias),
    }

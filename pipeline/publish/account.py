"""Finds out what only the store knows of a round: requests, their cost, what stages were made from, what stayed there.

Words nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import polars as pl

from pipeline.hygiene.report import COLUMNS, HygieneFacts, hygiene_facts
from pipeline.plan.measure import spent_by_task
from pipeline.publish.facts import AccountFacts, CostFacts, LeftFacts, RequestFacts, StageFacts
from pipeline.publish.source import Source
from schemas import TABLES

_LONGEST_INPUT = 80


def gather_account(source: Source) -> AccountFacts:
    """Of one round of a suite; what stayed behind is of the tables read from the source before."""
    requests = _requests(source)
    stages = tuple(dict.fromkeys(request.stage for request in requests))
    return AccountFacts(
        requests,
        tuple(_cost(source, stage) for stage in stages),
        tuple(_stages(source)),
        hygiene=_hygiene(source),
        policy=source.leaving.policy if source.leaving else "",
        left=tuple(_left(source)),
    )


def _hygiene(source: Source) -> HygieneFacts | None:
    rows = source.store.read("hygiene", source.places("hygiene"), columns=list(COLUMNS))
    return hygiene_facts([rows]) if rows.height else None


def _left(source: Source) -> Iterable[LeftFacts]:
    tally = source.leaving.tally if source.leaving else {}
    for table in TABLES:
        counts = [tally.get((table, what), 0) for what in ("withheld", "redacted", "tokens_withheld")]
        if any(counts):
            yield LeftFacts(table, *counts)


def _requests(source: Source) -> tuple[RequestFacts, ...]:
    key = ["stage", "engine", "policy", "sampling"]
    found = source.store.scan("requests", suite=source.suite, round=source.round).group_by(key)
    counted = found.agg(
        requests=pl.len(),
        failed=pl.col("error").count(),
        prompt_tokens=pl.col("prompt_tokens").cast(pl.Int64).sum(),
        decoded_tokens=pl.col("decoded_tokens").cast(pl.Int64).sum(),
    )
    return tuple(RequestFacts(**row) for row in counted.collect(engine="streaming").sort(key).iter_rows(named=True))


def _cost(source: Source, stage: str) -> CostFacts:
    spent = spent_by_task(source.store, source.suite, source.round, stages=[stage])
    total = {name: None if spent[name].null_count() else spent[name].sum() for name in spent.columns if name != "task"}
    return CostFacts(
        stage=stage,
        paid=total["requests"] - total["reused_requests"],
        reused=total["reused_requests"],
        prompt_tokens=total["prompt_tokens"],
        computed_tokens=None if total["computed_tokens"] is None else round(total["computed_tokens"]),
        decoded_tokens=total["decoded_tokens"],
        seconds=total["request_seconds"],
    )


def _stages(source: Source) -> Iterable[StageFacts]:
    """By stage; tables of one that were made from other things than the rest stand apart."""
    found: dict[str, list[StageFacts]] = {}
    for table in TABLES:
        rows: dict[str, int] = {}
        inputs: dict[str, dict[str, dict[str, None]]] = {}
        for place in source.places(table):
            entry = source.store.entry(table, place)
            rows[place.stage] = rows.get(place.stage, 0) + entry.rows
            for name, value in entry.inputs.items():
                inputs.setdefault(place.stage, {}).setdefault(name, {})[value] = None
        for stage, count in rows.items():
            shown = {name: _shown(values) for name, values in inputs.get(stage, {}).items()}
            alike = next((one for one in found.setdefault(stage, []) if one.inputs == shown), None)
            if alike is None:
                found[stage].append(StageFacts(stage, {table: count}, shown))
            else:
                alike.rows[table] = count
    return (one for some in found.values() for one in some)


def _shown(values: Iterable[str]) -> str:
    """An input as print: its one value, or a digest where shards differ or it is long. Never a path of this machine."""
    distinct = sorted(values)
    try:
        config = json.loads(distinct[0]) if len(distinct) == 1 else None
    except ValueError:
        config = None
    if isinstance(config, dict):
        return json.dumps(_without_paths(config), sort_keys=True) if config else ""
    if len(distinct) == 1 and len(distinct[0]) <= _LONGEST_INPUT:
        return _without_paths(distinct[0])
    return hashlib.sha256("\n".join(distinct).encode()).hexdigest()[:16]


def _without_paths(value: Any) -> Any:
    """The same with the last part alone of every absolute path."""
    if isinstance(value, dict):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return kind(value).name
    return value

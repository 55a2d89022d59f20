"""Prints a report on drift. Whatever a model wrote is made plain first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from pipeline.lineage.compare import KINDS, Compared
from pipeline.lineage.drift import Drift
from pipeline.show import json_value, plain


def print_drift(found: Iterable[Drift], *, as_json: bool, to: TextIO) -> None:
    """A JSON object for each suite and round, or text for people; each as soon as it is known."""
    for drift in found:
        if as_json:
            print(json.dumps(json_value(_object(drift)), ensure_ascii=False), file=to)
        else:
            for line in drift_lines(drift):
                print(plain(line), file=to)


def drift_detail(drift: Drift) -> str:
    """The report on one line."""
    kinds = ", ".join(f"{found.rows:,} {kind}" for kind, found in drift.kinds.items())
    differing = sum(drift.counts.values())
    left_out = sum(drift.not_looked_at.values())
    said = f"{drift.rows:,} rows encoded again, {differing:,} to other tokens{f' ({kinds})' if kinds else ''}"
    return f"{said}, {left_out:,} not looked at" if left_out else said


def drift_lines(drift: Drift) -> Iterator[str]:
    """The report for people."""
    by = f", read as {drift.policy} reads" if drift.policy else ""
    yield f"{drift.suite} {drift.round}{by}: {drift_detail(drift)}"
    if drift.rows:
        yield f"  looked at  {', '.join(f'{rows:,} {what}' for what, rows in drift.looked_at.items())}"
    for reason, rows in drift.not_looked_at.items():
        yield f"  not looked at  {rows:,} {reason}"
    for kind, found in drift.kinds.items():
        yield f"  {kind:<9} {found.rows:,} of {drift.rows:,} rows, {100 * found.share:.3g} %: {KINDS[kind]}"
        yield from (f"    {line}" for line in _first(found.first))


def _first(first: Compared) -> Iterator[str]:
    yield f"the first: node {first.node} of {first.tree}, token {first.position}"
    yield f"stored {' '.join(map(str, first.stored))}  {first.stored_text!r}"
    yield f"now    {' '.join(map(str, first.now))}  {first.now_text!r}"


def _object(drift: Drift) -> dict[str, Any]:
    kinds = {kind: found._replace(first=found.first._asdict())._asdict() for kind, found in drift.kinds.items()}
    return {
        "suite": drift.suite,
        "round": drift.round,
        "policy": drift.policy,
        "looked_at": drift.looked_at,
        "rows": drift.rows,
        "differ": sum(drift.counts.values()),
        "kinds": kinds,
        "not_looked_at": drift.not_looked_at,
    }

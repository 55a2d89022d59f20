"""Vectors of Search-R2: rewards and what the refiner did, by trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import compress
from typing import Any

import numpy as np

from pipeline.credit.search_r2 import SearchR2Params, acceptance, exact_match, search_r2
from pipeline.golden.forest import turns
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(SearchR2Params))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """By trajectory; of those without scores nothing is said of the refiner."""
    options = SearchR2Params(**chosen(params, *_PARAMS))
    found = turns(given["nodes"])
    steps = [found.nodes[start:end] for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    tasks = [found.tasks[code] for code in found.groups]
    finished = found.last("finished", True, bool)
    right = [
        bool(ended) and exact_match(_last_answer(some), _references(given, task))
        for ended, some, task in zip(finished, steps, tasks, strict=True)
    ]
    useful = [[flag for step in some for flag in step.get("chunk_useful") or ()] for some in steps]
    credit = search_r2(
        np.array(right, dtype=bool),
        found.groups,
        useful=np.array([flag for flags in useful for flag in flags], dtype=bool),
        offsets=np.cumsum([0, *map(len, useful)]),
        params=options,
    )
    scores = [some[-1].get("disc_scores") or [] for some in steps]
    refined = acceptance(
        np.array([score for some in scores for score in some], dtype=np.float64),
        np.cumsum([0, *map(len, scores)]),
        options,
    )
    return {name: found.by_trajectory(values) for name, values in credit._asdict().items()} | {
        "accepted_without_revision": dict(compress(found.by_trajectory(refined.accepted).items(), refined.scored)),
        "revisions_used": dict(compress(found.by_trajectory(refined.revisions).items(), refined.scored)),
    }


def _last_answer(steps: list[Mapping[str, Any]]) -> str | None:
    said = [step["answer"] for step in steps if step.get("answer") is not None]
    return str(said[-1]) if said else None


def _references(given: Mapping[str, Any], task: str) -> list[str]:
    references = (given.get("reference_answers") or {}).get(task) or []
    return [str(one) for one in ([references] if isinstance(references, str) else references)]

"""Vectors of Math-Shepherd: solutions of steps with the rewards of their completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.credit.math_shepherd import MathShepherdParams, first_error_index, math_shepherd, solution_scores
from pipeline.credit.ragged import ragged
from pipeline.golden.nodes import by_id, chosen, links, numbers


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Labels by step, and of the solution; of several solutions by the id of their last step.

    A completion without a reward is unfinished and has 0, as has a last step that was not completed either.
    """
    options = MathShepherdParams(**chosen(params, "n_rollouts", "aggregate"))
    nodes, way = given["nodes"], links(given["nodes"])
    final = np.ones(len(nodes), dtype=bool)
    final[way.parent[way.parent >= 0]] = False
    drawn = ragged(node.get("mc_rewards") or () for node in nodes)
    completed = np.diff(drawn.offsets) > 0
    own = numbers(nodes, "reward")
    outcomes = np.where(final, np.where(np.isnan(own) & ~completed, 0.0, own), np.nan)
    rows = np.arange(len(nodes))
    prefixes = np.repeat(rows, np.diff(drawn.offsets))
    found = math_shepherd(np.nan_to_num(drawn.values), prefixes, steps=rows, outcomes=outcomes)
    solutions, ends = [], np.flatnonzero(final)
    for row in ends:
        solution = []
        while row >= 0:
            solution.append(row)
            row = way.parent[row]
        solutions.append(solution[::-1])
    offsets, flat = np.cumsum([0, *map(len, solutions)]), np.array([row for some in solutions for row in some], int)
    by_solution = {
        "first_error_index": first_error_index(found.hard[flat], offsets),
        "solution_score": solution_scores(found.soft[flat], offsets, options),
    }
    hard = [None if np.isnan(label) else int(label) for label in found.hard]
    names = [nodes[row]["id"] for row in ends]
    return {
        "soft_label": by_id(nodes, found.soft),
        "hard_label": by_id(nodes, hard),
        "n_rollouts": by_id(nodes, found.n_rollouts),
    } | {name: values[0] if len(names) == 1 else dict(zip(names, values)) for name, values in by_solution.items()}

"""What a method costs beyond the plain attempts, by what it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.comparison.lines import Figure
from pipeline.credit.columns import Method
from pipeline.credit.inputs import INPUTS

GROWN_BY = {
    "branch": "trees",
    "retry": "retries",
    "guided_retry": "retries",
    **dict.fromkeys(("generate", "verify", "refine"), "roles"),
    "summary": "summaries",
}
"""The stage that must have run for a round to have nodes of an origin; all that it decoded is needed for them."""

PASSES: dict[str, int] = {}
"""Inputs of methods that take forward passes of a model, and how many a step; none of INPUTS does."""


def extra_tokens(method: Method, decoded: Mapping[str, int], labels: int) -> int:
    """Tokens decoded that a method needs beyond the plain attempts.

    Args:
        decoded: tokens that a stage decoded, by stage.
        labels: tokens that were decoded for the labels it is given.
    """
    stages = {GROWN_BY[origin] for origin in method.origins if origin in GROWN_BY}
    labelled = any(INPUTS[name].source.startswith("step_labels.") for name in method.needs)
    return sum(decoded.get(stage, 0) for stage in stages) + (labels if labelled else 0)


def passes_of(needs: Sequence[str]) -> int:
    """Forward passes a step that inputs of a method take."""
    return sum(PASSES.get(name, 0) for name in needs)


def per_thousand(total: int, steps: int) -> Figure:
    """A total for each thousand of some steps."""
    return Figure(1000 * total / steps if steps else None, steps)

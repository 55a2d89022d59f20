"""Vectors of InT: why a candidate is dropped, how its continuations fared, and the training row of a kept one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.variants.intervene import (
    INVALID_INDEX,
    InterventionParams,
    Proposal,
    check_proposal,
    first_wrong,
    keep_reason,
    patch_row,
    tally,
)

_OPTIONS = ("clone", "min_successes")
_SEPARATOR = "\n\n"


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the one candidate of the case; the row only where it is kept. Verdicts that are null could not be read."""
    options = InterventionParams(**{name: params[name] for name in _OPTIONS if name in params})
    steps, edit = given["steps"], given.get("intervention") or {}
    verdicts = given.get("verdicts")
    if verdicts is None and "first_error_index" not in given:
        index, proposal = None, Proposal(None, "", INVALID_INDEX)
    else:
        index = given["first_error_index"] if "first_error_index" in given else first_wrong(verdicts)
        reference = "" if given.get("answer") is None else str(given["answer"])
        proposal = check_proposal(index, edit.get("text"), steps=len(steps), reference_answer=reference)
    tried = tally(given.get("continuation_rewards") or [])
    dropped = keep_reason(
        proposal, outcome=given["outcome"], successes=tried.successes, min_successes=options.least_successes
    )
    answered = {
        "first_error_step": index if isinstance(index, int) else proposal.first_error,
        "dropped": dropped,
        "coverage": tried.coverage,
        "accuracy": tried.accuracy,
        "n_success": tried.successes,
    }
    if dropped is not None:
        return answered
    before, tokens = steps[: proposal.first_error], edit["token_ids"]
    input_ids, labels = patch_row(
        given["prompt_token_ids"],
        [step["token_ids"] for step in before],
        tokens,
        clone=options.clone,
        suffix=given.get("best_suffix_token_ids") or [],
    )
    return answered | {
        "input_ids": input_ids,
        "labels": labels,
        "text": _SEPARATOR.join([*(step["text"] for step in before), edit["text"]]),
        "n_prefix_tokens": sum(len(step["token_ids"]) for step in before),
        "n_intervention_tokens": len(tokens),
    }

"""Vectors of process reward models' formats: tokens and labels, PRM800K, estimates, verdict probabilities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.builders.prm_rows import (
    StepwiseParams,
    StepwiseRow,
    estimate_steps,
    prm800k_rows,
    tokenize_steps,
)
from pipeline.errors import BadConfig
from pipeline.labels.prm_formats import Sample, solution_probability


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the operation of the case asks for.

    Raises:
        BadConfig: no such operation.
    """
    match params["op"]:
        case "stepwise_tokenise":
            return _tokenize(params, given)
        case "prm800k_to_rows":
            rows = prm800k_rows(given["question"]["problem"], given["label"]["steps"])
            return {"rows": [row._asdict() for row in rows]}
        case "mc_labels":
            found = estimate_steps(np.array(given["successes_per_step"], np.float64), params["K"])
            hard = [None if np.isnan(label) else int(label) for label in found.hard]
            return {"hard_labels": hard, "soft_labels": found.soft, "first_zero_step": found.first_zero}
        case "verdict_probability":
            samples = given.get("samples", [given])
            return {"p_correct": solution_probability([_sample(sample) for sample in samples])}
    raise BadConfig(f"prm_formats has no operation {params['op']!r}", remedy="use one the vectors name")


def _tokenize(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        name: params[name]
        for name in ("max_length", "max_completion_length", "train_on_last_step_only", "is_eval")
        if name in params
    }
    vocabulary, first = given["tokenizer_vocabulary"], given.get("vocabulary_offset", 0)

    def encode(text: str) -> list[int]:
        words = [text] if text in vocabulary else re.findall(r"\n|[^\s]+", text)
        return [vocabulary[word] + first for word in words]

    found = tokenize_steps(
        StepwiseRow(given["prompt"], given["completions"], given["labels"]),
        encode,
        StepwiseParams(separator=params.get("step_separator", "\n"), bos=params.get("bos_token_id"), **options),
    )
    return found._asdict()


def _sample(one: Mapping[str, Any]) -> Sample:
    listed = [{token: float(p) for token, p in (some or {}).items() if p is not None} for some in one["top_logprobs"]]
    return Sample(one["text"], one["tokens"], listed)

"""Rows that process reward models are trained on: a prompt, its steps and a label a step; as text and as tokens.

Knows no tokenizer but as a function from text to ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.labels.monte_carlo import first_error
from pipeline.variants.intervene import MASKED

MARKER = "ки"
"""Math-Shepherd's token at the end of a step, the place its class is read at."""


class StepwiseRow(NamedTuple):
    """A solution with a label a step. A label that is None is not trained."""

    prompt: str
    completions: list[str]
    labels: list[bool | None]


class StepwiseTokens(NamedTuple):
    """input_ids, and labels as long: 1 or 0 at the end of a step, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class StepwiseParams:
    """How a row becomes tokens.

    separator: follows every step; the label stands on its last token.
    max_completion_length: tokens of the steps. max_length: of all. None: no limit.
    train_on_last_step_only: keep the last label alone, unless the row is for evaluation.
    is_eval: the row is for evaluation.
    bos: id the row begins with. None: none.
    """

    separator: str = "\n"
    max_length: int | None = None
    max_completion_length: int | None = None
    train_on_last_step_only: bool = False
    is_eval: bool = False
    bos: int | None = None


def tokenize_steps(
    row: StepwiseRow, encode: Callable[[str], Sequence[int]], params: StepwiseParams = StepwiseParams()
) -> StepwiseTokens:
    """The tokens of a row; too many are cut from the right, with their labels.

    Args:
        row: a label for each completion.
        encode: text to ids, without special tokens; prompt, steps and separator are encoded each on its own.
        params: separator and limits.

    Raises:
        ValueError: not a label for each completion.

    Source: TRL's PRM trainer. Deviation: a step without a token has no place for its label, which is left out.
    """
    if len(row.labels) != len(row.completions):
        raise ValueError(f"{len(row.completions)} steps have {len(row.labels)} labels; give one each")
    closing, ids, labels = list(encode(params.separator)), [], []
    last_only = params.train_on_last_step_only and not params.is_eval
    for place, (step, label) in enumerate(zip(row.completions, row.labels, strict=True)):
        block = [*encode(step), *closing]
        hidden = label is None or (last_only and place < len(row.labels) - 1)
        ids += block
        labels += [MASKED] * len(block)
        if block and not hidden:
            labels[-1] = int(label)
    before = [*([] if params.bos is None else [params.bos]), *encode(row.prompt)]
    most = params.max_completion_length
    input_ids, kept = [*before, *ids[:most]], [MASKED] * len(before) + labels[:most]
    return StepwiseTokens(input_ids[: params.max_length], kept[: params.max_length])


def prm800k_rows(problem: str, steps: Sequence[Mapping[str, Any]]) -> list[StepwiseRow]:
    """Rows of a PRM800K annotation: one for each completion left aside, after the path to it, and one for the path.

    A rating of 1 is right and any other wrong; a completion written by the annotator is right. The walk ends at a
    step of which nothing was taken. The row of the path is last and may be empty or the beginning of another.

    Args:
        problem: the prompt.
        steps: `label.steps` of the annotation: `completions` (null: none), `chosen_completion`, `human_completion`.

    Source: Let's Verify Step by Step (Lightman et al., 2023), as TRL's script for PRM800K reads it.
    """
    rows, path, labels = [], [], []
    for step in steps:
        completions, chosen = step.get("completions") or [], step.get("chosen_completion")
        for place, completion in enumerate(completions):
            if place != chosen:
                rows.append(StepwiseRow(problem, [*path, completion["text"]], [*labels, completion.get("rating") == 1]))
        if chosen is not None and 0 <= chosen < len(completions):
            taken, right = completions[chosen]["text"], completions[chosen].get("rating") == 1
        elif step.get("human_completion") is not None:
            written = step["human_completion"]
            taken, right = written["text"] if isinstance(written, Mapping) else written, True
        else:
            break
        path, labels = [*path, taken], [*labels, right]
    return [*rows, StepwiseRow(problem, path, labels)]


class StepEstimates(NamedTuple):
    """Labels of the steps of one solution.

    hard: `[S]` float64, 1 where a continuation succeeded, else 0; NaN where none was judged.
    soft: `[S]` float64, share that succeeded; NaN where none was judged.
    first_zero: first step without a success. None: all have one.
    """

    hard: np.ndarray
    soft: np.ndarray
    first_zero: int | None


def estimate_steps(successes: np.ndarray, count: np.ndarray | int, *, first_zero_ends: bool = False) -> StepEstimates:
    """Math-Shepherd's estimates from continuations drawn after each step. They need not be monotone.

    Args:
        successes: `[S]`, continuations that reached the answer. NaN: not judged.
        count: `[S]` or one for all, continuations.
        first_zero_ends: take every step after the first without a success for wrong.

    Source: Math-Shepherd (Wang et al., 2024).
    """
    reached = np.asarray(successes, np.float64)
    tried = np.broadcast_to(np.asarray(count, np.float64), reached.shape)
    soft = np.divide(reached, tried, out=np.full(reached.shape, np.nan), where=tried > 0)
    hard = np.where(np.isnan(soft), np.nan, soft > 0)
    first = first_error([None if np.isnan(label) else bool(label) for label in hard])
    if first_zero_ends and first >= 0:
        soft[first:], hard[first:] = 0.0, 0.0
    return StepEstimates(hard, soft, first if first >= 0 else None)


def stored_row(row: Mapping[str, Any]) -> StepwiseRow:
    """A row of the table `prm_steps` as text: with `_asdict` the columns of TRL's stepwise supervision, which takes no
    label that is None."""
    return StepwiseRow(row["prompt"], list(row["steps"]), list(row["hard"]))


def marked_text(row: StepwiseRow, *, marker: str = MARKER) -> tuple[str, str]:
    """Math-Shepherd's text form: the row with a marker at the end of each step, and the same with `+`, `-` or, where a
    label is None, the marker in its place."""
    marks = [marker if label is None else "+" if label else "-" for label in row.labels]
    plain, labelled = (
        "\n".join(f"{step} {mark}" for step, mark in zip(row.completions, some, strict=True))
        for some in ([marker] * len(marks), marks)
    )
    return f"{row.prompt} {plain}", f"{row.prompt} {labelled}"

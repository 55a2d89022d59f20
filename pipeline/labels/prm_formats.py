"""Verdicts of generative process reward models, ThinkPRM's and GenPRM's: read, scored and written.

Text is untrusted: nothing in it is run, and no text makes reading fail. Calls no model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

UNDECIDED = 0.5
"""Score of a text without a verdict."""
DOUBLE_CHECK = "Let me double check."
"""What ThinkPRM's sequential scaling goes on with."""
ASK = "Is the solution correct?"
"""What is put after a ThinkPRM verification; the score is the share of Yes in what comes next."""
_STEP = re.compile(r"\\boxed\{\s{0,9}(correct|incorrect)\s{0,9}\}", re.IGNORECASE)
_VERDICT = re.compile(r"(yes|no)\}", re.IGNORECASE)
_INDEX = re.compile(r"\\boxed\{\s{0,9}(-?\d{1,9})\s{0,9}\}")


class Sample(NamedTuple):
    """One answer of a verifier.

    text:         as it reads. tokens: texts of its tokens.
    top_logprobs: for each of them the likeliest tokens with their natural log-probabilities.
    """

    text: str
    tokens: Sequence[str]
    top_logprobs: Sequence[Mapping[str, float]]


def read_step_verdicts(text: str) -> tuple[bool, ...]:
    """ThinkPRM: the verdict on each step in turn, up to the first that is wrong. Later ones are not looked at.

    Args:
        text: ends what it says of a step with `\\boxed{correct}` or `\\boxed{incorrect}`.
    """
    found: list[bool] = []
    for match in _STEP.finditer(text):
        found.append(match.group(1).lower() == "correct")
        if not found[-1]:
            break
    return tuple(found)


def step_labels(verdicts: Sequence[bool], *, steps: int) -> tuple[bool | None, ...]:
    """A label for each of so many steps: its verdict; None where the verification said nothing of it."""
    return (*verdicts[:steps], *[None] * (steps - len(verdicts)))


def keep_chain(text: str, gold: Sequence[bool], *, tokens: int, max_tokens: int) -> bool:
    """Whether a ThinkPRM verification is fit for training: every verdict is that of the gold labels, and it is short.

    Args:
        text: the verification.
        gold: labels of the steps, in order. Those after the first wrong one are not asked for.
        tokens: of the text. max_tokens: allowed.
    """
    wanted = tuple(gold[: gold.index(False) + 1]) if False in gold else tuple(gold)
    return tokens <= max_tokens and bool(wanted) and read_step_verdicts(text) == wanted


def yes_share(yes: float, no: float) -> float:
    """`P(yes) / (P(yes) + P(no))` from natural log-probabilities; 0.5 where both are 0 or one is unknown."""
    if math.isnan(yes) or math.isnan(no) or (yes == no):
        return UNDECIDED
    return float(0.5 * (1.0 + math.tanh(0.5 * (yes - no))))


def verdict_probability(sample: Sample) -> float:
    """GenPRM: how sure the verifier is that a step is right.

    The verdict is the first Yes or No of the text, in any case, with `}` right behind it; its token is the last one
    that reads just `Yes` or `No`. Of the log-probabilities listed there, one that is missing takes the smallest.

    Returns:
        In [0, 1]; 0.5 where there is no verdict or no such token.

    Source: GenPRM (Zhao et al., 2025) and its code.
    """
    match = _VERDICT.search(sample.text)
    if match is None:
        return UNDECIDED
    word = match.group(1).capitalize()
    places = [place for place, token in enumerate(sample.tokens) if token == word]
    if not places or places[-1] >= len(sample.top_logprobs):
        return UNDECIDED
    listed = sample.top_logprobs[places[-1]]
    if not listed:
        return UNDECIDED
    least = min(listed.values())
    return yes_share(listed.get("Yes", least), listed.get("No", least))


def solution_probability(samples: Sequence[Sample]) -> float:
    """Mean of `verdict_probability` over several answers; 0.5 where there is none."""
    return float(np.mean([verdict_probability(sample) for sample in samples])) if samples else UNDECIDED


def thinkprm_score(top_logprobs: Sequence[Mapping[str, float]], *, yes: str = "Yes", no: str = "No") -> float:
    """ThinkPRM: mean share of Yes over the tokens that follow `ASK`, one of each verification.

    A listing that lacks one of the words takes the smallest log-probability for it; an empty one counts 0.5.
    """
    shares = [
        yes_share(listed.get(yes, min(listed.values())), listed.get(no, min(listed.values()))) if listed else UNDECIDED
        for listed in top_logprobs
    ]
    return float(np.mean(shares)) if shares else UNDECIDED


def read_error_index(text: str, *, steps: int) -> int | None:
    """The whole-solution form: index of the earliest wrong paragraph, -1 for none, from the last `\\boxed{}`.

    Returns:
        None where the text names none, or one that the solution has not.
    """
    found = _INDEX.findall(text)
    index = int(found[-1]) if found else None
    return index if index is not None and -1 <= index < steps else None


def write_thinkprm(checks: Sequence[str], verdicts: Sequence[bool]) -> str:
    """A ThinkPRM verification: what is said of each step and its verdict, up to the first wrong one."""
    parts = []
    for number, (check, verdict) in enumerate(zip(checks, verdicts, strict=True), start=1):
        parts.append(f"Step {number}: {check} The step is \\boxed{{{'correct' if verdict else 'incorrect'}}}")
        if not verdict:
            break
    return "\n\n".join(parts)


def write_genprm(analysis: str, verdict: bool, *, code: str | None = None, output: str | None = None) -> str:
    """A GenPRM verification of one step: analysis, code with what it printed, judgement.

    Args:
        analysis: in words.
        verdict: whether the step is right.
        code: Python that checks the step. None: no section for it.
        output: what it printed when it was run.
    """
    sections = [f"<analyze>\n{analysis}\n</analyze>"]
    if code is not None:
        printed = "" if output is None else f"\n[Code Output]\n\n```\n{output}\n```"
        sections.append(f"<verify>\n```python\n{code}\n```{printed}\n</verify>")
    sections.append(f"<output>\n**Judgement**: $\\boxed{{{'Yes' if verdict else 'No'}}}$\n</output>")
    return "\n".join(sections)

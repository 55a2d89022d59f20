"""What retries in one turn and in an environment share: their configuration, and the reports on chosen attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.generation.engine import Sampling
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.varying import Asking, Case, Which, ask_about, one_try
from pipeline.trees.fork import Attempt
from pipeline.variants.reflect import Reflection, read_reflection

STAGE = "retries"
VERSION = "4"
QUOTES = "retry quotes its guidance"

Begin = Literal["usual", "prompt", "step"]


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """per_task: attempts reflected on. which: those that failed, or all. begin: where a retry begins, at the prompt of
    the task or at the step blamed; usual: the step where an environment can be brought back to it, else the prompt.
    report_tokens: of a reflection, at most. guided: the engine holds a reflection to its JSON schema.
    """

    per_task: int = 2
    which: Which = "failures"
    begin: Begin = "usual"
    temperature: float = 1.0
    top_p: float = 1.0
    report_tokens: int = 256
    guided: bool = True


@dataclass(slots=True)
class RetryCase(Case):
    """An attempt on its way through reflection and retry.

    kept:       steps of the attempt that the retry goes on from, or turns.
    first_node: of the distilled copy.
    """

    reflection: Reflection | None = None
    kept: int = 0
    first_node: int | None = None

    @property
    def pivot(self) -> int:
        """The node after which the distilled copy departs."""
        return self.source.steps[self.kept - 1] if self.kept else 0


def reflect(
    grower: Grower,
    cases: Iterable[RetryCase],
    tasks: Tasks,
    config: RetryConfig,
    *,
    question: Callable[[dict[str, Any]], str] = lambda task: task["question"],
) -> list[RetryCase]:
    """Ask for a reflection on each attempt and read it; a case without a valid one is dropped."""

    def holes(task: dict[str, Any], attempt: Attempt, steps: str) -> dict[str, str]:
        outcome = "success" if attempt.reward >= 1 else "failure"
        return {"question": question(task), "steps": steps, "outcome": outcome}

    reflecting = Asking("reflect", "reflector", "reflection", holes, guided=config.guided, apart=True)
    sampling = Sampling(config.temperature, config.top_p, config.report_tokens)
    cases = ask_about(grower, cases, tasks, reflecting, sampling)
    for case in cases:
        if case.answer is None:
            continue
        case.reflection = read_reflection(case.text, steps=len(case.source.steps))
        if not case.reflection.valid:
            case.dropped = "invalid reflection"
        elif case.reflection.perfect:
            case.dropped = "held for a success"
        elif not grower.tokens.safe(case.reflection.report):
            case.dropped = "reflection spells a control token"
    return cases


def retry_row(case: RetryCase, rewards: Rewards) -> dict[str, Any]:
    """A retry's columns of the variants table."""
    return {
        "variant": f"{case.tree.tree}/retry/{case.source.leaf}",
        "kind": "retry",
        "pivot": case.pivot if case.first_node is not None else None,
        "first_node": case.first_node,
        "blamed_step": case.reflection.pivot if case.reflection else None,
        **one_try(case.tree, case.first_node, rewards),
    }

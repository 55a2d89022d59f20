"""A scripted engine that plays every role of the prompt pack, and a round of variants made with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from scripted_round import Pupil

from pipeline.generation.engine import Request
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.regenerations import RegenerationConfig, write_regenerations
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.roles import RoleConfig, write_roles
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.summaries import SummaryConfig, write_summaries
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.tasks.arithmetic import read_sum, steps_right

ASKS = {
    "reflect": "Reflect on",
    "intervene": "trusted reference",
    "judge": "Is the last step correct?",
    "retry": "The earlier attempt had issues.",
}


@dataclass
class Cast(Pupil):
    """As the pupil; judges the last step rightly, and answers at once where it is made to.

    said: by a word of ASKS, what it says instead, given its usual words.
    """

    said: dict[str, Callable[[str], str]] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> list[int]:
        self.requests.append(request)
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        usual = super().__call__(request)
        answer = self.tokens.decode(usual)
        asked = next((role for role, words in ASKS.items() if words in text), None)
        if asked == "judge":
            steps = re.findall(r"Step \d+: (.*)", text)
            right = steps_right(read_sum(text.split("problem: ")[1]), steps)[-1]
            answer = "correct" if right else "incorrect"
        elif text.endswith("#### "):
            answer = text.split("<|assistant|>")[1].split("\n")[-2].split(" = ")[1] if "\n#### " in text else "0"
        if asked in self.said:
            answer = self.said[asked](answer)
        ids = self.tokens._tokenizer.encode(answer, add_special_tokens=False, split_special_tokens=asked == "reflect")
        return [*ids, 1]


def vary(work: Work, *, begin: str = "step", by: str = "steps") -> dict[str, object]:
    """Tasks, rollouts, every kind of variant, verdicts; the reports by stage."""
    return {
        "tasks": write_tasks(work),
        "rollouts": write_rollouts(work, RolloutConfig(group=4)),
        "retries": write_retries(work, RetryConfig(per_task=2, begin=begin)),
        "interventions": write_interventions(work, InterventionConfig(per_task=2, continuations=3)),
        "regenerations": write_regenerations(work, RegenerationConfig(per_task=4, by=by, revisions=2)),
        "roles": write_roles(work, RoleConfig(width=2)),
        "summaries": write_summaries(work, SummaryConfig(per_task=2, summaries=2)),
        "verdicts": write_verdicts(work),
    }


def reflection(**changes) -> str:
    """A valid reflection that blames step 1, but for the changes."""
    usual = {
        "trajectory_summary": "s",
        "root_cause_analysis": "r",
        "trajectory_outcome": "failure",
        "improvement_suggestion": "i",
        "retry_from_step": 1,
    }
    return json.dumps(usual | changes)

"""A scripted engine that solves three sums, and a round made with it; shared by tests of stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipeline.generation import engines
from pipeline.generation.engine import Request
from pipeline.generation.policies import find_policy
from pipeline.generation.scripted import ScriptedEngine
from pipeline.generation.tokens import tokens_of
from pipeline.settings import Settings
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import write_patches
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work, make_work
from pipeline.tasks.arithmetic import read_sum, reference_steps

SUITE = """
name = "three"
description = "Three sums."
prompts = "tiny"
separator = "\\n"
max_tokens = 96
[[bands]]
name = "sums"
source = "reasoning_gym"
dataset = "chain_sum"
parameters = { min_terms = 4, max_terms = 4, min_digits = 1, max_digits = 1 }
sizes = { train = 3, held_out = 2 }
seeds = { train = 77, held_out = 7700 }
"""


class Pupil:
    """Solves sums, but one sample in two slips at its second step; knows its slip and how to mend it."""

    def __init__(self):
        self.tokens = tokens_of(find_policy("tiny", policies=Path("none")))
        self.prompts: list[str] = []

    def __call__(self, request: Request) -> list[int]:
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        self.prompts.append(text)
        problem = read_sum(text.split("problem: ")[1])
        steps = reference_steps(problem)
        if "Reflect on" in text:
            answer = json.dumps(
                {
                    "trajectory_summary": "; ".join(steps[:2]),
                    "root_cause_analysis": "a slip",
                    "trajectory_outcome": "failure",
                    "improvement_suggestion": steps[1],
                    "retry_from_step": 1,
                }
            )
        elif "trusted reference" in text:
            answer = json.dumps({"step_checks": [], "first_error_index": 1, "intervention": steps[1]})
        else:
            written = text.split("<|assistant|>")[1].split("\n")[:-1]
            slips = request.sample % 2 == 1 and not written and "earlier attempt" not in text
            answer = "\n".join([*written, *_carry_on(problem, written, slips=slips)][len(written) :])
        return [*self.tokens.encode(answer).tolist(), 1]


def _carry_on(problem, written: list[str], *, slips: bool) -> list[str]:
    """The rest of a solution after some lines, faithful to whatever they say."""
    value = int(written[-1].split(" = ")[1]) if written else problem.terms[0]
    lines = []
    for index in range(len(written), len(problem.operators)):
        term = problem.terms[index + 1]
        after = value + term if problem.operators[index] == "+" else value - term
        after += 10 if slips and index == 1 else 0
        lines.append(f"{value} {problem.operators[index]} {term} = {after}")
        value = after
    return [*lines, f"#### {value}"]


@contextmanager
def scripted(folder: Path, pupil: Pupil, *, kind: type[ScriptedEngine] = ScriptedEngine) -> Iterator[Work]:
    """Surroundings in a folder whose engine answers as the pupil does."""
    (folder / "three.toml").write_text(SUITE)
    settings = Settings(folder / "store", folder / "policies", folder / "release", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            engines.ENGINES,
            "scripted",
            lambda policy: kind(pupil, fingerprint=engines.engine_fingerprint("scripted", policy)),
        )
        engines.close_engines()
        try:
            yield make_work(settings, suite="three", round="r0", engine="scripted")
        finally:
            engines.close_engines()


def changed(work: Work, **options: str) -> Work:
    """The same surroundings after an edit of the suite's file: text to put in another's place."""
    path = work.settings.suites / "three.toml"
    text = path.read_text()
    for old, new in options.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return make_work(work.settings, suite="three", round="r0", engine="scripted")


def copied(work: Work, folder: Path) -> Work:
    """The same surroundings over a copy of the store, to be spoiled."""
    store = Path(shutil.copytree(work.settings.store, folder / "store"))
    return replace(work, settings=replace(work.settings, store=store))


def run(work: Work) -> dict[str, object]:
    return {
        "tasks": write_tasks(work),
        "rollouts": write_rollouts(work, RolloutConfig(group=4)),
        "trees": write_trees(work, TreeConfig(attempts=4, branches=2)),
        "retries": write_retries(work, RetryConfig(per_task=1)),
        "interventions": write_interventions(work, InterventionConfig(per_task=1, continuations=3)),
        "verdicts": write_verdicts(work),
        **{report.stage: report for report in write_credit(work, CreditConfig(("grpo", "spo_tree", "tempo")))},
        "labels": write_step_labels(work),
        "pairs": write_pairs(work),
        "patches": write_patches(work),
        "agreement": write_agreement(work),
        "evals": write_evals(work, EvalConfig(samples=2)),
    }


def read(work: Work, table: str, stage: str | None = None) -> pl.DataFrame:
    return work.store.read(table, work.store.places(table, suite="three", round="r0", stage=stage))

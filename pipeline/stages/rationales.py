"""Stage: what a generative process reward model is to imitate: a judge's rationales that another labeller bears out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.builders.rationales import COLUMNS, agreed, rationale_rows
from pipeline.errors import BadTable
from pipeline.generation.engines import open_tokens
from pipeline.judges.wording import wording
from pipeline.labels.ledger import newest
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING, Earlier, judged_from, rollout_shards
from pipeline.stages.work import Shards, Work, inputs

STAGE = "rationales"
VERSION = "1"
JUDGE = "genprm"
"""The judge that looks at a step at a time."""


@dataclass(frozen=True, slots=True)
class RationaleConfig:
    """labels: labeller that a verdict must agree with. balance: keep as many right as wrong steps of a shard."""

    labels: str = "monte_carlo"
    balance: bool = True


def write_rationales(work: Work, config: RationaleConfig = RationaleConfig()) -> Report:
    """Build rows of the table `sft` from the rationales of the judge `genprm`.

    A rationale was stored as text and is encoded anew, with the policy's end token behind it.

    Raises:
        BadTable: the judge or the other labeller has said nothing, or before the trees changed.
    """
    for labeller, command in ((JUDGE, f"judge --judge {JUDGE}"), (config.labels, "step-labels")):
        if not work.places("step_labels", stage=labeller):
            raise BadTable(
                f"suite {work.suite.name}, round {work.round} has no step labels of {labeller}",
                remedy=f"run `branchpoint {command}` first",
            )
    tokens, words, end = open_tokens(work.policy), wording(JUDGE, work.pack), work.policy.end_ids[:1]
    shards = Shards(work, STAGE, ("sft",))
    made_from = inputs(VERSION, config=config, policy=work.policy.fingerprint, prompts=words.version)

    def parts(shard: str) -> dict[str, str]:
        earlier, found = Earlier(work, shard), {**made_from, **judged_from(work, shard, of="sft")}
        for name in (JUDGE, config.labels):
            earlier.refuse_replaced("step_labels", name)
            found[f"labels {name}"] = work.store.digest("step_labels", work.place(name, shard))
        return found

    def prompt(question: str, steps: list[str]) -> np.ndarray:
        holes = {"question": question, "steps": work.pack.transcript(steps)}
        asked = work.pack.messages("judge", **holes) if words.own_judge else words.messages("verify", **holes)
        return tokens.render(asked)

    def answer(rationale: str) -> np.ndarray:
        return np.concatenate((tokens.encode(rationale), np.asarray(end, np.int32)))

    for shard, _, said in shards.stale(rollout_shards(work, columns=()), parts):
        labels = {
            name: newest(work.store.read("step_labels", [work.place(name, shard)])) for name in (JUDGE, config.labels)
        }
        kept = agreed(labels[JUDGE], labels[config.labels], balance=config.balance)
        nodes = work.store.read("nodes", [work.place(stage, shard) for stage in GENERATING], columns=COLUMNS)
        rows = rationale_rows(nodes.sort("tree", "node"), kept, suite=work.suite.name, prompt=prompt, answer=answer)
        shards.write(shard, said, sft=rows.sort("task", "row"))
    return shards.finish(mean_tokens=shards.read("sft")["input_ids"].list.len().mean())

"""What reflect-retry and interventions share: the walk over shards, and asking the policy about failed attempts.

A prompt about an attempt hangs below its leaf, and the answer below the prompt; what grows from the answer is the
variant's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl

from pipeline.generation.engine import Sampling
from pipeline.stages.earlier import rollout_shards
from pipeline.stages.growing import Grower, Rewards, Tasks, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree
from pipeline.variants.answers import read_object
from schemas import Variants
from schemas.base import column_types

TABLES = ("nodes", "variants", "verdicts", "requests")


@dataclass(slots=True)
class Case:
    """A failed attempt on its way to a variant.

    ids:     the prompt about it; `prompt` its node, `answer` the node of what came back last.
    dropped: why it goes no further; None while it may.
    """

    tree: Tree
    source: Attempt
    ids: np.ndarray
    prompt: int
    answer: int | None = None
    dropped: str | None = None

    @property
    def text(self) -> str:
        """What came back."""
        return "" if self.answer is None else self.tree[self.answer]["text"]


C = TypeVar("C", bound=Case)


@dataclass(frozen=True, slots=True)
class Asking:
    """How a policy is asked about a failed attempt.

    role:  of the prompt pack. agent, kind: of the nodes; the kind is also the answer's origin.
    holes: fills the prompt for a task and the transcript of an attempt at it; None leaves the task out.
    again: how often it is asked again after an answer without a JSON object. Every answer is kept.
    """

    role: str
    agent: str
    kind: str
    holes: Callable[[dict[str, Any], str], dict[str, str] | None]
    again: int = 0


def ask_about_failures(
    grower: Grower,
    trees: dict[str, Tree],
    rewards: Rewards,
    tasks: Tasks,
    asking: Asking,
    *,
    case: type[C],
    per_task: int,
    sampling: Sampling,
) -> list[C]:
    """Ask about the first `per_task` failed attempts of each tree. A case without an answer is dropped."""
    pack, tokens, cases = grower.work.pack, grower.tokens, []
    for tree in trees.values():
        failed = [attempt for attempt in attempts_of(tree, rewards) if attempt.reward < 1]
        for attempt in failed[:per_task]:
            transcript = pack.transcript([tree[step]["text"] for step in attempt.steps])
            holes = asking.holes(tasks[tree.task], transcript)
            if holes is None or not tokens.safe(transcript):
                continue
            prompt = tokens.render(pack.messages(asking.role, **holes))
            node = tree.add_prompt(attempt.leaf, prompt, text=transcript, agent=asking.agent)
            cases.append(case(tree, attempt, prompt, node))
    unread: list[C] = cases
    for sample in range(1 + asking.again):
        asked = [(one, grower.request(one.tree.task, one.ids, sampling, sample=sample)) for one in unread]
        entries = grower.run(request for _, request in asked)
        for one, request in asked:
            if request.key in entries:
                one.answer = grower.add_whole(
                    one.tree,
                    one.prompt,
                    entries[request.key],
                    kind=asking.kind,
                    origin=asking.kind,
                    agent=asking.agent,
                )
        unread = [one for one in unread if one.answer is None or read_object(one.text) is None]
    for one in cases:
        if one.answer is None:
            one.dropped = f"no {asking.kind} came"
    return cases


def write_variants(
    work: Work,
    stage: str,
    config: Any,
    *,
    version: str,
    vary: Callable[[Grower, dict[str, Tree], Rewards, Tasks], list[C]],
    row: Callable[[C, Rewards], dict[str, Any]],
) -> Shards:
    """Walk over the shards that earlier stages changed; grow variants and write them with what they consist of.

    Args:
        vary: grows the variants of one shard's trees.
        row: of the variants table for a case, given the rewards of the new leaves.
    """
    by_shard = rollout_shards(work)
    shards = Shards(work, stage, TABLES)
    with work.sampler(stage) as sampler:
        for growth in growing_shards(shards, by_shard, sampler, version=version, config=config):
            cases = vary(growth.grower, growth.trees, growth.rewards, growth.tasks)
            verdicts = growth.judge()
            fresh = rewards_by_node(verdicts)
            rows = [{**_row(case), **row(case, fresh)} for case in cases]
            growth.write(verdicts, variants=pl.DataFrame(rows, schema=column_types(Variants), orient="row"))
    return shards


def _row(case: Case) -> dict[str, Any]:
    """The columns every kind of variant fills alike."""
    return {
        "task": case.tree.task,
        "tree": case.tree.tree,
        "source_leaf": case.source.leaf,
        "report_node": case.answer,
        "edit": None,
        "author": "policy",
        "dropped": case.dropped,
        "without_count": None,
        "without_successes": None,
        "effect": None,
    }


def sampled_tokens(shards: Shards) -> int:
    """Tokens a stage's nodes hold that a policy sampled."""
    return int(shards.read("nodes").filter(pl.col("sampled"))["token_ids"].list.len().sum())


def rate(variants: pl.DataFrame, arm: str) -> float | None:
    """Share of right continuations in an arm, `with` or `without`; None where none was judged."""
    count = variants[f"{arm}_count"].sum()
    return variants[f"{arm}_successes"].sum() / count if count else None

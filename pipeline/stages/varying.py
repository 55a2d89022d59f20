"""What the stages of variants share: the walk over shards, and asking the policy about attempts.

A prompt about an attempt hangs below its leaf, and the answer below the prompt; what grows from the answer is the
variant's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl

from pipeline.environments.anew import Way
from pipeline.generation.engine import Request, Sampling
from pipeline.generation.engines import holds_schemas
from pipeline.report import Report
from pipeline.stages.earlier import rollout_shards
from pipeline.stages.growing import Grower, Rewards, Tasks, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt, attempts_of
from pipeline.trees.grow import Tree
from pipeline.variants.answers import read_answer
from schemas import Variants
from schemas.base import column_types

TABLES = ("nodes", "variants", "verdicts", "requests")
UNSAFE = "attempt spells a control token"

Which = Literal["failures", "all"]


@dataclass(slots=True)
class Case:
    """An attempt on its way to a variant.

    ids:     the prompt about it; `prompt` its node, `answer` the node of what came back last.
    parsed:  word of the column of that name.
    dropped: why it goes no further; None while it may.
    way:     of an episode, whose turns are the steps; None: it is no episode, or its way was not gone again.
    """

    tree: Tree
    source: Attempt
    ids: np.ndarray | None = None
    prompt: int | None = None
    answer: int | None = None
    parsed: str | None = None
    dropped: str | None = None
    way: Way | None = None

    @property
    def texts(self) -> list[str]:
        """Of the attempt's steps; of a turn what was seen, and what was done then."""
        said = [self.tree[step]["text"] for step in self.source.steps]
        if self.way is None:
            return said
        return [f"{stand.seen.shown}\n{text}" for stand, text in zip(self.way.stands, said, strict=True)]

    @property
    def text(self) -> str:
        """What came back."""
        return "" if self.answer is None else self.tree[self.answer]["text"]


C = TypeVar("C", bound=Case)

Holes = dict[str, str]


@dataclass(frozen=True, slots=True)
class Asking:
    """How a policy is asked about an attempt.

    role:   of the prompt pack. agent, kind: of the nodes. origin: of the answer; empty: the kind.
    holes:  fills the prompt for a task, an attempt at it and its transcript; None leaves the task out.
    json:   whether a JSON object is asked for. guided: whether the engine, if it can, holds the answer to its schema.
    again:  how often it is asked again after an answer without a JSON object. Every answer is kept.
    apart:  attempts at a task that lead to the same prompt get answers of their own.
    """

    role: str
    agent: str
    kind: str
    holes: Callable[[dict[str, Any], Attempt, str], Holes | None]
    origin: str = ""
    json: bool = True
    guided: bool = True
    again: int = 0
    apart: bool = False


def cases_of(
    trees: dict[str, Tree], rewards: Rewards, *, case: type[C], per_task: int, which: Which = "failures"
) -> list[C]:
    """The first `per_task` attempts of each tree, or the first that failed."""
    found = []
    for tree in trees.values():
        attempts = [one for one in attempts_of(tree, rewards) if which == "all" or one.reward < 1]
        found += [case(tree, attempt) for attempt in attempts[:per_task]]
    return found


def ask_about(grower: Grower, cases: Iterable[C], tasks: Tasks, asking: Asking, sampling: Sampling) -> list[C]:
    """Ask about attempts; a case without an answer is dropped.

    Returns:
        The cases whose task is not left out.
    """
    pack = grower.work.pack
    if asking.json and asking.guided and holds_schemas(grower.work.engine):
        sampling = replace(sampling, schema=pack.schemas[asking.role])
    kept = []
    for one in cases:
        transcript = pack.transcript(one.texts)
        holes = asking.holes(tasks[one.tree.task], one.source, transcript)
        if holes is None:
            continue
        kept.append(one)
        if not grower.tokens.safe(transcript):
            one.dropped = UNSAFE
            continue
        one.ids = grower.tokens.render(pack.messages(asking.role, **holes))
        one.prompt = one.tree.add_prompt(one.source.leaf, one.ids, text=transcript, agent=asking.agent)
    unread = [one for one in kept if one.dropped is None]
    for sample in range(1 + asking.again):
        for one, entry in answers(grower, unread, sampling, sample=sample, apart=asking.apart * (1 + asking.again)):
            one.answer = grower.add_whole(
                one.tree, one.prompt, entry, kind=asking.kind, origin=asking.origin or asking.kind, agent=asking.agent
            )
            if asking.json:
                read = read_answer(one.text)
                one.parsed = "failed" if read is None else read.how
        unread = [one for one in unread if one.answer is None or one.parsed == "failed"]
    for one in kept:
        if one.dropped is None and one.answer is None:
            one.dropped = f"no {asking.kind} came"
    return kept


def answers(
    grower: Grower, cases: Iterable[C], sampling: Sampling, *, sample: int, apart: int = 0
) -> Iterator[tuple[C, Any]]:
    """Each case with the ledger's entry of the answer to its prompt; those that failed are left out.

    Args:
        apart: draws between those of equal prompts of a task; 0: they share theirs.
    """
    alike: Counter[tuple[str, bytes]] = Counter()
    asked = []
    for one in cases:
        same = (one.tree.task, one.ids.tobytes())
        asked.append((one, grower.request(one.tree.task, one.ids, sampling, sample=sample + alike[same])))
        alike[same] += apart
    entries = grower.run(request for _, request in asked)
    yield from ((one, entries[request.key]) for one, request in asked if request.key in entries)


def go_on(grower: Grower, tree: Tree, node: int, sampling: Sampling, *, samples: int, first: int = 0) -> list[Request]:
    """Requests for what follows a node in its own context."""
    prefix = tree.tokens(node)
    return [grower.request(tree.task, prefix, sampling, sample=first + index) for index in range(samples)]


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
        row: of the variants table for a case, given the rewards of the new leaves; columns it leaves out are those that
            every kind fills alike, or null.
    """
    by_shard = rollout_shards(work)
    shards = Shards(work, stage, TABLES)
    with work.sampler(stage) as sampler:
        for growth in growing_shards(shards, by_shard, sampler, version=version, config=config):
            cases = vary(growth.grower, growth.trees, growth.rewards, growth.tasks)
            verdicts = growth.judge()
            fresh = rewards_by_node(verdicts)
            rows = [variant_row(case, row(case, fresh)) for case in cases]
            growth.write(verdicts, variants=variants_frame(rows))
    return shards


def variant_row(case: Case, columns: dict[str, Any]) -> dict[str, Any]:
    """A row of the variants table."""
    alike = {
        "task": case.tree.task,
        "tree": case.tree.tree,
        "source_leaf": case.source.leaf,
        "report_node": case.answer,
        "parsed": case.parsed,
        "author": "policy",
        "dropped": case.dropped,
    }
    return {**dict.fromkeys(column_types(Variants)), **alike, **columns}


def variants_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as the variants table."""
    return pl.DataFrame(rows, schema=column_types(Variants), orient="row")


def one_try(tree: Tree, first_node: int | None, rewards: Rewards) -> dict[str, int | None]:
    """The columns of a variant that was tried once, from its first node on in one go; nulls where it was not judged."""
    reward = None if first_node is None else rewards.get((tree.tree, tree.last_of(first_node)))
    return {
        "with_count": None if reward is None else 1,
        "with_successes": None if reward is None else int(reward >= 1),
    }


def finished(shards: Shards, variants: pl.DataFrame, *, of: str, **numbers: float | int | None) -> Report:
    """The report of a stage that makes variants, with notes where it made none, and of what requests failed.

    Args:
        of: what it makes them of.
    """
    report = shards.finish(**numbers, tokens=sampled_tokens(shards))
    if variants.is_empty():
        report.notes = (*report.notes, f"there is no {of}")
    elif variants["with_count"].null_count() == variants.height:
        report.notes = (*report.notes, f"none was carried out; {_most(variants['dropped'])}")
    errors = shards.read("requests")["error"].drop_nulls()
    if len(errors):
        report.notes = (*report.notes, f"{len(errors)} requests failed; {_most(errors)}")
    return report


def _most(reasons: pl.Series) -> str:
    """What is said most often, and how often."""
    counts = reasons.drop_nulls().value_counts(name="times").sort("times", reasons.name, descending=[True, False])
    said, times = counts.row(0) if counts.height else ("no verdict on what came", len(reasons))
    return f"{times} of {len(reasons)}: {said}"


def sampled_tokens(shards: Shards) -> int:
    """Tokens a stage's nodes hold that a policy sampled."""
    return int(shards.read("nodes").filter(pl.col("sampled"))["token_ids"].list.len().sum())


def rate(variants: pl.DataFrame, arm: str) -> float | None:
    """Share of right continuations in an arm, `with` or `without`; None where none was judged."""
    count = variants[f"{arm}_count"].sum()
    return variants[f"{arm}_successes"].sum() / count if count else None


def parsed_share(variants: pl.DataFrame) -> float | None:
    """Share of the JSON answers asked for that could be read; None where none was."""
    asked = variants["parsed"].drop_nulls()
    return float((asked != "failed").mean()) if len(asked) else None

"""Stage: trees of roles (MALT): some answer, others check each answer, others answer anew in view of both.

Every role has a prompt of its own, at which a new context begins; below the task `width` answers, below each as many
checks, below each of those as many new answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.judging import pass_rate
from pipeline.stages.varying import Case, one_try, rate, sampled_tokens, write_variants
from pipeline.stages.work import Work
from pipeline.store.ledger import Entry
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree

STAGE = "roles"
VERSION = "1"
GENERATE, VERIFY, REFINE = "generate", "verify", "refine"


@dataclass(frozen=True, slots=True)
class RoleConfig:
    """width: outputs of each role below one of the role before. check_tokens: of a check, at most."""

    width: int = 3
    temperature: float = 0.3
    top_p: float = 1.0
    check_tokens: int = 256


@dataclass(slots=True)
class RoleCase(Case):
    """An output of a role: `source` is the first role's answer, `answer` the second's check of it.

    place: among the outputs of its role in the tree; equal prompts are so asked for draws of their own.
    first_node, leaf: of the third's answer.
    """

    place: int = 0
    first_node: int | None = None
    leaf: int | None = None


def write_roles(work: Work, config: RoleConfig = RoleConfig()) -> Report:
    """Grow a tree of roles from every task."""
    check_counts(config, width=1, check_tokens=1)
    long = Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    short = Sampling(config.temperature, config.top_p, config.check_tokens)

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[RoleCase]:
        roots = [RoleCase(tree, Attempt(0, (), float("nan"))) for tree in trees.values()]
        answers = _outputs(grower, roots, tasks, GENERATE, long, config.width)
        checks = _outputs(grower, answers, tasks, VERIFY, short, config.width)
        return _outputs(grower, checks, tasks, REFINE, long, config.width)

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=_row)
    variants, nodes, verdicts = (shards.read(table) for table in ("variants", "nodes", "verdicts"))
    first = nodes.filter(pl.col("origin") == GENERATE).select("tree", "node")
    return shards.finish(
        refined=variants["dropped"].null_count(),
        pass_rate_generator=pass_rate(verdicts.join(first, on=["tree", "node"])),
        pass_rate_refiner=rate(variants, "with"),
        tokens=sampled_tokens(shards),
    )


_AGENTS = {GENERATE: "generator", VERIFY: "verifier", REFINE: "refiner"}


def _outputs(
    grower: Grower, above: Sequence[RoleCase], tasks: Tasks, role: str, sampling: Sampling, width: int
) -> list[RoleCase]:
    """What a role says below each output of the role before it; calls that failed leave nothing."""
    asked = []
    for case in above:
        node = _prompt(grower, case, tasks, role)
        if node is None:
            continue
        ids, first = case.tree.tokens(node), case.place * width
        asked += [
            (case, node, first + n, grower.request(case.tree.task, ids, sampling, sample=first + n))
            for n in range(width)
        ]
    entries = grower.run(request for *_, request in asked)
    return [
        _append(grower, case, node, role, place, entries[request.key])
        for case, node, place, request in asked
        if request.key in entries
    ]


def _prompt(grower: Grower, case: RoleCase, tasks: Tasks, role: str) -> int | None:
    """Append a role's prompt below what it is about; None where that spells a control token."""
    pack, tree = grower.work.pack, case.tree
    holes = {"question": tasks[tree.task]["question"]}
    holes["steps"] = pack.transcript([tree[step]["text"] for step in case.source.steps])
    holes["report"] = case.text
    if not all(grower.tokens.safe(text) for text in (holes["steps"], holes["report"])):
        return None
    shown = {GENERATE: holes["question"], VERIFY: holes["steps"], REFINE: holes["report"]}[role]
    below = case.source.leaf if case.answer is None else case.answer
    return tree.add_prompt(below, grower.tokens.render(pack.messages(role, **holes)), text=shown, agent=_AGENTS[role])


def _append(grower: Grower, case: RoleCase, prompt: int, role: str, place: int, entry: Entry) -> RoleCase:
    tree, agent, first = case.tree, _AGENTS[role], len(case.tree)
    if role == VERIFY:
        check = grower.add_whole(tree, prompt, entry, kind="critique", origin=VERIFY, agent=agent)
        return RoleCase(tree, case.source, answer=check, place=place)
    leaf = grower.add(tree, prompt, entry, origin=role, agent=agent)
    if role == REFINE:
        return RoleCase(tree, case.source, answer=case.answer, place=place, first_node=first, leaf=leaf)
    return RoleCase(tree, Attempt(leaf, tuple(tree.path(leaf)[1:]), float("nan")), place=place)


def _row(case: RoleCase, rewards: Rewards) -> dict[str, Any]:
    return {
        "variant": f"{case.tree.tree}/refinement/{case.source.leaf}/{case.leaf}",
        "kind": "refinement",
        "pivot": case.source.leaf,
        "first_node": case.first_node,
        **one_try(case.tree, case.first_node, rewards),
    }

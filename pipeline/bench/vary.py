"""Hangs retries and interventions on failed samples of drawn trees, as their stages do. Knows no token and no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.bench.shape import Shape
from pipeline.bench.skeleton import AGENT, ORIGIN, STAGES, Skeleton, grow_trees, in_order

CONTINUATIONS = 4
"""Drawn in each arm of an intervention."""
RIGHT = 0.5
"""Share of right ones among what grows on a failed sample."""
LEAF, ROOT, BEFORE, WRONG = -1, -2, -3, -4
"""Where a part hangs on what was there: the failed leaf, the root, the node before the wrong step, that step."""
PROMPT, REPORT, EDIT, GUIDED = 0, 1, 2, 3
"""Places of parts: the prompt about the attempt, what came back; the step written anew; the first step of a retry."""


class Cases(NamedTuple):
    """`C` failed samples of which something is made, at most one a tree.

    leaf:  `[C]` row.
    steps: `[C]` steps of the attempt.
    wrong: `[C]` the step held to be wrong, from 0.
    first: `[C]` row of the first part; the others follow it.
    """

    leaf: np.ndarray
    steps: np.ndarray
    wrong: np.ndarray
    first: np.ndarray


class Grown(NamedTuple):
    """Trees with all that their stages added."""

    trees: Skeleton
    retries: Cases
    interventions: Cases


class _Part(NamedTuple):
    """A node of what grows on a case.

    parent: place of a part, or one of LEAF to WRONG.
    head:   place of the first node of the same answer.
    source: place of the part it is a copy of; None: it is none.
    """

    parent: int
    origin: str
    agent: str
    head: int
    ends: bool
    source: int | None = None


def grow(shape: Shape, random: np.random.Generator, tasks: int) -> Grown:
    """The trees of some tasks."""
    trees = grow_trees(shape, random, tasks)
    failed = np.flatnonzero(trees.answers() & (trees.origin == ORIGIN["sample"]) & ~trees.right)
    retries = _choose(random, trees, failed, shape.retried, least=1)
    trees, retries = _hang(random, trees, retries, "retries", retry_parts)
    edits = _choose(random, trees, failed, shape.intervened, least=2)
    trees, edits = _hang(random, trees, edits, "interventions", intervention_parts)
    trees, row = in_order(trees)
    retries, edits = (cases._replace(leaf=row[cases.leaf], first=row[cases.first]) for cases in (retries, edits))
    return Grown(trees, retries, edits)


def retry_parts(steps: int, wrong: int) -> list[_Part]:
    """Reflection, the attempt guided by it, and that attempt's copy under the task's own prompt."""
    del wrong
    parts = [
        _Part(LEAF, "prompt", "reflector", PROMPT, False),
        _Part(PROMPT, "reflection", "reflector", REPORT, True),
        _Part(REPORT, "prompt", "solver", GUIDED - 1, False),
    ]
    parts += _chain(GUIDED, GUIDED - 1, steps, "guided_retry")
    copies = _chain(GUIDED + steps, ROOT, steps, "retry")
    return parts + [part._replace(head=GUIDED, source=GUIDED + step) for step, part in enumerate(copies)]


def intervention_parts(steps: int, wrong: int) -> list[_Part]:
    """Critique, the step put in the wrong one's place, and continuations of both."""
    parts = [
        _Part(LEAF, "prompt", "editor", PROMPT, False),
        _Part(PROMPT, "critique", "editor", REPORT, True),
        _Part(BEFORE, "intervention", "editor", EDIT, False),
    ]
    for arm in (EDIT, WRONG):
        for _ in range(CONTINUATIONS):
            parts += _chain(len(parts), arm, steps - 1 - wrong, "continuation")
    return parts


def _chain(first: int, parent: int, length: int, origin: str) -> list[_Part]:
    """An answer of some steps below a part, the first of them at a place."""
    return [
        _Part(first + step - 1 if step else parent, origin, "solver", first, step == length - 1)
        for step in range(length)
    ]


def _choose(random: np.random.Generator, trees: Skeleton, failed: np.ndarray, share: float, *, least: int) -> Cases:
    """The first failed sample of `least` steps, in a share of the trees; `least - 1` steps follow the wrong one."""
    long = failed[trees.depth[failed] >= least]
    leaf = long[np.unique(trees.tree[long], return_index=True)[1]]
    leaf = leaf[random.random(len(leaf)) < share]
    steps = trees.depth[leaf]
    wrong = (random.random(len(leaf)) * (steps - least + 1)).astype(np.int64)
    return Cases(leaf, steps, wrong, np.zeros(len(leaf), dtype=np.int64))


def _hang(
    random: np.random.Generator,
    trees: Skeleton,
    cases: Cases,
    stage: str,
    parts_of: Callable[[int, int], list[_Part]],
) -> tuple[Skeleton, Cases]:
    """The trees with what a stage hangs on each case, after all other rows, and where it hangs."""
    grown, first = [trees], cases.first.copy()
    base = len(trees.tree)
    for steps, wrong in sorted(set(zip(cases.steps.tolist(), cases.wrong.tolist()))):
        alike = np.flatnonzero((cases.steps == steps) & (cases.wrong == wrong))
        grown.append(_parts(trees, cases.leaf[alike], steps - 1 - wrong, parts_of(steps, wrong), base))
        size = len(grown[-1].tree) // len(alike)
        first[alike] = base + np.arange(len(alike)) * size
        base += len(grown[-1].tree)
    more = Skeleton(*(np.concatenate(columns) for columns in zip(*grown, strict=True)))
    new = np.arange(base) >= len(trees.tree)
    right = np.where(new & more.ends, random.random(base) < RIGHT, more.right)
    right = np.where(new & (more.source >= 0) & more.ends, right[more.source], right)
    return more._replace(stage=np.where(new, STAGES.index(stage), more.stage), right=right), cases._replace(first=first)


def _parts(trees: Skeleton, leaf: np.ndarray, after: int, parts: list[_Part], base: int) -> Skeleton:
    """The same parts on each of some leaves, whose rows begin at `base`; the wrong step has `after` others after it."""
    wrong = leaf
    for _ in range(after):
        wrong = trees.parent[wrong]
    old = {LEAF: leaf, ROOT: trees.context[leaf], BEFORE: trees.parent[wrong], WRONG: wrong}
    rows = base + np.arange(len(leaf) * len(parts)).reshape(len(leaf), len(parts))
    parent, depth, context = np.empty_like(rows), np.empty_like(rows), np.empty_like(rows)
    for place, part in enumerate(parts):
        above = part.parent
        if above in old:
            parent[:, place], depth[:, place] = old[above], trees.depth[old[above]] + 1
        else:
            parent[:, place], depth[:, place] = rows[:, above], depth[:, above] + 1
        if part.origin == "prompt":
            context[:, place] = rows[:, place]
        else:
            context[:, place] = trees.context[old[above]] if above in old else context[:, above]
    nowhere = np.full(len(leaf), -1)
    return Skeleton(
        tree=np.repeat(trees.tree[leaf], len(parts)),
        node=np.zeros(rows.size, dtype=np.int64),
        parent=parent.ravel(),
        context=context.ravel(),
        depth=depth.ravel(),
        stage=np.zeros(rows.size, dtype=np.int64),
        origin=np.tile([ORIGIN[part.origin] for part in parts], len(leaf)),
        agent=np.tile([AGENT[part.agent] for part in parts], len(leaf)),
        head=rows[:, [part.head for part in parts]].ravel(),
        source=np.stack([nowhere if part.source is None else rows[:, part.source] for part in parts], axis=1).ravel(),
        ends=np.tile([part.ends for part in parts], len(leaf)),
        right=np.zeros(rows.size, dtype=bool),
    )

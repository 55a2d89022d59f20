"""Grows trees without content, of samples and branches: which node hangs where, in which stage, which leaf is right.

Knows no token, no table, and nothing of what is made of failed samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.bench.shape import Shape
from pipeline.credit.columns import rows_by_depth
from schemas.words import AGENTS, ORIGINS

TASK_SPREAD, STEP_SPREAD = 1.5, 0.8
"""Standard deviation of a task's log-odds of being solved, and of what each step adds to them."""
ORIGIN = {word: code for code, word in enumerate(ORIGINS)}
AGENT = {word: code for code, word in enumerate(AGENTS)}
STAGES = ("rollouts", "trees", "retries", "interventions")
"""Codes of the columns below."""


class Skeleton(NamedTuple):
    """`N` nodes, by tree and number.

    tree:    `[N]` task of the node, from 0.
    node:    `[N]` number in the tree: what a later stage adds comes later.
    parent:  `[N]` row; -1 at a root.
    context: `[N]` row of the prompt at which the node's context begins.
    depth:   `[N]` edges from the root.
    stage:   `[N]` code, place in STAGES; origin, agent: `[N]` codes, by ORIGIN and AGENT.
    head:    `[N]` row of the first node that the node's request wrote; a prompt's is itself.
    source:  `[N]` row whose tokens the node repeats; -1: none.
    ends:    `[N]` bool, the last node of a request.
    right:   `[N]` bool, of an answer that ends here, whether it solves the task.
    """

    tree: np.ndarray
    node: np.ndarray
    parent: np.ndarray
    context: np.ndarray
    depth: np.ndarray
    stage: np.ndarray
    origin: np.ndarray
    agent: np.ndarray
    head: np.ndarray
    source: np.ndarray
    ends: np.ndarray
    right: np.ndarray

    def prompts(self) -> np.ndarray:
        """`[N]` bool: rendered, not written."""
        return self.origin == ORIGIN["prompt"]

    def sampled(self) -> np.ndarray:
        """`[N]` bool: drawn from the policy in this very context."""
        return ~self.prompts() & (self.source < 0) & (self.origin != ORIGIN["intervention"])

    def answers(self) -> np.ndarray:
        """`[N]` bool: the end of an attempt at the task, which a verifier judges."""
        return self.ends & ~np.isin(self.origin, [ORIGIN[word] for word in ("reflection", "critique")])


def grow_trees(shape: Shape, random: np.random.Generator, tasks: int) -> Skeleton:
    """A full tree for every task, less what lies below a step that ends early; in each, samples before branches."""
    parents, depths, firsts = _full_tree(shape.branching)
    size, count = len(parents), len(parents) * tasks
    depth, first = np.tile(depths, tasks), np.tile(firsts, tasks)
    tree = np.repeat(np.arange(tasks), size)
    parent = np.where(depth > 0, np.tile(parents, tasks) + tree * size, -1)
    stops = random.random(count) < shape.early_stop
    odds = random.normal(0.0, np.where(depth == 0, TASK_SPREAD, STEP_SPREAD))
    alive, head = np.ones(count, dtype=bool), np.arange(count)
    for rows in rows_by_depth(depth)[1:]:
        alive[rows] = alive[parent[rows]] & ~(stops[parent[rows]] & (depth[rows] > 1))
        odds[rows] += odds[parent[rows]]
        same = rows[first[rows] & (depth[rows] > 1)]
        head[same] = head[parent[same]]
    ends = alive.copy()
    ends[parent[alive & (depth > 0)]] = False
    branch = depth[head] > 1
    kept = np.flatnonzero(alive)
    order = kept[np.lexsort((kept, branch[kept], tree[kept]))]
    row = np.full(count, -1)
    row[order] = np.arange(len(order))
    tree, depth, branch = tree[order], depth[order], branch[order]
    roots = np.flatnonzero(depth == 0)
    return Skeleton(
        tree=tree,
        node=np.arange(len(order)) - roots[tree],
        parent=np.where(depth > 0, row[parent[order]], -1),
        context=roots[tree],
        depth=depth,
        stage=branch.astype(np.int64),
        origin=np.select([depth == 0, branch], [ORIGIN["prompt"], ORIGIN["branch"]], ORIGIN["sample"]),
        agent=np.full(len(order), AGENT["solver"]),
        head=row[head[order]],
        source=np.full(len(order), -1),
        ends=ends[order],
        right=ends[order] & (random.random(len(order)) < 1.0 / (1.0 + np.exp(-odds[order]))),
    )


def _full_tree(branching: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parent, depth and whether it is its parent's first child, of the nodes of one tree, depth first."""
    nodes: list[tuple[int, int, bool]] = []
    waiting = [(-1, 0, False)]
    while waiting:
        parent, depth, first = waiting.pop()
        below = branching[depth] if depth < len(branching) else 0
        waiting += [(len(nodes), depth + 1, child == 0) for child in reversed(range(below))]
        nodes.append((parent, depth, first))
    parents, depths, firsts = zip(*nodes, strict=True)
    return np.array(parents), np.array(depths), np.array(firsts)


def in_order(trees: Skeleton) -> tuple[Skeleton, np.ndarray]:
    """The same nodes by tree and stage, numbered so, with the new row of each.

    Args:
        trees: the nodes of a tree and stage in their order; `node` is of no account.
    """
    order = np.lexsort((trees.stage, trees.tree))
    row = np.empty(len(order) + 1, dtype=np.int64)
    row[order], row[-1] = np.arange(len(order)), -1
    moved = {name: row[getattr(trees, name)] for name in ("parent", "context", "head", "source")}
    sorted_ = Skeleton(*(column[order] for column in trees._replace(**moved)))
    roots = np.flatnonzero(sorted_.parent < 0)
    return sorted_._replace(node=np.arange(len(order)) - roots[sorted_.tree]), row

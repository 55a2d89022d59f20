"""Bench `forest`: how much a tree saves over its paths; keeps the forest on which the other benches measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.bench.draw import ROUND, Forest, draw_forest
from pipeline.bench.metric import Metric, figure, ratio
from pipeline.bench.shape import Shape
from pipeline.credit.columns import Trees, trees_from_nodes
from pipeline.store.layout import Place
from pipeline.store.store import Store

PLACE = Place("bench", ROUND, "forest", "train-000")


@dataclass(frozen=True)
class StoredForest:
    """A forest in a store of its own under `root`, drawn when first asked for."""

    root: Path
    shape: Shape

    @cached_property
    def store(self) -> Store:
        """The store, with the forest's nodes and verdicts in it."""
        store = Store(self.root / "forest")
        for table, rows in draw_forest(self.shape)._asdict().items():
            store.write(table, rows, PLACE, inputs={})
        return store

    def read(self) -> Forest:
        """The forest, from the store."""
        return Forest(self.store.read("nodes", [PLACE]), self.store.read("verdicts", [PLACE]))


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Nodes, tokens, and tokens of all paths from the root to a leaf over the tokens of all nodes."""
    trees = trees_from_nodes(*forest.read())
    params = {**forest.shape.params(), "leaves": int(trees.leaves().sum()), "judged": len(trees.judged())}
    unique = len(trees.tokens)
    yield ratio("forest.path_unique_ratio", path_tokens(trees), unique, unit="x", params=params)
    yield figure("forest.nodes", len(trees.parent), unit="nodes", params=params)
    yield figure("forest.unique_tokens", unique, unit="tokens", params=params)


def path_tokens(trees: Trees) -> int:
    """Tokens along the paths from the root, prompt included, to each leaf, a shared one counted once for each."""
    leaves, roots = np.flatnonzero(trees.leaves()), np.flatnonzero(trees.parent < 0)
    prompts = trees.token_counts()[roots[trees.tree[leaves]]]
    return int(trees.paths(leaves).token_counts(trees).sum() + prompts.sum())

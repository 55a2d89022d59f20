"""What must hold of variants as they lie in the store, beside what holds of any table. Checks in the form of CHECKS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from pipeline.store.checks import Check, Finding
from pipeline.store.layout import Place, by_shard
from pipeline.store.store import Store
from pipeline.trees.grow import Tree, read_trees

LEAST_PARSED = 0.5
"""Share of the JSON answers below which reading or prompts are broken."""
PLAIN = ("retry", "continuation", "regenerate", "intervention", "summary")
"""Origins of what stands in the task's own context, where no report and no reference is."""


def departs_from_source(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """A variant under the task's prompt hangs on its source's own nodes: the tokens up to the pivot are the same."""
    looked = 0
    for tree, rows in _trees(store, table, places):
        for row in rows:
            if row["first_node"] is None or row["kind"] == "refinement":
                continue
            looked += 1
            source, own = tree.line(row["source_leaf"]), tree.line(row["first_node"])
            shared = source.index(row["pivot"]) + 1 if row["pivot"] in source else 0
            if not shared or own[:shared] != source[:shared]:
                return Finding(False, f"variant {row['variant']} does not begin as its source does")
    return Finding(True, f"{looked} variants")


def contexts_plain(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """Distilled retries, continuations, edits and revisions stand under the task's prompt, where no report or reference
    is."""
    looked = 0
    for some in by_shard(places):
        nodes = store.read("nodes", _nodes_of(store, some), columns=["tree", "node", "origin", "context"])
        plain = nodes.filter(pl.col("origin").is_in(PLAIN))
        looked += plain.height
        begins = nodes.select("tree", pl.col("node").alias("context"), begun="origin")
        led = plain.join(begins, on=["tree", "context"], how="left", maintain_order="left").filter(
            (pl.col("context") != 0) & ~pl.col("begun").is_in(("sample", *PLAIN))
        )
        if led.height:
            first = led.row(0, named=True)
            said = f"{led.height} nodes stand in another context, as node {first['node']} of {first['tree']}"
            return Finding(False, said)
    return Finding(True, f"{looked} nodes")


def draws_apart(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """No draw that continues an episode stands in its tree twice."""
    looked = 0
    for some in by_shard(places):
        columns = ["tree", "node", "origin", "turn", "sampled", "request"]
        drawn = store.read("nodes", _nodes_of(store, some), columns=columns).filter(
            pl.col("sampled") & (pl.col("origin") == "continuation") & (pl.col("turn") > 0)
        )
        looked += drawn.height
        twice = drawn.filter(pl.struct("tree", "request").is_duplicated())
        if twice.height:
            first = twice.row(0, named=True)
            said = f"{twice.height} nodes are of draws that stand twice, as node {first['node']} of {first['tree']}"
            return Finding(False, said)
    return Finding(True, f"{looked} draws")


def answers_parsed(store: Store, table: str, places: Sequence[Place]) -> Finding:
    """At least half of the JSON answers that were asked for could be read."""
    asked = store.read(table, list(places), columns=["parsed"])["parsed"].drop_nulls()
    failed = int((asked == "failed").sum())
    share = 1 - failed / max(1, len(asked))
    return Finding(share >= LEAST_PARSED, f"{len(asked) - failed} of {len(asked)} answers were read")


def _nodes_of(store: Store, places: Sequence[Place]) -> list[Place]:
    """The places of all nodes of the shards of some variants."""
    first = places[0]
    found = store.places("nodes", suite=first.suite, round=first.round)
    return [place for place in found if place.shard == first.shard]


def _trees(store: Store, table: str, places: Sequence[Place]) -> Iterator[tuple[Tree, list[dict[str, Any]]]]:
    """Each tree with its variants."""
    for some in by_shard(places):
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in store.read(table, list(some)).iter_rows(named=True):
            rows.setdefault(row["task"], []).append(row)
        trees = read_trees(store.read("nodes", _nodes_of(store, some)))
        yield from ((trees[task], found) for task, found in rows.items())


VARIANT_CHECKS: dict[str, Check] = {
    "departs_from_source": departs_from_source,
    "contexts_plain": contexts_plain,
    "draws_apart": draws_apart,
    "answers_parsed": answers_parsed,
}
"""For CHECKS["variants"]."""

"""From stories to nodes and verdicts. Knows no engine and no file."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from pipeline.environments.story import Ending, Story
from pipeline.tasks.verifiers import VERSION
from pipeline.trees.grow import Tree
from pipeline.trees.lay_out import lay_out
from schemas import Verdicts
from schemas.base import column_types


def told(story: Story) -> tuple[Tree, dict[int, int]]:
    """The nodes of a story, and the node of each of its pieces.

    What the policy was shown between its turns is a node of kind `prompt` in the context of the turns before it; a
    turn is one node. Nothing of it depends on the order in which episodes went on.
    """
    if story.draft is None:
        story.begin(story.unopened)
    tree = Tree(story.task, story.tree)
    node_of = lay_out(story.draft, tree, by_step=False)
    for piece, node in node_of.items():
        tree[node].update(story.marks.get(piece, {}))
    begins = {node_of[piece] for piece in story.begins}
    for row in tree.nodes:
        row["episode"] = story.episode
        if row["parent"] is not None:
            row["context"] = row["node"] if row["node"] in begins else tree[row["parent"]]["context"]
    for ending in story.endings:
        if ending.piece:
            tree[node_of[ending.piece]]["finish"] = ending.finish
    return tree, node_of


def verdict_rows(stories: Iterable[tuple[Story, dict[int, int]]], *, verifier: dict[str, str]) -> pl.DataFrame:
    """The verdicts on the ends of episodes; of episodes that never began, one a tree, on its root.

    Args:
        stories: with the node of each of their pieces.
        verifier: of each task.
    """
    rows = []
    for story, node_of in stories:
        judged: dict[int, Ending] = {}
        for ending in story.endings:
            if ending.verdict is not None:
                judged.setdefault(node_of[ending.piece], ending)
        rows += [
            {
                "task": story.task,
                "tree": story.tree,
                "node": node,
                "verifier": verifier[story.task],
                "version": VERSION,
                **ending.verdict._asdict(),
            }
            for node, ending in judged.items()
        ]
    return pl.DataFrame(rows, schema=column_types(Verdicts), orient="row")

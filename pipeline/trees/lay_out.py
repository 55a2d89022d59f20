"""From a draft to nodes: where its pieces are cut, and how the nodes are numbered. Nothing of it depends on time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.trees.draft import Draft, Piece
from pipeline.trees.grow import Tree


def lay_out(draft: Draft, tree: Tree, *, by_step: bool) -> dict[int, int]:
    """Append the pieces of a draft to a tree, each as a chain of nodes.

    A piece is cut where another hangs on it, where a score was said of it and, with `by_step`, after each of its steps.
    Pieces of earlier stages stay as they are. Scores of places go with the node that ends there, if one of the piece
    does.

    Args:
        tree: without nodes where the draft began with the prompt; else the tree that it began with.

    Returns:
        The last node of each piece that has tokens or nodes.

    Raises:
        ValueError: something hangs in the middle of a node of an earlier stage.
    """
    hung: dict[int, list[int]] = defaultdict(list)
    for number, piece in reversed(list(enumerate(draft.pieces))):
        if piece.at is not None and (len(piece.token_ids) or hung[number]):
            hung[piece.at.piece].append(number)
    scored: dict[int, set[int]] = defaultdict(set)
    for piece, end in (spot for places in draft.scores.values() for spot in places):
        scored[piece].add(end)
    nodes: list[dict[int, int]] = [dict(piece.nodes) for piece in draft.pieces]
    last: dict[int, int] = {}
    waiting = [0]
    while waiting:
        number = waiting.pop()
        piece = draft.pieces[number]
        children = sorted(hung[number], key=draft.rank)
        ends = {draft.pieces[child].at.end for child in children}
        if not piece.nodes:
            above = None if piece.at is None else _node_at(draft, nodes, piece)
            _append(draft, tree, number, above, ends, nodes, cuts=scored[number], by_step=by_step)
        if nodes[number]:
            last[number] = nodes[number][max(nodes[number])]
        waiting += children[::-1]
    for name, places in draft.scores.items():
        found = [(nodes[piece].get(end), value) for (piece, end), value in places.items()]
        tree.scores += [{"name": name, "node": node, "value": value} for node, value in found if node is not None]
    return last


def _node_at(draft: Draft, nodes: list[dict[int, int]], piece: Piece) -> int:
    """The node after which a piece goes on."""
    at = piece.at
    while at.end == 0 and at.end not in nodes[at.piece]:
        at = draft.pieces[at.piece].at
    if at.end not in nodes[at.piece]:
        raise ValueError(f"tree {draft.tree}: a piece hangs in the middle of a node, {at.end} tokens into it")
    return nodes[at.piece][at.end]


def _append(
    draft: Draft,
    tree: Tree,
    number: int,
    above: int | None,
    ends: set[int],
    nodes: list[dict[int, int]],
    *,
    cuts: set[int],
    by_step: bool,
) -> None:
    """Append one piece as a chain."""
    piece = draft.pieces[number]
    if above is None:
        prompt = tree.add_prompt(None, piece.token_ids, text=draft.text, agent="solver")
        nodes[number][len(piece.token_ids)] = prompt
        return
    length, node = len(piece.token_ids), above
    if by_step and piece.kind == "step":
        cuts = cuts | {step.end for step in draft.reading.steps(piece.token_ids)}
    bounds = [0, *sorted((cuts | ends | {length}) - {0})] if length else []
    for start, end in pairwise(bounds):
        node = tree.add(node, **_columns(draft, piece, start, end, is_end=end == length and length not in ends))
        nodes[number][end] = node


def _columns(draft: Draft, piece: Piece, start: int, end: int, *, is_end: bool) -> dict:
    """Columns of the node with some tokens of a piece."""
    ids = piece.token_ids[start:end]
    sampled = piece.logprobs is not None
    return {
        "kind": piece.kind,
        "origin": piece.origin,
        "agent": "solver",
        "sampled": sampled,
        "token_ids": ids.tolist(),
        "logprobs": piece.logprobs[start:end].tolist() if sampled else None,
        "text": _bare_text(draft, ids),
        "request": piece.entry.completion.key if sampled and piece.entry else None,
        "policy": piece.entry.policy if sampled and piece.entry else None,
        "finish": piece.finish if is_end else None,
    }


def _bare_text(draft: Draft, ids: np.ndarray) -> str:
    """The text of some tokens, without the separators at its ends."""
    steps: Sequence = draft.reading.steps(ids)
    return steps[0].text if len(steps) == 1 else draft.reading.decode(ids.tolist())

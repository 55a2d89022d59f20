"""A draft of what earlier stages left of a tree, to be grown further. Does not look at files."""

from __future__ import annotations

import numpy as np

from pipeline.trees.draft import Draft, Piece, Reading, Spot
from pipeline.trees.grow import Tree


def known_draft(tree: Tree, rewards: dict[tuple[str, int], float], *, max_tokens: int, reading: Reading) -> Draft:
    """The nodes in the context of the task's own prompt as pieces: a chain of one request is one piece.

    Args:
        rewards: by tree and node, of those that were judged.
    """
    prompt = tree.known[0]
    root = Piece(None, np.asarray(prompt["token_ids"], np.int32), nodes={len(prompt["token_ids"]): 0})
    pieces, spots = [root], {0: Spot(0, len(prompt["token_ids"]))}
    drawn: dict[tuple, int] = {}
    for number, row in tree.known.items():
        if number == 0 or row["context"] != 0 or row["parent"] not in spots:
            continue
        above, ids = spots[row["parent"]], np.asarray(row["token_ids"], np.int32)
        logprobs = None if row["logprobs"] is None else np.asarray(row["logprobs"], np.float32)
        goes_on = pieces[above.piece].nodes and _goes_on(tree, pieces[above.piece], above, row)
        if goes_on:
            piece = pieces[above.piece]
            piece.token_ids = np.concatenate([piece.token_ids, ids])
            piece.logprobs = None if logprobs is None else np.concatenate([piece.logprobs, logprobs])
            spot = Spot(above.piece, len(piece.token_ids))
        else:
            same = (above, row["origin"], row["kind"])
            drawn[same] = drawn.get(same, -1) + 1
            piece = Piece(above, ids, logprobs, origin=row["origin"], kind=row["kind"], sample=drawn[same])
            pieces.append(piece)
            spot = Spot(len(pieces) - 1, len(ids))
        piece.nodes[spot.end] = number
        piece.finish, piece.reward = row["finish"], rewards.get((tree.tree, number))
        spots[number] = spot
    return Draft(tree.task, tree.tree, prompt["text"], max_tokens, reading, pieces)


def _goes_on(tree: Tree, piece: Piece, above: Spot, row: dict) -> bool:
    """Whether a node is the next of the request that the piece before it came of."""
    last = tree.known[row["parent"]]
    is_end = above.end == len(piece.token_ids) and above.piece != 0
    return is_end and row["request"] is not None and row["request"] == last["request"]

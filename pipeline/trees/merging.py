"""Prefix merging (P2T): answers that begin alike share their tokens, so that each stands once in the tree."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pipeline.trees.draft import Draft
from pipeline.trees.prefixes import Prefixes


class TokenCounts(NamedTuple):
    """Tokens of a tree, the prompt's included.

    path:   if each path were kept for itself, from the prompt to its end.
    stored: of the pieces as they are.
    unique: of the pieces once they are merged.
    """

    path: int
    stored: int
    unique: int


def merge_prefixes(draft: Draft) -> Draft:
    """Hang every piece where its tokens first differ from those that others have there.

    Two tokens are one when all before them are the same, and they are of one kind, both sampled or both written.
    Prompts stay whole, for a context begins at each. What stands for equal tokens, its log-probabilities included, is
    the first piece in the order of `Draft.rank`. A piece of which no token is left is left out, and its verdict with
    it: nodes cannot tell an answer from its double.

    Args:
        draft: stays as it is.

    Returns:
        A draft with the same paths.

    Raises:
        ValueError: a piece is of an earlier stage, whose nodes stay as they are.

    Source: TEMPO (2025), prefix-to-tree, for trees instead of groups.
    """
    if any(piece.nodes for piece in draft.pieces[1:]):
        raise ValueError(f"tree {draft.tree}: nodes of earlier stages cannot be merged")
    prefixes = Prefixes(draft)
    for number in sorted(range(1, len(draft.pieces)), key=draft.rank):
        prefixes.add(number)
    return replace(draft, pieces=prefixes.pieces)


def token_counts(draft: Draft) -> TokenCounts:
    """What merging the prefixes of a tree is worth."""
    gone_on = {piece.at for piece in draft.pieces}
    ends = [draft.end_of(number) for number in range(len(draft.pieces))]
    return TokenCounts(
        path=sum(draft.length(end) for end in ends if end not in gone_on),
        stored=_tokens(draft),
        unique=_tokens(merge_prefixes(draft)),
    )


def _tokens(draft: Draft) -> int:
    return sum(len(piece.token_ids) for piece in draft.pieces)

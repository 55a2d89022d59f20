"""What the policy said along paths as rows of tokens, and what is said of them put back on tokens and nodes.

Needs the INPUT `kind`. Does not know what is said, nor which of the tokens count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by, ranges
from pipeline.credit.ragged import Ragged, row_sums
from pipeline.credit.spoken import chosen, said_by_policy
from pipeline.credit.trajectories import Trajectories


class TokenRows(NamedTuple):
    """`S` tokens of `M` trajectories of `P` steps; a token of a shared step is there once for each trajectory.

    places:  `[S]` int64, where each stands among the tokens of the trees.
    offsets: `[M + 1]` int64, where the tokens of each trajectory begin.
    steps:   `[P + 1]` int64, where the tokens of each step begin.
    """

    places: np.ndarray
    offsets: np.ndarray
    steps: np.ndarray

    def of(self, values: np.ndarray) -> Ragged:
        """What `values`, an entry a token of the trees, say of each trajectory."""
        return Ragged(values[self.places], self.offsets)

    def by_step(self, values: np.ndarray) -> Ragged:
        """The same, a row a step."""
        return Ragged(values[self.places], self.steps)


def token_rows(trees: Trees, found: Trajectories, *, counted: np.ndarray | None = None) -> TokenRows:
    """The tokens of trajectories.

    Args:
        trees: `N` nodes, `T` tokens.
        found: of `pipeline.credit.spoken`, so that there are none of rendered nodes.
        counted: `[T]` bool, the tokens to take. None: all.
    """
    paths = found.paths
    sizes = trees.token_counts()[paths.nodes]
    places = ranges(trees.token_offsets[paths.nodes], sizes)
    steps = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    if counted is not None:
        kept = counted[places]
        places, steps = places[kept], np.concatenate(([0], np.cumsum(kept, dtype=np.int64)))[steps]
    return TokenRows(places, steps[paths.offsets], steps)


def known_throughout(trees: Trees, found: Trajectories, *names: str, counted: np.ndarray | None = None) -> Trajectories:
    """The trajectories of whose tokens nothing is unknown.

    Args:
        trees: `N` nodes, `T` tokens.
        found: as in `token_rows`.
        names: what must be known, of INPUTS with an entry a token.
        counted: `[T]` bool, the tokens of which it must. None: all.
    """
    unknown = np.logical_or.reduce([np.isnan(trees.given[name]) for name in names])
    if counted is not None:
        unknown &= counted
    lost = np.diff(np.concatenate(([0], np.cumsum(unknown)))[trees.token_offsets])
    return chosen(found, row_sums(lost[found.paths.nodes], found.paths.offsets) == 0)


def lay_tokens(trees: Trees, rows: TokenRows, values: np.ndarray, *, counted: np.ndarray | None = None) -> np.ndarray:
    """What the tokens of trajectories earn, by token of the trees.

    Args:
        trees: `N` nodes, `T` tokens.
        rows: `S` tokens.
        values: `[S]` float64; NaN: unknown, left out.
        counted: the same that made the rows.

    Returns:
        `[T]` float64: mean of the values of a token; 0 in roots, in rendered nodes and where not counted, NaN where
        none is known.
    """
    known = ~np.isnan(values)
    tokens = mean_by(rows.places[known], values[known], int(trees.token_offsets[-1]))
    said = np.repeat(said_by_policy(trees), trees.token_counts())
    return np.where(said if counted is None else said & counted, tokens, 0.0)


def credit_of_tokens(
    trees: Trees, rows: TokenRows, values: np.ndarray, *, counted: np.ndarray | None = None
) -> CreditColumns:
    """`lay_tokens` as credit; the advantage of a node is the mean over those of its tokens that are counted and known,
    0 where the policy said nothing, NaN without such a token."""
    tokens, node = (
        lay_tokens(trees, rows, values, counted=counted),
        np.repeat(np.arange(len(trees.parent)), trees.token_counts()),
    )
    told = ~np.isnan(tokens) if counted is None else ~np.isnan(tokens) & counted
    advantage = drop_rounding(mean_by(node[told], tokens[told], len(trees.parent)))
    return CreditColumns(advantage=np.where(said_by_policy(trees), advantage, 0.0), token_advantages=tokens)

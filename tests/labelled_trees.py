"""Small trees with labels of steps, for tests of credit methods."""

from __future__ import annotations

import numpy as np

from pipeline.credit.columns import Trees

NA = float("nan")


def labelled_trees(parent, reward, *, sizes=None, tree=None, **given) -> Trees:
    """Trees from the parents of the nodes, their verdicts, token counts (one by default) and inputs by name."""
    count = len(parent)
    depth = np.zeros(count, np.int32)
    for row, above in enumerate(parent):
        depth[row] = 0 if above < 0 else depth[above] + 1
    offsets = np.cumsum([0, *(sizes or [1] * count)], dtype=np.int64)
    return Trees(
        parent=np.array(parent, np.int32),
        depth=depth,
        tree=np.array(tree or [0] * count, np.int32),
        reward=np.array(reward, np.float64),
        tokens=None,
        token_offsets=offsets,
        given={name: np.array(values, np.float64) for name, values in given.items()},
    )

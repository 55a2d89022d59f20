"""Small trees of what a policy said and what was rendered in between, for tests of credit methods on stored columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from labelled_trees import labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.columns import CreditColumns, Trees
from schemas.words import KINDS

PROMPT, STEP = KINDS.index("prompt"), KINDS.index("step")


def spoken_trees(parent, reward, *, rendered=(), sizes=None, tree=None, **given) -> Trees:
    """Trees given kinds, of steps but for roots and some rows, and inputs by name: numbers, or texts by row."""
    trees, count = labelled_trees(parent, reward, sizes=sizes, tree=tree), len(parent)
    kind = np.full(count, STEP)
    kind[[row for row, above in enumerate(parent) if above < 0 or row in rendered]] = PROMPT
    columns = {
        name: pl.Series([values.get(row) for row in range(count)], dtype=pl.String)
        if isinstance(values, dict)
        else np.array(values, np.float64)
        for name, values in given.items()
    }
    return replace(trees, given={"kind": kind} | columns)


def credited(name: str, trees: Trees, **params) -> CreditColumns:
    """What a method of METHODS says of trees."""
    method = METHODS[name]
    assert set(method.needs) <= {*trees.given, "tokens"}
    return method.function(trees, method.params(**params))

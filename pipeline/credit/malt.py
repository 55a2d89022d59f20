"""MALT: values of a tree of roles, averaged upward from graded leaves, and whether each output counts as good.

Does not know what the roles are; any depth will do. Rows for training are cut in `pipeline.builders.malt`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees
from pipeline.credit.spo_tree import node_values
from pipeline.credit.spoken import said_by_policy
from pipeline.errors import check_words

COMPARISONS = ("strictly greater", "greater or equal")
"""How a value must stand to the threshold for a good label."""


@dataclass(frozen=True, slots=True)
class MaltParams:
    """threshold: value to be passed by a good output. comparison: word of COMPARISONS.

    Raises:
        BadConfig: no such comparison.
    """

    threshold: float = 0.5
    comparison: str = "strictly greater"

    def __post_init__(self) -> None:
        check_words(self, of="malt", comparison=COMPARISONS)


DEFAULTS = MaltParams()


def node_labels(trees: Trees, values: np.ndarray, params: MaltParams = DEFAULTS) -> np.ndarray:
    """Whether each output is good: a leaf by its reward, any other by its value.

    Args:
        trees: `N` nodes; a leaf without a reward is a call that failed.
        values: `[N]` float64, of `pipeline.credit.spo_tree.node_values`.
        params: threshold and comparison.

    Returns:
        `[N]` float64: 1 good, 0 not, NaN where no graded leaf is below. Values no further apart than rounding count
        as equal.

    Source: MALT (Motwani et al., 2024).
    """
    if params.comparison == "strictly greater":
        good = values > params.threshold + ZERO
    else:
        good = values >= params.threshold - ZERO
    graded = ~np.isnan(trees.reward)
    label = np.where(graded, trees.reward >= 1, good).astype(np.float64)
    return np.where(np.isnan(values), np.nan, label)


def malt_credit(trees: Trees, params: MaltParams = DEFAULTS) -> CreditColumns:
    """Value of every output, and which ones are to be imitated.

    Needs `kind`: the prompt that a role was given is rendered. A role's output may be several nodes in a row, which
    share its value. A parent skips children without graded descendants. In stored trees only verdicts of the last role
    count: what a first answer is worth, answers in view of it say.

    Args:
        trees: `N` nodes, one level of outputs below the other.
        params: threshold and comparison.

    Returns:
        value: `[N]` float64 in [0, 1]; NaN where no graded leaf is below.
        advantage: `[N]` float64, 1 for a good output and 0 for another, so that a policy gradient is the likelihood of
            good outputs, which the paper trains on; 0 where the policy said nothing, NaN where no graded leaf is below.
        mask: `[N]` bool, True for good outputs.

    Source: MALT (Motwani et al., 2024). Deviation: a leaf without a reward is left out instead of counting 0.
    """
    values, said = node_values(trees), said_by_policy(trees)
    labels = np.where(said, node_labels(trees, values, params), 0.0)
    return CreditColumns(value=values, advantage=labels, mask=labels == 1)

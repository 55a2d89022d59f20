"""Labels that come from elsewhere: of people, of judges. They stand as they were given, whatever else is known."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.labels.rows import label_rows

JUDGING = ("capo", "tp_grpo", "genprm", "thinkprm", "sophiavl")
"""Judges of pipeline.judges.JUDGES that label steps; the others give scores."""


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """A labeller that nodes and verdicts alone do not tell. command: gives its labels.

    Called as the others are, it says what stands beside the nodes, in columns `hard:<name>` and `soft:<name>`: a
    verdict that is hidden changes nothing for it.
    """

    name: str
    command: str

    def __call__(self, nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
        del verdicts
        said = nodes.select("task", "tree", "node", hard=f"hard:{self.name}", soft=f"soft:{self.name}")
        known = said.filter(pl.col("hard").is_not_null() | pl.col("soft").is_not_null())
        return label_rows(known, labeller=self.name, version="")


GIVEN = {
    "prm": GivenLabels("prm", "branchpoint prm-scores --prm NAME"),
    "human": GivenLabels("human", "branchpoint step-labels --labeller human --file FILE"),
    **{name: GivenLabels(name, f"branchpoint judge --judge {name}") for name in JUDGING},
}

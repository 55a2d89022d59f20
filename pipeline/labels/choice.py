"""Which label of a step is taken where several labellers spoke: a stated policy, as a pure function of rows."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.errors import BadConfig, BadTable
from pipeline.labels.given import JUDGING
from pipeline.labels.ledger import newest, speaker

CHOSEN = "chosen"
"""In place of a labeller: of each step the label that a policy takes."""
KINDS: dict[str, tuple[str, ...]] = {
    "tool": ("tool",),
    "human": ("human",),
    "monte_carlo": ("monte_carlo",),
    "judge": JUDGING,
}
"""Words of an order that stand for labellers; any other word is a labeller's name."""


@dataclass(frozen=True, slots=True)
class ChoicePolicy:
    """How labels are chosen.

    order: labellers, or words of KINDS, the most trusted first; the others are not taken. Labellers of one kind rank
        in the order of KINDS.
    threshold: chance of success that tells right from wrong.
    excluded: take labels of `monte_carlo` only where their interval excludes the threshold.

    Raises:
        BadConfig: there is no order, or no such threshold.
    """

    order: tuple[str, ...] = ("tool", "human", "monte_carlo", "judge")
    threshold: float = 0.5
    excluded: bool = True

    def __post_init__(self) -> None:
        if not self.order or len(set(self.order)) < len(self.order):
            raise BadConfig(f"order {self.order!r} of labellers", remedy="name each once, the most trusted first")
        if not 0 <= self.threshold < 1:
            raise BadConfig(f"threshold {self.threshold} of labels", remedy="give one from 0 to below 1")

    def __str__(self) -> str:
        """In words, for files and cards."""
        sure = f" whose interval excludes {self.threshold:g}" if self.excluded else ""
        return " over ".join(word + (sure if word == "monte_carlo" else "") for word in self.order)


DEFAULT = ChoicePolicy()
"""Tool over human over Monte Carlo whose interval excludes the threshold over judge."""


def choose_labels(labels: pl.DataFrame, policy: ChoicePolicy = DEFAULT) -> pl.DataFrame:
    """The label of each step that a policy takes.

    Args:
        labels: rows of the step_labels table, of any labellers; of each the newest entry of a step counts.
        policy: what is taken.

    Returns:
        Rows of the table, one a step at most, sorted by task, tree and node. Where an interval excludes the threshold,
        `hard` is the side that it lies on. A label without `hard` is not taken.

    Raises:
        BadTable: labels of one labeller are of several versions, of itself or of the verifier; people may be several.
    """
    rows = newest(labels)
    _refuse_mixed(rows)
    places = {name: place for place, name in enumerate(labellers(policy.order))}
    sampled = pl.col("labeller") == "monte_carlo"
    side = (
        pl.when(pl.col("low") > policy.threshold)
        .then(True)
        .when(pl.col("high") < policy.threshold)
        .then(False)
    )  # fmt: skip
    hard = pl.when(sampled).then(side if policy.excluded else pl.col("soft") > policy.threshold).otherwise("hard")
    taken = rows.filter(pl.col("labeller").is_in(list(places))).with_columns(hard=hard).drop_nulls("hard")
    rank = pl.col("labeller").replace_strict(places, return_dtype=pl.Int32)
    best = taken.sort(rank, maintain_order=True).unique(["tree", "node"], keep="first", maintain_order=True)
    return best.sort("task", "tree", "node")


def labellers(order: tuple[str, ...]) -> list[str]:
    """The labellers that the words of an order stand for."""
    return list(dict.fromkeys(name for word in order for name in KINDS.get(word, (word,))))


def _refuse_mixed(rows: pl.DataFrame) -> None:
    """See `choose_labels`."""
    said = rows.filter(pl.any_horizontal(pl.col("hard", "soft").is_not_null()) & (pl.col("labeller") != "human"))
    voices = said.group_by("labeller", maintain_order=True).agg(speaker().unique().sort())
    for labeller, versions in voices.filter(pl.col("version").list.len() > 1).iter_rows():
        raise BadTable(
            f"labels of {labeller} are of versions {' and '.join(versions)}",
            remedy="label the whole round again with the present one, or choose rows of one",
        )

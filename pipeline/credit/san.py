"""SAN: a search trajectory beside those of its task that searched as often, blended with plain GRPO.

Does not know what a search found, only how often one was made and whether it succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import CreditColumns, Moments, Trees, drop_rounding, moments
from pipeline.credit.ragged import row_sums
from pipeline.credit.scored import PRINTED, BadScore
from pipeline.credit.spoken import lay_trajectories, spoken
from pipeline.errors import BadConfig

SEARCH = "search"
KEYS = {"n_search": ("n_search",), "n_search_and_hits": ("n_search", "n_hits")}
"""Steps with a search; those, and those with one that succeeded. In columns of a trajectory."""
_CALLS = pl.List(pl.Struct({"name": pl.String, "ok": pl.Boolean}))


@dataclass(frozen=True, slots=True)
class SanParams:
    """Parameters of stratified advantage normalisation.

    alpha: weight of the advantage within strata, in [0, 1]; the rest is GRPO's. The paper's value is not known.
    ddof: of the standard deviations; the paper's identities hold with 0.
    epsilon: added to them.
    stratum_key: key of KEYS, or a column of trajectories, or several, whoever calls provides.

    Raises:
        BadConfig: alpha is not in [0, 1], or there is no column.
    """

    alpha: float = 0.5
    ddof: int = 0
    epsilon: float = 1e-6
    stratum_key: str | tuple[str, ...] = "n_search"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise BadConfig(f"san alpha {self.alpha} is not in [0, 1]", remedy="give the share of the stratum's part")
        if not self.stratum_key:
            raise BadConfig("san stratum_key names no column", remedy=f"use one of {tuple(KEYS)}")

    def columns(self) -> tuple[str, ...]:
        """The columns of a trajectory that make its stratum."""
        if isinstance(self.stratum_key, str):
            return KEYS.get(self.stratum_key, (self.stratum_key,))
        return tuple(self.stratum_key)


DEFAULTS = SanParams()


class Searches(NamedTuple):
    """`[P]` bool: steps with a search call; steps with one that succeeded."""

    searched: np.ndarray
    hit: np.ndarray


class SanTrajectories(NamedTuple):
    """What SAN says of `M` trajectories: standard deviations, but for `bias` in reward units.

    a_global: `[M]`, GRPO's advantage among the task's trajectories.
    a_san:    `[M]`, among those of the same stratum.
    advantage: `[M]`, both blended.
    bias:     `[M]`, the stratum's mean reward less the task's: what GRPO adds to a reward less its stratum's mean.
    """

    a_global: np.ndarray
    a_san: np.ndarray
    advantage: np.ndarray
    bias: np.ndarray


def san(rewards: np.ndarray, *, tasks: np.ndarray, strata: np.ndarray, params: SanParams = DEFAULTS) -> SanTrajectories:
    """Normalise each trajectory's reward within its stratum.

    Args:
        rewards: `[M]` float64, of the outcome, no NaN; 0 for an unfinished trajectory.
        tasks: `[M]` int, code of the task from 0.
        strata: `[M]` or `[M, K]` int, columns that make the stratum; within a task, rows alike are one.
        params: see there.

    Returns:
        0 where a set has no more than `ddof` members or equal rewards.

    Source: Stratified GRPO (2025); no official code. Deviation: none.
    """
    count = int(tasks.max()) + 1 if len(tasks) else 0
    stratum = _row_codes(np.column_stack((tasks, strata)))
    within = moments(rewards, stratum, count=int(stratum.max()) + 1 if len(stratum) else 0, ddof=params.ddof)
    overall = moments(rewards, tasks, count=count, ddof=params.ddof)
    a_global, a_san = _normalised(overall, tasks, params), _normalised(within, stratum, params)
    bias = np.where(overall.alike[tasks], 0.0, within.mean[stratum] - overall.mean[tasks])
    return SanTrajectories(
        a_global=a_global,
        a_san=a_san,
        advantage=params.alpha * a_san + (1.0 - params.alpha) * a_global,
        bias=drop_rounding(bias),
    )


def _read(tool_calls: pl.Series) -> pl.Series | None:
    """The calls; None where some cannot be read."""
    try:
        return tool_calls.str.json_decode(_CALLS)
    except pl.exceptions.ComputeError:
        return None


def find_searches(tool_calls: pl.Series) -> Searches:
    """Read which steps searched.

    Args:
        tool_calls: `[P]`, JSON list of objects with `name` and, where it failed, `ok` false; null: none.

    Raises:
        BadScore: an entry is no such list.
    """
    texts = tool_calls.cast(pl.String).alias("text")
    distinct = texts.drop_nulls().unique()
    calls = _read(distinct)
    if calls is None:
        row = next(row for row in range(len(texts)) if _read(texts[row : row + 1]) is None)
        raise BadScore(
            f"nodes: tool_calls {texts[row][:PRINTED]!r} is not a list of calls",
            remedy="store a JSON list of calls, or null",
            row=row,
        )
    search = (pl.element().struct.field("name") == SEARCH).fill_null(False)
    succeeded = pl.element().struct.field("ok").fill_null(True)
    said = calls.to_frame("calls").select(
        text=distinct,
        searched=pl.col("calls").list.eval(search).list.any().fill_null(False),
        hit=pl.col("calls").list.eval(search & succeeded).list.any().fill_null(False),
    )
    found = texts.to_frame().join(said, on="text", how="left", maintain_order="left").fill_null(False)
    return Searches(found["searched"].to_numpy(), found["hit"].to_numpy())


def search_counts(searches: Searches, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of trajectories: `n_search` and `n_hits`, `[M]` int64 each; a step counts once whatever it called.

    Args:
        searches: of `P` steps.
        offsets: `[M + 1]` int64, where each trajectory begins.
    """
    named = {"n_search": searches.searched, "n_hits": searches.hit}
    return {name: row_sums(steps, offsets).astype(np.int64) for name, steps in named.items()}


def san_credit(trees: Trees, params: SanParams = DEFAULTS) -> CreditColumns:
    """Give every node of a path its trajectory's advantage among the judged leaves of the tree.

    Needs `kind` and `tool_calls`. A trajectory without a verdict takes no part.

    Args:
        trees: `N` nodes.
        params: `stratum_key` a key of KEYS.

    Returns:
        advantage: `[N]` float64, mean over the paths through the node; 0 at roots, NaN where no judged leaf is below.

    Raises:
        BadConfig: the strata ask for columns that trees do not have.
        BadScore: the calls cannot be read.

    Source: as `san`. Deviation: the paper samples trajectories that share no step.
    """
    found = spoken(trees, judged=True)
    searches = Searches(*(column[found.paths.nodes] for column in find_searches(trees.given["tool_calls"])))
    counts = search_counts(searches, found.paths.offsets)
    for name in params.columns():
        if name not in counts:
            raise BadConfig(f"san stratum_key: trees have no {name!r}", remedy=f"use one of {tuple(KEYS)}")
    strata = np.column_stack([counts[name] for name in params.columns()])
    advantage_M = san(trees.reward[found.ends], tasks=found.tasks, strata=strata, params=params).advantage
    return CreditColumns(advantage=lay_trajectories(trees, found, advantage_M))


def _row_codes(columns: np.ndarray) -> np.ndarray:
    """`[M]` int64 from 0: rows of `[M, K]` alike have the same."""
    codes = np.zeros(len(columns), dtype=np.int64)
    for column in columns.T:
        values, places = np.unique(column, return_inverse=True)
        codes = np.unique(codes * len(values) + places, return_inverse=True)[1]
    return codes


def _normalised(of: Moments, groups: np.ndarray, params: SanParams) -> np.ndarray:
    std = np.nan_to_num(of.std)[groups]
    return np.where(of.count[groups] > params.ddof, of.centred / (std + params.epsilon), 0.0)

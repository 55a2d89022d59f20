"""What offline methods learn from a round: lessons, each some of its rows and the objective that they are learnt by.

Loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl

from pipeline.errors import BadConfig
from pipeline.stages.earlier import Earlier, judged_from, rollout_shards
from pipeline.stages.patches import PatchConfig, patch_rows
from pipeline.stages.verdicts import judged_shard
from pipeline.stages.work import Work
from trainers.recipes import DpoRecipe, IntRecipe, RunRecipe, SftRecipe, TRegRecipe
from trainers.weighed_rows import amplified, with_answers


@dataclass(frozen=True)
class Lesson:
    """rows: of a round. recipe: of the run; its type is the objective, its length is set by whoever compares."""

    rows: Callable[[Work], pl.DataFrame]
    recipe: RunRecipe


def stored_rows(
    work: Work, *, table: str, stage: str, made_by: tuple[str, ...], **only: tuple[str, ...]
) -> pl.DataFrame:
    """Rows of the round that hold one of the words given for a column.

    Args:
        made_by: the commands that make them.

    Raises:
        BadConfig: there are none; names the commands.
        BadTable: they were made from what is no longer in the store.
    """
    places = work.places(table, stage=stage)
    for place in places:
        Earlier(work, place.shard).refuse_replaced(table, place.stage)
    rows = work.store.read(table, places).filter(*(pl.col(name).is_in(words) for name, words in only.items()))
    if rows.is_empty():
        of = "".join(f" of {name} {' or '.join(words)}" for name, words in only.items())
        options = f"--suite {work.suite.name} --round {work.round}"
        raise BadConfig(
            f"round {work.round} of {work.suite.name} has no rows of {stage}{of}",
            remedy=" && ".join(f"{command} {options}" for command in made_by),
        )
    return rows


def rewarded_pairs(work: Work) -> pl.DataFrame:
    """Token rewards of the pairs that DPO learns."""
    rewards = stored_rows(
        work, table="token_rewards", stage="token_rewards", made_by=("branchpoint-train token-rewards",)
    )
    return with_answers(work, rewards.join(_outcome(work).select("row"), on="row", how="semi", maintain_order="left"))


def interventions(work: Work, *, clone: str) -> pl.DataFrame:
    """InT's rows, of one intervention a task, under a clone of `pipeline.variants.intervene`.

    They are built here, since the store holds those of one clone.
    """
    config = PatchConfig(clone=clone)
    shards = (judged_shard(work, name, judged_from(work, name, of="patches")) for name in rollout_shards(work))
    rows = pl.concat([patch_rows(work, shard, config) for shard in shards])
    if rows.is_empty():
        raise BadConfig(
            f"round {work.round} of {work.suite.name} has no intervention that was kept",
            remedy=f"branchpoint interventions --suite {work.suite.name} --round {work.round}",
        )
    return rows


def amplified_rows(work: Work) -> pl.DataFrame:
    """R3L's offline form: rows with `weights`."""
    rows = stored_rows(
        work, table="rl_samples", stage="retry_rows", made_by=("branchpoint retries", "branchpoint retry-rows")
    )
    return amplified(with_answers(work, rows))


_ROLES = ("branchpoint roles", "branchpoint verdicts")
"""Verdicts are looked through again once nodes were added."""
_pairs = partial(stored_rows, table="pairs", stage="pairs")
_role_sft = partial(stored_rows, table="sft", stage="role_rows", made_by=(*_ROLES, "branchpoint role-rows"))
_role_pairs = partial(_pairs, made_by=(*_ROLES, "branchpoint pairs"))
_outcome = partial(_pairs, source=("outcome",), made_by=("branchpoint pairs",))
_steps = partial(
    _pairs,
    source=("step", "intervention"),
    made_by=("branchpoint trees", "branchpoint interventions", "branchpoint pairs"),
)
_best = partial(stored_rows, table="sft", stage="best_answers", made_by=("branchpoint best-answers",))


def _malt(role: str) -> tuple[Lesson, ...]:
    """A role of MALT: its good outputs, then its pairs."""
    return (
        Lesson(partial(_role_sft, role=(role,)), SftRecipe()),
        Lesson(partial(_role_pairs, source=(role,)), DpoRecipe(beta=0.2, sft_weight=0.0)),
    )


Method = dict[str, tuple[Lesson, ...]]
"""Lessons in turn by the role whose policy takes them; roles are names of prompts, in the order in which they speak."""

START = "start"
METHODS: dict[str, Method] = {
    START: {"solve": ()},
    "sft": {"solve": (Lesson(_best, SftRecipe()),)},
    "dpo": {"solve": (Lesson(_outcome, DpoRecipe(sft_weight=0.0)),)},
    "dpo_sft": {"solve": (Lesson(_outcome, DpoRecipe()),)},
    "step_dpo": {"solve": (Lesson(_steps, DpoRecipe(beta=0.5, sft_weight=0.0)),)},
    "tdpo": {"solve": (Lesson(_outcome, DpoRecipe(sft_weight=0.0, loss_type="tdpo2")),)},
    "treg": {"solve": (Lesson(rewarded_pairs, TRegRecipe(sft_weight=0.0)),)},
    "int": {"solve": (Lesson(partial(interventions, clone="prefix+intervention"), IntRecipe()),)},
    "int_no_prefix": {"solve": (Lesson(partial(interventions, clone="intervention_only"), IntRecipe()),)},
    "int_suffix": {"solve": (Lesson(partial(interventions, clone="with_suffix"), IntRecipe()),)},
    "int_no_filter": {"solve": (Lesson(partial(interventions, clone="no_filter"), IntRecipe()),)},
    "r3l": {"solve": (Lesson(amplified_rows, SftRecipe()),)},
    "start_roles": {"generate": (), "verify": (), "refine": ()},
    "malt": {"generate": _malt("generator")[:1], "verify": _malt("verifier"), "refine": _malt("refiner")},
}
"""`start`: the starting policy, untrained. `dpo_sft`: with the chosen answers' likelihood added. MALT's generator takes
no pairs, as its authors found best; `start_roles` is its pass of three roles with no lesson at all."""

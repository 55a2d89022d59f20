"""Stages: models look at a round's trees, and what they say of nodes is kept in the table of scores, once for all.

A shard whose scores were made from the very same nodes, model and settings is left alone; what is held in memory is a
batch of whole tasks and a shard's scores.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import polars as pl

from pipeline.cli_options import check_choice
from pipeline.credit.inputs import SCORES
from pipeline.errors import BadConfig, check_counts
from pipeline.report import Progress, Report, silent
from pipeline.stages.earlier import judged_from, rollout_shards
from pipeline.stages.work import Shards, Work, inputs
from schemas import Scores
from schemas.base import column_types
from trainers.scores import PASSES
from trainers.scores.passes import LIKELIHOODS, Pass, Passes, ScoreConfig
from trainers.scores.rounds import batches

VERSION = "1"
STAGE = "score"


def write_model_scores(work: Work, config: ScoreConfig = ScoreConfig()) -> Report:
    """Let models score the round's nodes, in place of what stood under the same names.

    Returns:
        The reports of `score_reports` as one.

    Raises:
        As `score_reports`.
    """
    found = score_reports(work, config)
    return Report(
        STAGE,
        work.suite.name,
        work.round,
        rows={SCORES: sum(one.rows[SCORES] for one in found)},
        numbers={f"{one.stage}_{name}": number for one in found for name, number in one.numbers.items()},
        fresh=sum(one.fresh for one in found),
        shards=sum(one.shards for one in found),
        seconds=sum(one.seconds for one in found),
        digest=hashlib.sha256("".join(one.digest for one in found).encode()).hexdigest()[:32],
    )


def score_reports(work: Work, config: ScoreConfig) -> list[Report]:
    """Score the round's nodes; a report a name, with the share of nodes of which something is said, and its mean.

    Raises:
        BadConfig: there is no such pass.
        BadModel: a policy or critic does not exist, cannot be loaded, has other tokens or takes no packs.
        BadTable: the round has no rollouts, or grew on nodes that were replaced.
    """
    asked = asked_for(config.what)
    check_counts(config, of=STAGE, head_nodes=1, most_grams=1, max_tokens=1)
    return [report for one in _together(Passes(work, config), asked) for report in _write(work, one)]


def asked_for(what: tuple[str, ...]) -> list[str]:
    """Keys of PASSES, each once.

    Raises:
        BadConfig: there is no such pass, or none is asked for.
    """
    asked = list(dict.fromkeys(word for words in what for word in words.split(",") if word))
    if not asked:
        raise BadConfig("nothing is asked for", remedy=f"name some of {', '.join(PASSES)} with --what")
    for word in asked:
        check_choice("scoring pass", word, PASSES)
    return asked


def _write(work: Work, one: Pass) -> list[Report]:
    """The scores of a pass, shard by shard; a report a name."""
    walks = {name: Shards(replace(work, on_progress=silent), name, (SCORES,)) for name in one.names}
    made_from, shards = inputs(VERSION, **one.made_from), rollout_shards(work)
    for number, (shard, tasks) in enumerate(shards.items(), start=1):
        found: dict[str, pl.DataFrame] = {}
        parts = {**made_from, **judged_from(work, shard, of=SCORES)}
        for name, walk in walks.items():
            for _, _, given in walk.stale({shard: tasks}, lambda _, parts=parts: parts):
                found = found or _said(work, one, shard)
                walk.write(shard, given, scores=found[name])
        seconds = next(iter(walks.values())).seconds
        work.on_progress(Progress(STAGE, " and ".join(one.names), number, len(shards), 0, 0, seconds))
    return [walk.finish(**_figures(walk.read(SCORES), work)) for walk in walks.values()]


def _said(work: Work, one: Pass, shard: str) -> dict[str, pl.DataFrame]:
    """Rows of the table of scores by name."""
    types = column_types(Scores)
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in one.names}
    for batch in batches(work, [shard], columns=one.columns):
        for name, rows in one.say(batch).items():
            more = [pl.lit(None).alias(column) for column in types if column not in (*rows.columns, "name")]
            parts[name].append(rows.with_columns(*more, name=pl.lit(name)).select(types.keys()).cast(types))
    return {name: pl.concat(some) if some else pl.DataFrame(schema=types) for name, some in parts.items()}


def _figures(scores: pl.DataFrame, work: Work) -> dict[str, float | None]:
    """The share of the round's nodes of which something is said, and the mean of numbers."""
    numbers = pl.concat([scores["value"].drop_nulls(), scores["token_values"].explode().drop_nulls().cast(pl.Float64)])
    known = scores.select(pl.any_horizontal(pl.col("value", "token_values").is_not_null())).to_series().sum()
    nodes = sum(work.store.rows("nodes", place) for place in work.places("nodes"))
    return {"share": known / max(1, nodes), "mean": numbers.mean()}


def _together(passes: Passes, asked: list[str]) -> list[Pass]:
    """The passes asked for; entropy and log-probabilities under one policy are one."""
    alike: dict[str, list[str]] = {}
    for name in asked:
        if name in LIKELIHOODS:
            alike.setdefault(passes.policy_of(name).fingerprint, []).append(name)
    others = [name for name in asked if name not in LIKELIHOODS]
    return [passes.likelihoods(names) for names in alike.values()] + [getattr(passes, name)() for name in others]

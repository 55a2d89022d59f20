"""Stage: a reward for every token of the round's pairs (T-REG), from two requests to rewrite the answer.

Who scores tokens is handed in: this package computes no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.builders.packing import Rows
from pipeline.credit.t_reg import WORDING, revision_request, token_rewards
from pipeline.errors import BadConfig, check_counts
from pipeline.report import Report
from pipeline.stages.earlier import judged_from, refuse_replaced
from pipeline.stages.work import Shards, Work, inputs
from schemas import TokenRewards
from schemas.base import column_types

STAGE = "token_rewards"
VERSION = "1"
SIDES = ("chosen", "rejected")
Score = Callable[[Rows, np.ndarray], np.ndarray]
"""Of rows of prompt and answer and the tokens of each prompt: log-probabilities of all answer tokens, row after row."""


@dataclass(frozen=True, slots=True)
class TokenRewardConfig:
    """most_tokens: of a request with its answer; pairs of longer ones are left out. 0: as many as the policy reads."""

    most_tokens: int = 0


def write_token_rewards(work: Work, config: TokenRewardConfig = TokenRewardConfig(), *, score: Score) -> Report:
    """Reward the tokens of both answers of every pair of the round.

    Raises:
        BadConfig: the round has no pairs.
        BadInput: a task spells one of the policy's control tokens.
        BadModel: the policy has no chat template.
        BadTable: the pairs were made from what is no longer in the store.
    """
    check_counts(config, most_tokens=0)
    places = {place.shard: place for place in work.places("pairs")}
    if not places:
        raise BadConfig(
            f"round {work.round} of {work.suite.name} has no pairs",
            remedy=f"run `branchpoint pairs --suite {work.suite.name} --round {work.round}` first",
        )
    refuse_replaced(work, "pairs")
    shards, left_out = Shards(work, STAGE, (STAGE,)), 0
    made_from = inputs(VERSION, config=config, policy=work.policy.fingerprint)
    for shard, place, said in shards.stale(
        places,
        lambda shard: {
            **made_from,
            "pairs": work.store.digest("pairs", places[shard]),
            **judged_from(work, shard, of=STAGE),
        },
    ):
        pairs = work.store.read("pairs", [place])
        rows = reward_rows(work, pairs, most_tokens=config.most_tokens, score=score)
        left_out += 2 * len(pairs) - len(rows)
        shards.write(shard, said, token_rewards=rows)
    rewards = shards.read(STAGE)
    values = rewards["rewards"].explode()
    of_side = dict(rewards.group_by("side").agg(pl.col("rewards").explode().mean()).iter_rows())
    return shards.finish(
        tokens=len(values),
        mean_chosen_reward=of_side.get("chosen"),
        mean_rejected_reward=of_side.get("rejected"),
        deviation=values.std(),
        left_out=left_out,
    )


def reward_rows(work: Work, pairs: pl.DataFrame, *, most_tokens: int, score: Score) -> pl.DataFrame:
    """Rows of the token_rewards table: two a pair, those of pairs that do not fit left out."""
    from pipeline.generation.tokens import tokens_of

    policy, sides = work.policy, pair_sides(pairs)
    most = most_tokens or policy.max_length
    answers = sides["answer_ids"].to_list()
    requests = {
        aim: [
            tokens_of(policy).render([{"role": "user", "content": revision_request(*texts, aim=aim)}])
            for texts in sides.select("prompt", "answer").iter_rows()
        ]
        for aim in WORDING
    }
    longest = np.array([max(map(len, prompts)) for prompts in zip(*requests.values(), strict=True)], np.int64)
    fits = longest + sides["answer_ids"].list.len().to_numpy() <= most
    sides = sides.with_columns(fits=pl.Series(fits, dtype=pl.Boolean)).with_columns(pl.col("fits").all().over("row"))
    kept = sides["fits"].to_numpy()
    scored = {
        aim: _score([(prompts[row], answers[row]) for row in np.flatnonzero(kept)], score)
        for aim, prompts in requests.items()
    }
    sides = sides.filter("fits")
    rewards = token_rewards(scored["better"], scored["worse"])
    ends = np.cumsum(sides["answer_ids"].list.len().to_numpy())
    lists = pl.Series("rewards", [part.tolist() for part in np.split(rewards, ends[:-1])] if len(sides) else [])
    return sides.with_columns(lists).select(
        pl.col(name).cast(kind) for name, kind in column_types(TokenRewards).items()
    )


def pair_sides(pairs: pl.DataFrame) -> pl.DataFrame:
    """Two rows a pair, chosen first: the columns of the table token_rewards but for the rewards, and the texts."""
    parts = [
        pairs.select(
            *("task", "row", "suite", "tree", "prompt_ids", "prompt"),
            side=pl.lit(side),
            node=f"{side}_node",
            answer_ids=f"{side}_ids",
            answer=side,
            place=pl.int_range(pl.len()),
        )
        for side in SIDES
    ]
    return pl.concat(parts).sort("place", "side")


def _score(rows: list[tuple[np.ndarray, list[int]]], score: Score) -> np.ndarray:
    """`[T]` float64: log-probabilities of the answers after their prompts; each distinct row is asked once."""
    distinct: dict[tuple[bytes, bytes], int] = {}
    asked = [(np.asarray(prompt, np.int32), np.asarray(answer, np.int32)) for prompt, answer in rows]
    which = [distinct.setdefault((prompt.tobytes(), answer.tobytes()), len(distinct)) for prompt, answer in asked]
    first = np.unique(which, return_index=True)[1]
    pieces = [np.concatenate(asked[row]) for row in first]
    if not pieces:
        return np.empty(0)
    offsets = np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])))
    starts = np.array([len(asked[row][0]) for row in first])
    found = score(Rows(np.concatenate(pieces), offsets), starts)
    by_row = np.split(found, np.cumsum(np.diff(offsets) - starts)[:-1])
    return np.concatenate([by_row[one] for one in which])

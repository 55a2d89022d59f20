"""Stage: LaRe over a round. One function is written for the suite, run on every step in the sandbox, and decoded.

The decoder is fitted to the whole round, so every shard stands on all of them.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl

from pipeline.credit.inputs import SCORES
from pipeline.generation.engine import Request
from pipeline.generation.engines import MAX_LENGTH, open_tokens
from pipeline.generation.sampler import Sampler
from pipeline.judges.cases import Case
from pipeline.judges.lare import LIMITS, LaReJudge, episodes, fit_decoder, latent_factors, step_means
from pipeline.judges.talk import Talks
from pipeline.judges.wording import Wording
from pipeline.report import Report
from pipeline.stages.earlier import judged_from, rollout_shards
from pipeline.stages.judge_cases import read_cases
from pipeline.stages.work import Shards, Work, inputs, request_rows
from pipeline.tools.sandbox import VERSION as SANDBOX_VERSION
from pipeline.tools.sandbox import Sandbox
from schemas import Scores
from schemas.base import column_types

VERSION = "2"
REQUESTS = "requests"


def write_family(work: Work, name: str, judge: LaReJudge, words: Wording, *, per_task: int) -> Report:
    """Score the steps of the round's attempts by a written function and a decoder fitted to their verdicts.

    The function, its trials and the decoder stand as JSON on the root of the round's first tree.

    Raises:
        BadTable: the round has no rollouts, or grew on nodes that were replaced.
    """
    (score,) = judge.names
    by_shard, shards = rollout_shards(work), Shards(work, score, (SCORES, REQUESTS))
    with work.sampler(name) as sampler:
        stands_on = {shard: judged_from(work, shard, of="credit") for shard in by_shard}
        round_of = hashlib.sha256(json.dumps(stands_on, sort_keys=True).encode()).hexdigest()
        settings = inputs(
            f"{VERSION} {judge.version}",
            config=judge,
            judge=name,
            policy=sampler.fingerprint,
            prompts=words.version,
            per_task=str(per_task),
            sandbox=SANDBOX_VERSION,
            round=round_of,
        )
        made: dict[str, pl.DataFrame] = {}
        for shard, _, parts in shards.stale(
            by_shard, lambda shard: {**settings, **judged_from(work, shard, of=SCORES)}
        ):
            if not made:
                made, keys = _decoded(work, sampler, judge, words, by_shard=by_shard, per_task=per_task)
            mine = {key: task for key, task in keys.items() if task in set(by_shard[shard]["task"])}
            asked = request_rows(sampler.ledger, mine, stage=score, asked_by=sampler.asked_by)
            shards.write(shard, parts, missed=sampler.missed, scores=made[shard], requests=asked)
    rows = shards.read(SCORES)
    steps = rows.filter(pl.col("text").is_null())
    decoder = json.loads(rows["text"].drop_nulls()[0]) if rows["text"].count() else {"source": None, "trials": []}
    return shards.finish(
        scored_share=steps["value"].count() / max(1, steps.height),
        mean=steps["value"].mean(),
        trials=len(decoder["trials"]),
        rejected=sum(trial["error"] is not None for trial in decoder["trials"]),
        tokens=int(shards.read(REQUESTS)["decoded_tokens"].sum() or 0),
    )


def _decoded(
    work: Work,
    sampler: Sampler,
    judge: LaReJudge,
    words: Wording,
    *,
    by_shard: dict[str, pl.DataFrame],
    per_task: int,
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Rows of every shard, and the requests made for them, by key, with their task."""
    cases = {shard: list(read_cases(work, shard, tasks, per_task=per_task)) for shard, tasks in by_shard.items()}
    every = [case for some in cases.values() for case in some]
    keys: dict[str, str] = {}
    if not every:
        return {shard: _rows([]) for shard in by_shard}, keys

    def book(case: object, request: Request) -> None:
        keys[request.key] = every[0].task["task"]

    talks = Talks(sampler, open_tokens(work.policy), min(work.policy.max_length, MAX_LENGTH), book)
    ((case, (said,)),) = talks.hold(iter([(every[0], judge.talk(every[0], words))]))
    told = json.loads(said.text or "{}")
    attempts, offsets, returns = episodes(every)
    if told["source"] is None:
        rewards = np.full(int(offsets[-1]), np.nan)
    else:
        with Sandbox(LIMITS, workers=1) as sandbox:
            latent, errors = latent_factors(told["source"], attempts, sandbox)
        decoder = fit_decoder(latent, offsets, returns)
        rewards = latent @ decoder.weight + decoder.bias
        told |= {"weight": decoder.weight.tolist(), "bias": decoder.bias, "errors": errors}
    found, at = {}, 0
    for shard, some in cases.items():
        rows = []
        for one in some:
            count = sum(len(attempt.steps) for attempt in one.attempts)
            means = step_means(rewards[at : at + count], one.attempts)
            at += count
            rows += [_row(one, node, value) for node, value in means.items()]
            if one is case:
                rows.append(_row(one, one.root, None, json.dumps(told)))
        found[shard] = _rows(rows)
    return found, keys


def _row(case: Case, node: int, value: float | None, text: str | None = None) -> dict[str, object]:
    return {"task": case.task["task"], "tree": case.tree, "node": node, "value": value, "text": text}


def _rows(rows: list[dict[str, object]]) -> pl.DataFrame:
    whole = [{"name": "latent_reward", "token_values": None, **row} for row in rows]
    return pl.DataFrame(whole, schema=column_types(Scores), orient="row")

"""Stage: a policy on the held-out split: pass@k with intervals over tasks, and what it gained over a baseline.

Tasks of a suite with an environment are played there; `score` is then the mean verdict on the policy's seat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.generation.engines import engine_fingerprint, open_tokens
from pipeline.report import Report
from pipeline.stages.playing import POLICY, Players, Trials, environment_of, play_tasks, rules_of
from pipeline.stages.tasks import note_empty
from pipeline.stages.work import Shards, Work, inputs
from pipeline.statistics import MeanInterval, difference_interval, pass_at_k, share_interval
from pipeline.tasks.verifiers import VERSION as VERIFIER_VERSION
from pipeline.tasks.verifiers import Question, verify
from schemas import Evals
from schemas.base import column_types

VERSION = "2"
SPLIT = "held_out"


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """samples: answers or episodes a task. baseline: policy the gain is counted from, task by task; empty for none.
    opponent: who has the other seats of a game: policy, or a key of PLAYERS; empty: random where seats play against
    one another, else the policy.
    """

    samples: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    baseline: str = ""
    opponent: str = ""


def write_evals(work: Work, config: EvalConfig = EvalConfig()) -> Report:
    """Evaluate the policy of the work on the held-out tasks; a suite without any has nothing to evaluate."""
    check_counts(config, samples=1)
    if not work.store.tasks(work.suite.name).is_empty() and work.store.tasks(work.suite.name, split=SPLIT).is_empty():
        return Report(
            work.policy.name,
            work.suite.name,
            work.round,
            rows={"evals": 0},
            numbers={"tasks": 0},
            notes=(note_empty(work.suite, SPLIT),),
        )
    by_shard = work.shards(SPLIT)
    tasks = pl.concat(by_shard.values())
    digest = " ".join(work.store.tasks_digest(work.suite.name, shard) for shard in by_shard)
    base = replace(work, policy_name=config.baseline) if config.baseline else None
    made_from = inputs(
        VERSION,
        config=config,
        policy=engine_fingerprint(work.engine, work.policy),
        baseline=engine_fingerprint(base.engine, base.policy) if base else "",
        prompts=work.pack.digest,
        tasks=digest,
        max_tokens=str(work.suite.max_tokens),
        verifier=VERIFIER_VERSION,
    )
    played = work.suite.environment is not None
    if played:
        made_from["environment"] = environment_of(work, work.suite.environment.open())
    shards = Shards(work, work.policy.name, ("evals",))
    for name, _, parts in shards.stale({SPLIT: tasks}, lambda shard: made_from):
        rewards, missed = held_out_rewards(work, tasks, config)
        figures = {f"pass@{k}": pass_interval(rewards, k) for k in (1, 2, 4, 8, 16, 32) if k <= config.samples}
        if played:
            figures["score"] = share_interval(list(rewards))
        if base:
            before, missed_before = held_out_rewards(base, tasks, config)
            missed |= missed_before
            gain = difference_interval(list(_means(rewards) - _means(before)))
            figures[f"{'score' if played else 'pass@1'} less {base.policy.name}"] = gain
        rows = [
            {
                "policy": work.policy.name,
                "suite": work.suite.name,
                "split": SPLIT,
                "metric": metric,
                "count": len(rewards),
            }
            | {"value": found.mean, "low": found.low, "high": found.high}
            for metric, found in figures.items()
        ]
        shards.write(name, parts, missed=missed, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    evals = shards.read("evals")
    return shards.finish(**dict(evals.select("metric", "value").iter_rows()))


def held_out_rewards(work: Work, tasks: pl.DataFrame, config: EvalConfig) -> Trials:
    """Rewards of `samples` answers or episodes a task."""
    if work.suite.environment is not None:
        return _played_rewards(work, tasks, config)
    tokens, sampling = open_tokens(work.policy), Sampling(config.temperature, config.top_p, work.suite.max_tokens)
    rows = list(tasks.iter_rows(named=True))
    with work.sampler(f"evals {work.policy.name}", total=len(rows) * config.samples) as sampler:
        asked = []
        for row in rows:
            prompt = tokens.render(work.pack.messages("solve", question=row["question"]))
            asked.append([sampler.request(prompt, sampling, sample=index) for index in range(config.samples)])
        entries = sampler.run(request for requests in asked for request in requests)
    rewards = np.full((len(rows), config.samples), np.nan)
    for index, (row, requests) in enumerate(zip(rows, asked, strict=True)):
        question = Question(row["answer"], row["info"])
        for sample, request in enumerate(requests):
            answer = entries[request.key].completion
            if answer.error is None:
                verdict = verify(row["verifier"], question, tokens.decode(answer.token_ids))
                rewards[index, sample] = np.nan if verdict.reward is None else verdict.reward
    return Trials(rewards, sampler.missed)


def _played_rewards(work: Work, tasks: pl.DataFrame, config: EvalConfig) -> Trials:
    opened = work.suite.environment.open()
    players = Players(POLICY, config.opponent or ("random" if opened.rivals else POLICY))
    rules = rules_of(work, temperature=config.temperature, top_p=config.top_p)
    stage = f"evals {work.policy.name}"
    return play_tasks(work, opened, tasks, episodes=config.samples, players=players, rules=rules, stage=stage)


def _means(rewards: np.ndarray) -> np.ndarray:
    """Of each task over what is known; NaN where nothing is."""
    known = ~np.isnan(rewards)
    return np.divide(
        np.nansum(rewards, axis=1), known.sum(axis=1), out=np.full(len(rewards), np.nan), where=known.any(axis=1)
    )


def pass_interval(rewards: np.ndarray, k: int) -> MeanInterval:
    """Unbiased pass@k, the mean over tasks with its interval."""
    judged = (~np.isnan(rewards)).sum(axis=1)
    right = (rewards >= 1).sum(axis=1)
    return share_interval(list(pass_at_k(judged, right, k)))

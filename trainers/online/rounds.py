"""Online RL as rounds: each samples with the policy of the round before, credits, updates and evaluates.

A round is made by the very stages of the commands, so what a crash leaves is found again: requests in the ledger,
shards by what they were made from, the policy by its lineage. Only the update and its watching are new here.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import polars as pl

from pipeline.credit import METHODS, labelled
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engines import engine_kind
from pipeline.generation.policies import find_policy
from pipeline.judges import JUDGES
from pipeline.report import Report, silent
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.retry_rows import STAGE as RETRY_ROWS
from pipeline.stages.retry_rows import RetryRowConfig, write_retry_rows
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Shards, Work, inputs
from pipeline.store.write import disk_errors
from schemas import Evals
from schemas.base import column_types
from trainers.online.ahead import beside, spare_device
from trainers.online.implicit import LEARNT
from trainers.online.judging import check_played, judges_of
from trainers.online.learners import implicit_model, write_process_labels, write_scores
from trainers.online.recipe import OnlineRecipe, load_recipe
from trainers.online.round_work import check_draws, settle
from trainers.online.run import VERSION, Run, begin
from trainers.online.sampling import check_sampled, sample
from trainers.online.updates import update_implicit, update_round
from trainers.online.warm_up import begun_from, warm_round, warm_up
from trainers.online.watch import (
    STAGE,
    Round,
    alarms,
    decoded_tokens,
    figure_rows,
    history,
    round_figures,
    round_names,
)
from trainers.stages import policy_name

LOG = logging.getLogger(__name__)
SPLIT = "train"
_REPORTED = (
    "pass@1",
    "score",
    "reward",
    "answer_tokens",
    "entropy",
    "kl",
    "clip_share",
    "zero_advantage_share",
    "oracle_auc",
)


@dataclass(frozen=True, slots=True)
class OnlineConfig:
    """recipe: name, or a TOML file. rounds: at most. tokens: decoded by sampling, warming up too, after which no round
    begins; 0: no end. seed: of shards, draws and order. method: credit method in place of the recipe's. changes: JSON
    object of fields of the recipe that shall be otherwise, such as {"group": 16}. unanswered: share of a stage's
    requests that a round goes on without where the engine lost them and loses them again; they are not asked later.
    """

    recipe: str = "grpo"
    method: str = ""
    rounds: int = 4
    tokens: int = 0
    seed: int = 0
    changes: str = ""
    unanswered: float = 0.0


def train_online(work: Work, config: OnlineConfig = OnlineConfig()) -> Report:
    """Train a policy in rounds; the round of the work is the first. Rounds that are done are left alone.

    Raises:
        BadConfig: the recipe cannot be, or not on this suite, or the first round was begun with another recipe, seed or
            policy.
        BadModel: a policy, or the optimiser's state, cannot be read; or the engine lost requests, see `credit_round`.
    """
    check_counts(config, rounds=1, tokens=0, seed=0)
    check_draws(config.seed, rounds=config.rounds)
    if not 0 <= config.unanswered < 1:
        raise BadConfig(f"unanswered is {config.unanswered}", remedy="give a share, 0 or more and below 1")
    started, recipe = time.monotonic(), load_recipe(config.recipe, changes=config.changes)
    if config.method:
        every = recipe.prm_every if labelled(METHODS[config.method]) else 0
        recipe = replace(recipe, method=config.method, params={}, schedule={}, rows="method", prm_every=every)
    check_sampled(recipe, work.suite)
    if recipe.rows == "method":
        check_played(recipe.method, recipe.params_at(0), work.suite)
    if recipe.overlap:
        spare_device(engine_kind(work.engine))
    write_tasks(work)
    names = round_names(work.round, config.rounds)
    folder = work.settings.policies / f".{policy_name(work, STAGE)}.run"
    run = Run(work, recipe, config.seed, names, folder, config.unanswered)
    begin(run)
    run, spent = _warmed(run)
    _evaluate(run.at(0), recipe)
    report = Report(STAGE, work.suite.name, work.round)
    for number in range(config.rounds):
        fresh = make_round(run, number, left=config.tokens - spent if config.tokens else None)
        report.fresh += fresh
        report.shards += 1
        seen = _seen(run, number + 1)
        spent += int(seen[-1]["decoded_tokens"])
        for said in alarms(seen) if fresh else ():
            LOG.warning("round %s: %s", names[number], said)
        if config.tokens and spent >= config.tokens:
            break
    done = report.shards
    _evaluate(replace(run.at(done - 1), policy_name=run.made(done - 1)), recipe)  # whatever eval_every says
    seen = _seen(run, done)
    report.numbers = {"rounds": done, "decoded_tokens": spent}
    report.numbers |= {name: seen[-1][name] for name in _REPORTED if seen[-1].get(name) is not None}
    report.rows = {"evals": sum(map(len, seen))}
    report.digest = find_policy(run.made(done - 1), policies=work.settings.policies).fingerprint
    report.notes = tuple(alarms(seen))
    report.seconds = time.monotonic() - started
    if report.fresh:
        draw(work, seen)
    return report


def run_name(config: OnlineConfig) -> str:
    """What tells a run from others of the same policy: recipe, method, seed, and a digest of what is changed."""
    changed = f"{crc32(config.changes.encode()):08x}" if config.changes else ""
    parts = (Path(config.recipe).stem, config.method, f"s{config.seed}" if config.seed else "", changed)
    return "-".join(part for part in parts if part)


def make_round(run: Run, number: int, *, left: int | None = None) -> int:
    """One round: data, update, evaluation, figures; each part is left alone where it is current.

    Args:
        left: tokens to decode before the run ends; None: it ends with its rounds.

    Returns:
        1 where the policy was made now, else 0.
    """
    work, recipe = run.at(number), run.recipe
    started, evaluating = time.monotonic(), 0.0
    source = credit_round(run, number)
    after = replace(work, policy_name=run.made(number))
    with _next_sampled(run, number, left=left):
        numbers, fresh = update_round(run, number, source)
        if recipe.method in LEARNT:
            numbers = numbers | update_implicit(run, number, source)
        if (number + 1) % recipe.eval_every == 0:
            since = time.monotonic()
            _evaluate(after, recipe)
            evaluating = time.monotonic() - since
    shards = Shards(work, STAGE, ("evals",))
    made_from = inputs(VERSION, policy=after.policy.fingerprint, recipe=json.dumps(asdict(recipe), sort_keys=True))
    for name, _, parts in shards.stale({SPLIT: None}, lambda shard: made_from):
        asked = {"method": recipe.method, "labeller": recipe.labeller, "agreement": recipe.agreement}
        found: Round = round_figures(work, source=source, **asked) | numbers
        found["seconds"] = time.monotonic() - started - evaluating
        tasks = sum(len(tasks) for tasks in work.shards().values())
        rows = figure_rows(found, policy=run.made(number), suite=work.suite.name, count=tasks)
        shards.write(name, parts, evals=pl.DataFrame(rows, schema=column_types(Evals), orient="row"))
    return fresh


def credit_round(run: Run, number: int) -> str:
    """Sample, judge, label, score and credit a round, and build its rows.

    Returns:
        The stage whose rows of `rl_samples` are trained on.

    Raises:
        BadModel: see `settle`.
    """
    work, recipe, rounds = run.at(number), run.recipe, run.names[: number + 1]
    settle(work, sample(run, number))
    write_verdicts(work)
    if recipe.prm or recipe.prm_every:
        write_process_labels(work, recipe, rounds, seed=run.seed)
    elif labelled(METHODS[recipe.method]) and recipe.labeller not in JUDGES:
        write_step_labels(work, StepLabelConfig(recipe.labeller))
    if recipe.rows == RETRY_ROWS:
        write_retry_rows(work, RetryRowConfig(**recipe.params))
        return RETRY_ROWS
    first = run.work.policy_name
    if asked := judges_of(recipe.method, recipe.labeller):
        judging = replace(work, policy_name=recipe.judge or first)
        settle(judging, write_judgements(judging, JudgeConfig(asked, per_task=0)))
    write_scores(work, recipe, first=first, implicit=implicit_model(work, rounds, first=first), seed=run.seed)
    write_credit(work, CreditConfig((recipe.method,), recipe.params_at(number), recipe.labeller))
    write_rl_samples(work, RlSampleConfig(recipe.method, recipe.shared))
    return recipe.method


def picture_of(work: Work) -> Path:
    """Where the picture of the run that begins with the work's round is, in the store's folder of this machine."""
    return work.store.files.local / "pictures" / work.suite.name / work.round / "online.png"


def draw(work: Work, seen: list[Round]) -> None:
    """Draw the rounds' figures.

    Args:
        work: surroundings of the first round.
        seen: figures of all.
    """
    from trainers.online.picture import draw_rounds

    path = picture_of(work)
    with disk_errors(path, setting="BRANCHPOINT_STORE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_rounds(seen, path, title=f"{work.suite.name}, from round {work.round}")


def _warmed(run: Run) -> tuple[Run, int]:
    """The run from the policy that its rounds begin from, and tokens that making it took."""
    asked = run.recipe.warm_up()
    if asked is None:
        return run, 0
    work = run.around(warm_round(run.names[0]), policy=run.work.policy_name, shards=asked.shards)
    _evaluate(work, run.recipe)
    warm_up(work, asked)
    return run._replace(work=replace(run.work, policy_name=begun_from(run.work))), decoded_tokens(work)


def _next_sampled(run: Run, number: int, *, left: int | None) -> AbstractContextManager[None]:
    """Meanwhile the next round is sampled, where the recipe says so, there is one, and this one is not yet made."""
    last = number + 1 == len(run.names) or (left is not None and decoded_tokens(run.at(number)) >= left)
    if not run.recipe.overlap or last or (run.work.settings.policies / run.made(number)).exists():
        return nullcontext()
    silenced = run._replace(work=replace(run.work, on_progress=silent))
    device = spare_device(engine_kind(run.work.engine))
    return beside(partial(sample, silenced, number + 1), device=device, of=f"round {run.names[number + 1]}")


def _seen(run: Run, count: int) -> list[Round]:
    """Figures of so many rounds."""
    return history(run.work, run.names[:count], [run.made(number) for number in range(count)])


def _evaluate(work: Work, recipe: OnlineRecipe) -> None:
    """pass@k of the work's policy on held-out tasks, and its score where they are played."""
    if recipe.eval_samples:
        write_evals(work, EvalConfig(samples=recipe.eval_samples))

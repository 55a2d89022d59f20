"""Stage: a judge on the attempts of a round, through an engine and the ledger of requests.

What it says goes where credit methods read it: step labels under the judge's name, or scores under theirs. Every answer
is in the ledger before it is read, so a stopped run pays for nothing twice and other parameters of reading pay nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import polars as pl

from pipeline.cli_options import check_choice
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.errors import BadConfig, BadTable, check_counts
from pipeline.generation.engine import Request
from pipeline.generation.engines import MAX_LENGTH, holds_schemas, open_tokens
from pipeline.generation.sampler import Sampler
from pipeline.judges import JUDGES, Judge
from pipeline.judges.cases import Case
from pipeline.judges.lare import LaReJudge
from pipeline.judges.talk import Said, Talks
from pipeline.judges.wording import Wording, wording
from pipeline.labels.ledger import newest, speaker, with_entries
from pipeline.labels.rows import label_rows
from pipeline.prompts import load_pack
from pipeline.report import Report
from pipeline.stages.earlier import Earlier, judged_from, rollout_shards, scores_command
from pipeline.stages.judge_cases import GOAL, read_cases
from pipeline.stages.judge_family import write_family
from pipeline.stages.params import read_json_params
from pipeline.stages.step_labels import earlier_entries, figures
from pipeline.stages.work import MISSED, Shards, Work, inputs, request_rows
from pipeline.statistics import wilson
from schemas import Scores, StepLabels
from schemas.base import column_types

VERSION = "2"
LABELS, REQUESTS = "step_labels", "requests"
_KEY = {"task": pl.String, "tree": pl.String, "node": pl.Int32}


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """judge: one or more keys of JUDGES. params: JSON object of what shall not be as published, where one judge is
    given. per_task: attempts of a task that are judged; 0: all. prompts: pack whose steps and words are used; empty:
    that of the suite. guided: the engine holds answers in JSON to their schema.
    """

    judge: tuple[str, ...] = ("genprm",)
    params: str = ""
    per_task: int = 2
    prompts: str = ""
    guided: bool = True


def write_judgements(work: Work, config: JudgeConfig = JudgeConfig()) -> list[Report]:
    """Ask each judge about the attempts of the round; `work.policy` is the model that judges.

    Returns:
        A report a judge, in order.

    Raises:
        BadConfig: there is no such judge or parameter.
        BadTable: the round has no rollouts, or grew on nodes that were replaced.
    """
    names = list(dict.fromkeys(config.judge))
    for name in names:
        check_choice("judge", name, tuple(JUDGES))
    check_counts(config, per_task=0)
    if not names or (config.params and len(names) != 1):
        raise BadConfig(f"{len(names)} judges are given", remedy="name one or more; with parameters, one")
    judges = {name: read_json_params(JUDGES[name](), config.params, of=name) for name in names}
    pack = load_pack(config.prompts) if config.prompts else work.pack
    guided = config.guided and holds_schemas(work.engine)
    words = {name: wording(name, pack, guided=guided) for name in judges}
    return [_write(work, config, name, judge, words[name]) for name, judge in judges.items()]


def _write(work: Work, config: JudgeConfig, name: str, judge: Judge, words: Wording) -> Report:
    if isinstance(judge, LaReJudge):
        return write_family(work, name, judge, words, per_task=config.per_task)
    of = SCORES if judge.names else LABELS
    shards = Shards(work, name, (REQUESTS,) if judge.names else (LABELS, REQUESTS))
    by_shard = rollout_shards(work)
    with work.sampler(name) as sampler:
        settings = inputs(
            f"{VERSION} {judge.version}",
            config=judge,
            judge=name,
            policy=sampler.fingerprint,
            prompts=words.version,
            per_task=str(config.per_task),
        )
        made_from = {shard: {**settings, **judged_from(work, shard, of=of)} for shard in by_shard}
        for read in _reads_scores(judge):
            _add_scores(work, read, made_from)
        for shard in by_shard:
            _take_back(work, name, judge, shard, made_from=made_from[shard])
        for shard, tasks, parts in shards.stale(by_shard, made_from.__getitem__):
            keys: dict[str, str] = {}
            said = _talk(work, sampler, judge, words, shard=shard, tasks=tasks, per_task=config.per_task, keys=keys)
            asked = request_rows(sampler.ledger, keys, stage=name, asked_by=sampler.asked_by)
            missed = sampler.missed & keys.keys()
            if judge.names:
                for score in judge.names:
                    work.store.write(SCORES, _score_rows(score, said), work.place(score, shard), inputs=parts)
                shards.write(shard, parts, missed=missed, requests=asked)
            else:
                version = f"{judge.version}-{work.policy.fingerprint}-{words.version}{_otherwise(judge)}"
                before = _said_before(work, name, shard, parts, version)
                entries = with_entries(before, _label_rows(name, version, said))
                shards.write(shard, parts, missed=missed, step_labels=entries, requests=asked)
    if not judge.names:
        labels = shards.read(LABELS)
        return shards.finish(**figures(labels), unread=int(newest(labels)["unread"].sum()))
    return _scored(work, shards.finish(tokens=_tokens(shards)), judge)


def _said_before(work: Work, name: str, shard: str, made_from: dict[str, str], version: str) -> pl.DataFrame:
    """The judge's entries so far, without those of this version where answers to it were missed."""
    before, entry = earlier_entries(work, name, shard, made_from), work.store.entry(LABELS, work.place(name, shard))
    return before.filter(speaker() != version) if entry is not None and MISSED in entry.inputs else before


def _otherwise(judge: Judge) -> str:
    """What a version says of parameters that are not as published; empty where all are."""
    published = asdict(type(judge)())
    return "".join(f"-{name}={value}" for name, value in asdict(judge).items() if value != published[name])


def _reads_scores(judge: Judge) -> tuple[str, ...]:
    """The scores of other judges that it is shown in place of verdicts."""
    return getattr(judge, "reads_scores", ())


def _add_scores(work: Work, name: str, made_from: dict[str, dict[str, str]]) -> None:
    """Put scores to what shards are made from.

    Raises:
        BadTable: the round has none, or they are of nodes that have changed since.
    """
    for shard, parts in made_from.items():
        Earlier(work, shard).refuse_replaced(SCORES, name)
        parts[f"{SCORES} {name}"] = work.store.digest(SCORES, work.place(name, shard))
        if not parts[f"{SCORES} {name}"]:
            command = f"branchpoint {scores_command(name)} --suite {work.suite.name} --round {work.round}"
            raise BadTable(
                f"{work.suite.name}, round {work.round}, {shard} has no scores {name}", remedy=f"run `{command}` first"
            )


def _take_back(work: Work, name: str, judge: Judge, shard: str, *, made_from: dict[str, str]) -> None:
    """Remove the requests, which say that all is there, where a file of the judge's scores is another's now."""
    store = work.store
    if not all(store.is_current((SCORES,), work.place(score, shard), made_from) for score in judge.names):
        place = work.place(name, shard)
        if store.entry(REQUESTS, place) is not None:
            store.drop(REQUESTS, place)


def _talk(
    work: Work,
    sampler: Sampler,
    judge: Judge,
    words: Wording,
    *,
    shard: str,
    tasks: pl.DataFrame,
    per_task: int,
    keys: dict[str, str],
) -> list[tuple[Case, list[Said]]]:
    """What a judge says of a shard's trees, in their order; `keys` gets every request and the task it was made for."""

    def book(case: Case, request: Request) -> None:
        task = case.task["task"]
        keys[request.key] = min(task, keys.get(request.key, task))

    cases = read_cases(work, shard, tasks, per_task=per_task, by_goal=GOAL in _reads_scores(judge))
    talks = Talks(sampler, open_tokens(work.policy), min(work.policy.max_length, MAX_LENGTH), book)
    return sorted(talks.hold((case, judge.talk(case, words)) for case in cases), key=lambda one: one[0].tree)


def _label_rows(name: str, version: str, said: list[tuple[Case, list[Said]]]) -> pl.DataFrame:
    rows = [
        {
            "task": case.task["task"],
            "tree": case.tree,
            "node": one.node,
            "hard": one.hard,
            "soft": one.value,
            "k": one.k,
            "successes": one.successes,
            "rationale": one.text,
            "unread": one.unread,
            "tokens": one.tokens,
        }
        for case, some in said
        for one in some
    ]
    types = column_types(StepLabels)
    frame = pl.DataFrame(rows, schema={name: types[name] for name in rows[0]} if rows else _KEY, orient="row")
    if "k" in frame.columns:
        tried = frame["k"].fill_null(0).to_numpy()
        ends = wilson(frame["successes"].fill_null(0).to_numpy(), tried)
        frame = frame.with_columns(
            **{end: pl.Series(values, nan_to_null=True) for end, values in zip(("low", "high"), ends, strict=True)}
        )
    return label_rows(frame, labeller=name, version=version)


def _score_rows(name: str, said: list[tuple[Case, list[Said]]]) -> pl.DataFrame:
    rows = [
        {
            "task": case.task["task"],
            "tree": case.tree,
            "node": one.node,
            "name": name,
            "value": one.value,
            "token_values": None,
            "text": one.text,
        }
        for case, some in said
        for one in some
        if one.name == name
    ]
    return pl.DataFrame(rows, schema=column_types(Scores), orient="row")


def _tokens(shards: Shards) -> int:
    return int(shards.read(REQUESTS)["decoded_tokens"].sum() or 0)


def _scored(work: Work, report: Report, judge: Judge) -> Report:
    """The report with the scores, which are files of other names."""
    scores = [place for name in judge.names for place in work.places(SCORES, stage=name)]
    rows = work.store.read(SCORES, scores)
    said = [
        pl.col(INPUTS[name].source.removeprefix(f"{SCORES}.")).filter(pl.col("name") == name) for name in judge.names
    ]
    untold = sum(rows.select(one.null_count()).item() for one in said)
    report.rows = {SCORES: rows.height, **report.rows}
    report.numbers["untold"] = untold
    digest = hashlib.sha256(report.digest.encode())
    for place in scores:
        digest.update(work.store.digest(SCORES, place).encode())
    report.digest = digest.hexdigest()[:32]
    return report

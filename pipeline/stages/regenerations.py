"""Stage: attempts that a discriminator rejects are cut before their first flawed step and drawn anew (Search-R2).

Every version is judged, the last one too. What is kept is the attempt's own nodes, so its tokens are the same; what is
cut stays as a sibling. No reward is looked at. An episode is cut before a turn, and its environment brought back there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipeline.environments.anew import Anew
from pipeline.errors import BadConfig, check_counts, check_words
from pipeline.generation.engine import Request, Sampling
from pipeline.report import Report
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.replaying import Replays, said, turns_of, write_replayed
from pipeline.stages.varying import (
    UNSAFE,
    Asking,
    Case,
    ask_about,
    cases_of,
    finished,
    one_try,
    parsed_share,
    rate,
    write_variants,
)
from pipeline.stages.work import Shards, Work
from pipeline.store.ledger import Entry
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.regenerate import Judgement, chance_of_right, judge_steps, read_cut

STAGE = "regenerations"
VERSION = "2"
ACCEPTED = "accepted"
FIRST_SAMPLE = 1 << 16
"""Samples are numbered from here on by their source's leaf, so that none is a draw that rollouts or trees made from the
same prefix."""

By = Literal["attempt", "steps"]


@dataclass(frozen=True, slots=True)
class RegenerationConfig:
    """per_task: attempts looked at. by: what the discriminator is shown at a time, the attempt as a whole, or its steps
    one after another. threshold: chance of being right from which a version is accepted. revisions: of an attempt, at
    most. judge_tokens: of a verdict. trim_tokens: of the answer that says where to cut. guided: the engine holds that
    answer to its JSON schema.
    """

    per_task: int = 2
    by: By = "attempt"
    threshold: float = 0.5
    revisions: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    judge_tokens: int = 32
    trim_tokens: int = 256
    guided: bool = True


@dataclass(slots=True)
class RegenerationCase(Case):
    """A version of an attempt on its way through judgement, cut and revision.

    first_node, leaf: of the revision.
    """

    judgement: Judgement | None = None
    cut: int | None = None
    first_node: int | None = None
    leaf: int | None = None


def write_regenerations(work: Work, config: RegenerationConfig = RegenerationConfig()) -> Report:
    """Judge attempts, and revise those that are rejected.

    Raises:
        BadConfig: the threshold is outside [0, 1]; also see `write_replayed`.
    """
    check_counts(config, per_task=1, revisions=1, judge_tokens=1, trim_tokens=1)
    check_words(config, of="regenerations", by=("attempt", "steps"))
    if not 0 <= config.threshold <= 1:
        raise BadConfig(f"threshold is {config.threshold}", remedy="give one from 0 to 1")

    shards = _write(work, config) if work.suite.environment is None else _write_episodes(work, config)
    variants = shards.read("variants")
    return finished(
        shards,
        variants,
        of="attempt that the policy sampled",
        accepted=variants.filter(pl.col("dropped") == ACCEPTED).height,
        revised=variants["dropped"].null_count(),
        parsed_share=parsed_share(variants),
        pass_rate_revised=rate(variants, "with"),
        mean_score=variants["score"].mean(),
    )


def _write(work: Work, config: RegenerationConfig) -> Shards:
    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[RegenerationCase]:
        asking = _Asked(grower, tasks, config, lambda task: task["question"])
        versions = cases_of(trees, rewards, case=RegenerationCase, per_task=config.per_task, which="all")
        return asking.revised(versions, lambda cases: _revise(grower, cases, config))

    return write_variants(work, STAGE, config, version=VERSION, vary=vary, row=_row)


def _write_episodes(work: Work, config: RegenerationConfig) -> Shards:
    def vary(replays: Replays) -> list[RegenerationCase]:
        growth = replays.growth
        asking = _Asked(growth.grower, growth.tasks, config, replays.question)
        versions = replays.chosen(RegenerationCase, per_task=config.per_task, which="all")
        return asking.revised(versions, lambda cases: _play_on(replays, cases), ready=replays.go_again)

    rules = {"temperature": config.temperature, "top_p": config.top_p}
    return write_replayed(work, STAGE, config, version=VERSION, rules=rules, vary=vary, row=_row)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whoever judges and cuts. question: of a task, as they are shown it."""

    grower: Grower
    tasks: Tasks
    config: RegenerationConfig
    question: Callable[[dict[str, Any]], str]

    def revised(
        self,
        versions: list[RegenerationCase],
        revise: Callable[[list[RegenerationCase]], list[RegenerationCase]],
        *,
        ready: Callable[[list[RegenerationCase]], list[RegenerationCase]] = list,
    ) -> list[RegenerationCase]:
        """Versions of attempts and their revisions, as often as they are rejected.

        Args:
            revise: draws versions anew from their cuts; gives the next ones. ready: those that may be asked about, the
                others it drops.
        """
        cases = []
        for revision in range(1 + self.config.revisions):
            cases += versions
            judged = ready(versions)
            self._judge(judged)
            rejected = [case for case in judged if case.dropped is None]
            if revision == self.config.revisions:
                for case in rejected:
                    case.dropped = "revised often enough"
                break
            self._cut(rejected)
            versions = revise([case for case in rejected if case.dropped is None])
        return cases

    def _judge(self, cases: list[RegenerationCase]) -> None:
        """Score each version; those that are accepted go no further."""
        grower, config = self.grower, self.config
        role, pack = "judge" if config.by == "steps" else "discriminate", grower.work.pack
        sampling = Sampling(0.0 if config.by == "attempt" else config.temperature, config.top_p, config.judge_tokens)
        asked: list[tuple[RegenerationCase, list[tuple[int, Request]]]] = []
        for case in cases:
            tree, steps, texts = case.tree, case.source.steps, case.texts
            if not grower.tokens.safe(pack.transcript(texts)):
                case.dropped = UNSAFE
                continue
            prompts = []
            for end in range(1, len(steps) + 1) if config.by == "steps" else (len(steps),):
                shown = pack.transcript(texts[:end])
                question = self.question(self.tasks[tree.task])
                ids = grower.tokens.render(pack.messages(role, question=question, steps=shown))
                node = tree.add_prompt(steps[end - 1], ids, text=shown, agent="discriminator")
                prompts.append((node, grower.request(tree.task, ids, sampling, sample=0)))
            asked.append((case, prompts))
        entries = grower.run(request for _, prompts in asked for _, request in prompts)
        for case, prompts in asked:
            scores = [_score(grower, case, node, entries.get(request.key)) for node, request in prompts]
            case.judgement = judge_steps(scores, threshold=config.threshold)
            if case.judgement is None:
                case.dropped = "no verdict came" if case.answer is None else "no verdict can be read"
            elif case.judgement.score >= config.threshold:
                case.dropped = ACCEPTED
            elif config.by == "steps":
                case.cut = case.judgement.cut

    def _cut(self, cases: list[RegenerationCase]) -> None:
        """Ask where to cut those whose cut is not known from their steps."""
        config = self.config
        trimming = Asking(
            "trim",
            "trimmer",
            "critique",
            lambda task, attempt, steps: {"question": self.question(task), "steps": steps},
            guided=config.guided,
        )
        sampling = Sampling(config.temperature, config.top_p, config.trim_tokens)
        uncut = [case for case in cases if case.cut is None]
        for case in ask_about(self.grower, uncut, self.tasks, trimming, sampling):
            case.cut = read_cut(case.text, steps=len(case.source.steps))
            if case.dropped is None and case.cut is None:
                case.dropped = "invalid cut"


def _score(grower: Grower, case: RegenerationCase, node: int, entry: Entry | None) -> float | None:
    """Append a verdict and read it; None where none came or it cannot be read."""
    if entry is None:
        return None
    case.answer = grower.add_whole(case.tree, node, entry, kind="critique", origin="critique", agent="discriminator")
    pack, answer = grower.work.pack, entry.completion
    pieces = [grower.tokens.decode([token]) for token in answer.token_ids.tolist()]
    return chance_of_right(pieces, answer.logprobs.tolist(), right=pack.right, wrong=pack.wrong)


def _revise(grower: Grower, cases: list[RegenerationCase], config: RegenerationConfig) -> list[RegenerationCase]:
    """Draw each version anew after the steps that are kept. Returns those that came."""
    sampling = Sampling(config.temperature, config.top_p, grower.work.suite.max_tokens)
    requests = [
        grower.request(case.tree.task, case.tree.tokens(_pivot(case)), sampling, sample=FIRST_SAMPLE + case.source.leaf)
        for case in cases
    ]
    entries = grower.run(requests)
    for case, request in zip(cases, requests, strict=True):
        entry = entries.get(request.key)
        if entry is None:
            case.dropped = "no revision came"
            continue
        case.first_node = len(case.tree)
        case.leaf = grower.add(case.tree, _pivot(case), entry, origin="regenerate")
    return [_next(case, tuple(case.tree.path(case.leaf)[1:])) for case in cases if case.leaf is not None]


def _play_on(replays: Replays, cases: list[RegenerationCase]) -> list[RegenerationCase]:
    """Play each version anew after the turns that are kept. Returns those that came."""
    played = [Anew(case.way, case.cut, FIRST_SAMPLE + case.source.leaf) for case in cases]
    replays.play(played)
    for case, one in zip(cases, played, strict=True):
        laid = replays.hang(one, origin="regenerate")
        if laid is None:
            case.dropped = said(one.error)
            continue
        case.first_node, case.leaf = laid.turns[0], laid.turns[-1]
    return [_next(case, turns_of(case.tree, case.leaf)) for case in cases if case.leaf is not None]


def _next(case: RegenerationCase, steps: tuple[int, ...]) -> RegenerationCase:
    return RegenerationCase(case.tree, Attempt(case.leaf, steps, float("nan")))


def _pivot(case: RegenerationCase) -> int:
    """The last node that is kept: of an episode, what was seen before the turn that is not."""
    return case.tree[case.source.steps[case.cut]]["parent"]


def _row(case: RegenerationCase, rewards: Rewards) -> dict[str, Any]:
    return {
        "variant": f"{case.tree.tree}/regeneration/{case.source.leaf}",
        "kind": "regeneration",
        "pivot": None if case.first_node is None else _pivot(case),
        "first_node": case.first_node,
        "blamed_step": case.cut,
        "score": case.judgement.score if case.judgement else None,
        **one_try(case.tree, case.first_node, rewards),
    }

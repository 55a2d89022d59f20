"""Stage: R3L in an environment. A failed episode is gone again, reflected on, and made anew from the turn it blames.

An episode whose way leads elsewhere now is not retried: that is found before anything is asked about it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.environments.driver import THREADS, Driver
from pipeline.environments.episode import Episode, Rules
from pipeline.environments.protocol import Environment
from pipeline.environments.retry import Laid, Retry, Turn, Way
from pipeline.environments.trees import verdict_rows
from pipeline.errors import BadConfig
from pipeline.generation.budget.turn_control import Limits
from pipeline.generation.engine import Request
from pipeline.stages.earlier import ROLLOUTS, Earlier, rollout_shards
from pipeline.stages.growing import Growth, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.playing import Players, Setting, environment_of, rules_of, setting_of
from pipeline.stages.reflecting import QUOTES, STAGE, VERSION, RetryCase, RetryConfig, reflect, retry_row
from pipeline.stages.varying import TABLES, variant_row, variants_frame
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.quoting import guidance_of, quotes
from pipeline.variants.restart import GUIDANCE, guided_messages

NEVER = 2**31
"""Actions in a row that cannot be taken and yet end no retry."""


@dataclass(frozen=True, slots=True)
class _Played:
    """What a shard is made from beside its episodes. environment: its name, version and options."""

    environment: str
    retries: RetryConfig


@dataclass(slots=True)
class _Case(RetryCase):
    """source.steps are the turns of the episode."""

    way: Way | None = None
    retry: Retry | None = None

    @property
    def pivot(self) -> int:
        """What was seen before the turn that is made anew."""
        return self.tree[self.source.steps[self.kept]]["parent"]

    @property
    def texts(self) -> list[str]:
        """Of each turn what was seen, and what was done then."""
        said = [self.tree[node]["text"] for node in self.source.steps]
        return [f"{seen.shown}\n{text}" for seen, text in zip(self.way.seen, said, strict=True)]


def retry_episodes(work: Work, config: RetryConfig) -> Shards:
    """Reflect on episodes of the round and retry those whose reflection is valid.

    Raises:
        BadConfig: several take turns in the suite's environment.
    """
    opened = work.suite.environment.open()
    environment = opened.make()
    if len(environment.seats) > 1:
        raise BadConfig(
            f"suite {work.suite.name} has {len(environment.seats)} seats, a retry knows one",
            remedy="leave retries out; credit and datasets take the episodes as they are",
        )
    by_shard, shards = rollout_shards(work), Shards(work, STAGE, TABLES)
    played = _Played(environment_of(work, opened), config)
    with work.sampler(STAGE) as sampler:
        for growth in growing_shards(shards, by_shard, sampler, version=VERSION, config=played):
            setting = setting_of(work, opened, Players(), _rules(work, growth.shard, config))
            cases, laid = _Shard(growth, setting, config, environment).make()
            verifier = {row["task"]: row["verifier"] for row in growth.tasks.values()}
            verdicts = verdict_rows([(one.story, one.node_of) for one in laid], verifier=verifier)
            fresh = rewards_by_node(verdicts)
            variants = variants_frame([variant_row(case, retry_row(case, fresh)) for case in cases])
            growth.write(verdicts, variants=variants)
    return shards


@dataclass(slots=True, eq=False)
class _Shard:
    """The retries of a shard. environment: any of its kind, for what it says of itself."""

    growth: Growth
    setting: Setting
    config: RetryConfig
    environment: Environment

    def make(self) -> tuple[list[_Case], list[Laid]]:
        """Retry the chosen episodes; the cases, and what is new in their trees."""
        growth = self.growth
        cases = [case for tree in growth.trees.values() for case in self._chosen(tree)]
        self._go_again(cases)
        live = [case for case in cases if case.dropped is None]
        reflect(growth.grower, live, growth.tasks, self.config, question=self._question)
        live = [case for case in live if case.dropped is None]
        self._play(live)
        laid = [one for case in live for one in self._laid(case)]
        for case in cases:
            case.way.close()
        return cases, laid

    def _chosen(self, tree: Tree) -> list[_Case]:
        """The first judged episodes of a tree that the policy played itself."""
        found = []
        for node, row in tree.known.items():
            reward = self.growth.rewards.get((tree.tree, node))
            if row["origin"] != "sample" or reward is None or (reward >= 1 and self.config.which == "failures"):
                continue
            turns = tuple(step for step in tree.line(node) if tree[step]["kind"] == "step")
            if all(tree[step]["sampled"] for step in turns):
                found.append(_Case(tree, Attempt(node, turns, reward)))
        return found[: self.config.per_task]

    def _question(self, task: dict[str, Any]) -> str:
        """The rules of the environment and the task."""
        return "\n".join(filter(None, [*self.environment.instructions, task["question"]]))

    def _go_again(self, cases: list[_Case]) -> None:
        """Find the way to each turn of the episodes; those that lead elsewhere now are dropped."""
        for case in cases:
            make = partial(self._begun_anew, self.growth.tasks[case.tree.task])
            turns = [Turn(node, case.tree.tokens(node)) for node in case.source.steps]
            case.way = Way(make, case.tree, turns)
        with ThreadPoolExecutor(THREADS, "environment") as threads:
            gone = [threads.submit(case.way.go) for case in cases]
        for case, one in zip(cases, gone, strict=True):
            error = one.exception()
            if error is not None:
                case.dropped = _said(f"not replayable: {type(error).__name__}: {error}")
            elif (astray := case.way.astray()) is not None:
                case.dropped = f"not replayable: turn {astray} was sent other tokens"

    def _begun_anew(self, task: dict[str, Any]) -> Episode:
        return self.setting.episode(task, 0, {})

    def _play(self, cases: list[_Case]) -> None:
        """Play the guided episodes."""
        alike: Counter[tuple[str, bytes, str]] = Counter()

        def begun() -> Iterator[Retry]:
            for case in cases:
                case.kept = 0 if self.config.begin == "prompt" else case.reflection.pivot
                same = (case.tree.tree, case.tree.tokens(case.pivot).tobytes(), case.reflection.report)
                guide = partial(guided_messages, report=case.reflection.report)
                case.retry = Retry(case.way, case.kept, guide, alike[same])
                alike[same] += 1
                yield case.retry

        grower = self.growth.grower

        def on_request(retry: Retry, request: Request) -> None:
            grower.asked[request.key] = retry.way.tree.task

        for retry in Driver(grower.sampler, on_request=on_request).run(begun()):
            retry.guided.environment.close()

    def _laid(self, case: _Case) -> Iterator[Laid]:
        """Append a retry to its tree: the guided transcript below the report, and the distilled one at the pivot
        unless it quotes the guidance.
        """
        if case.retry.error is not None:
            case.dropped = _said(case.retry.error)
            return
        guided = case.retry.lay(case.tree, case.answer, text=case.reflection.report)
        yield guided
        if self._quotes(case, guided):
            case.dropped = QUOTES
            return
        distilled = case.retry.distil(case.tree, case.pivot, guided)
        case.first_node = distilled.turns[0]
        yield distilled

    def _quotes(self, case: _Case, guided: Laid) -> bool:
        """Whether the new turns of a guided episode quote what it alone was told."""
        said = "\n".join(case.tree[node]["text"] for node in guided.turns[case.kept :])
        question = self._question(self.growth.tasks[case.tree.task])
        plain = [question, *case.texts, *(seen.shown for seen in case.retry.guided.seen)]
        return quotes(said, guidance=guidance_of(case.reflection.report, [GUIDANCE.substitute(report="")]), plain=plain)


def _said(error: str) -> str:
    return error[:200].encode(errors="replace").decode()


def _rules(work: Work, shard: str, config: RetryConfig) -> Rules:
    """The rules that the round's episodes were played by; an action that cannot be taken ends no retry."""
    rollouts = Earlier(work, shard).entry("nodes", ROLLOUTS)
    said = json.loads(rollouts.inputs["config"]).get("rules", {})
    if "limits" in said:
        said["limits"] = Limits(*said["limits"])
    rules = replace(rules_of(work), **said)
    return replace(rules, temperature=config.temperature, top_p=config.top_p, invalid=NEVER)

"""Runs a growth strategy over the stale shards of a stage; a shard is written when its last tree is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import polars as pl

from pipeline.errors import BadConfig
from pipeline.generation.budget.spending import NO_CAPS, Caps
from pipeline.generation.engine import Request, check_sampling
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.report import Progress, Report
from pipeline.stages.growing import Growth, held_shards
from pipeline.stages.params import read_json_params
from pipeline.stages.work import Shards
from pipeline.tasks.verifiers import Question, verify
from pipeline.trees.draft import Draft, Reading
from pipeline.trees.lay_out import lay_out
from pipeline.trees.segment import cut_steps
from pipeline.trees.strategy import Strategy


@dataclass(slots=True, eq=False)
class _Open:
    """A shard that is being made. left: trees that are not done. held: what keeps other processes from it."""

    growth: Growth
    held: ExitStack
    left: int


@dataclass(slots=True, eq=False)
class Making:
    """A strategy at work on a stage.

    draft_of: the draft of a task's tree to begin with; gives it a tree in the growth where it has none.
    stopped: why it ended before all shards were made; empty where it did not.
    failed: asks whose requests failed.
    """

    shards: Shards
    sampler: Sampler
    strategy: Strategy
    draft_of: Callable[[Growth, str], Draft]
    order: str = "first"
    caps: Caps = NO_CAPS
    stopped: str = ""
    failed: int = 0
    _open: dict[str, _Open] = field(default_factory=dict)
    _total: int = 0

    def make(self, tasks: dict, *, version: str, config: object) -> None:
        """Make every stale shard; those that a cap leaves unfinished are not written.

        Raises:
            BadConfig, BadTable: see `held_shards`.
        """
        done = 0
        scheduler = Scheduler(
            self.sampler,
            self.strategy,
            reward_of=self._reward_of,
            on_request=self._on_request,
            part_of=lambda draft: self._open[draft.task].growth.shard,
            order=self.order,
            caps=self.caps,
        )
        try:
            for draft, failed in scheduler.grow(self._drafts(tasks, version=version, config=config)):
                one = self._open[draft.task]
                lay_out(draft, one.growth.trees[draft.task], by_step=self.strategy.by_step)
                self.failed += failed
                done += 1
                one.left -= 1
                self._tell(done)
                if not one.left:
                    self._close(one)
        finally:
            for one in self._open.values():
                one.held.close()
        self.stopped = scheduler.stopped

    def finish(self, **numbers: float | int | None) -> Report:
        """The stage's report; says what failed, and why the run ended where a cap ended it."""
        spent = self.sampler.spent
        report = self.shards.finish(
            **numbers,
            failed=self.failed or None,
            cached_share=spent.cached / spent.prompt if spent.prompt and spent.cached else None,
            cost=self.sampler.cost,
        )
        if self.stopped:
            again = "what was asked is in the ledger; the same command without the cap goes on from there"
            report.notes = (*report.notes, f"{self.stopped}: {again}")
        return report

    def _drafts(self, tasks: dict, *, version: str, config: object) -> Iterator[Draft]:
        for growth, held in held_shards(self.shards, tasks, self.sampler, version=version, config=config):
            one = _Open(growth, held, len(growth.tasks))
            self._open |= dict.fromkeys(growth.tasks, one)
            self._total = self.shards.to_make(tasks)
            for task in growth.tasks:
                yield self.draft_of(growth, task)
        self._total = self.shards.to_make(tasks)

    def _close(self, one: _Open) -> None:
        with one.held:
            one.growth.write(one.growth.judge())
            self.shards.report.fresh += 1
        for task in one.growth.tasks:
            del self._open[task]

    def _on_request(self, task: str, request: Request) -> None:
        self._open[task].growth.grower.asked[request.key] = task

    def _reward_of(self, draft: Draft, piece: int) -> float | None:
        row = self._open[draft.task].growth.tasks[draft.task]
        text = draft.written(draft.end_of(piece))
        return verify(row["verifier"], Question(row["answer"], row["info"]), text).reward

    def _tell(self, done: int) -> None:
        shards, tokens = self.shards, self.sampler.spent.decoded
        shards.work.on_progress(Progress(shards.stage, "trees", done, self._total, tokens, 0, shards.seconds))


def make_trees(
    shards: Shards,
    tasks: dict[str, pl.DataFrame],
    strategy: Strategy,
    draft_of: Callable[[Growth, str], Draft],
    *,
    version: str,
    order: str,
    caps: Caps,
    made_from: object = None,
) -> Making:
    """Make every stale shard of a stage by a strategy.

    Args:
        order: which request goes first.
        caps:  where the run ends, and what it is priced at.
        made_from: the parameters that shards are made from. None: those of the strategy.

    Returns:
        What came of it; its `finish` gives the report.

    Raises:
        BadConfig, BadTable: see `held_shards`.
    """
    with shards.work.sampler(shards.stage, prices=caps.prices) as sampler:
        making = Making(shards, sampler, strategy, draft_of, order=order, caps=caps)
        making.make(tasks, version=version, config=made_from or strategy)
    return making


def reading_of(growth: Growth) -> Reading:
    """How the tokens of a shard's policy are read."""
    tokens, separator = growth.grower.tokens, growth.shards.work.suite.separator
    return Reading(
        tokens.decode,
        lambda ids: cut_steps(ids, separator, closers=tokens.closers(separator), decode=tokens.decode),
        tokens.encode,
    )


def strategy_of(known: dict[str, type[Strategy]], name: str, params: str, **common: object) -> Strategy:
    """A strategy by name, with the parameters that a JSON object says.

    Args:
        common: parameters that have options of their own, for the strategies that take them.

    Raises:
        BadConfig: there is none of that name, a parameter is not one of its, or nothing can be drawn by it.
    """
    if name not in known:
        raise BadConfig(f"strategy {name!r} does not exist", remedy=f"choose one of {', '.join(known)}")
    takes = known[name].__dataclass_fields__
    defaults = known[name](**{key: value for key, value in common.items() if key in takes and value is not None})
    strategy = read_json_params(defaults, params, of=f"strategy {name}")
    check_sampling(strategy.temperature, strategy.top_p)
    return strategy

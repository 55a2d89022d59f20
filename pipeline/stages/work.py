"""What every stage shares: the store, the suite, the policy, and the walk over shards.

A shard whose files were made from the very same inputs is left alone; that is how a second run does nothing. One that
lacks answers which another time may come says so among its inputs, and so is made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.budget.spending import NO_PRICES, Prices
from pipeline.generation.engines import engine_fingerprint, engine_kind, open_engine
from pipeline.generation.policies import Policy, find_policy
from pipeline.generation.sampler import Sampler
from pipeline.prompts import PromptPack, load_pack
from pipeline.report import OnProgress, Progress, Report, silent
from pipeline.settings import Settings
from pipeline.store.files import locked
from pipeline.store.layout import Place
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store
from pipeline.tasks.suites import Suite, load_suite, more_tasks
from schemas import Requests
from schemas.base import column_types

MISSED = "missed"
"""Among a shard's inputs: how many requests failed that another run may have answered. Absent: none."""


@dataclass(frozen=True, slots=True)
class Work:
    """A stage's surroundings: where, on what, with which policy.

    round: name of the round; one policy version's worth of data.
    """

    settings: Settings
    suite: Suite
    round: str
    policy_name: str = "tiny"
    engine: str = "vllm"
    on_progress: OnProgress = silent

    @property
    def store(self) -> Store:
        return Store(self.settings.store)

    @property
    def pack(self) -> PromptPack:
        return load_pack(self.suite.prompts)

    @property
    def policy(self) -> Policy:
        return find_policy(self.policy_name, policies=self.settings.policies)

    def place(self, stage: str, shard: str) -> Place:
        return Place(self.suite.name, self.round, stage, shard)

    def places(self, table: str, *, stage: str | None = None) -> list[Place]:
        """The round's shards of a table."""
        return self.store.places(table, suite=self.suite.name, round=self.round, stage=stage)

    def shards(self, split: str = "train", *, columns: Sequence[str] | None = None) -> dict[str, pl.DataFrame]:
        """The suite's tasks of a split, by shard.

        Args:
            columns: those wanted beside `task` and `split`; None: all.

        Raises:
            BadConfig: the store has none; where the suite has none, names what to change in its file.
        """
        tasks = self.store.tasks(self.suite.name, split=split, columns=columns)
        if tasks.is_empty() and self.store.places("tasks", suite=self.suite.name):
            raise BadConfig(f"suite {self.suite.name} has no {split} tasks", remedy=more_tasks(self.suite, split))
        if tasks.is_empty():
            raise BadConfig(
                f"the store has no {split} tasks of suite {self.suite.name}",
                remedy=f"run `branchpoint tasks --suite {self.suite.name}` first",
            )
        return shards_of(tasks, size=self.suite.shard_tasks)

    @contextmanager
    def sampler(
        self, stage: str, *, total: int = 0, what: str = "requests", prices: Prices = NO_PRICES
    ) -> Iterator[Sampler]:
        """A sampler of the policy behind the store's ledger; reports progress against `total` requests, 0: of so many
        as there will be."""
        policy, started = self.policy, time.monotonic()
        with self.store.ledger() as ledger:
            sampler = Sampler(
                ledger,
                engine_kind(self.engine),
                engine_fingerprint(self.engine, policy),
                lambda: open_engine(self.engine, policy),
                asked_by=f"{self.suite.name}/{self.round}/{stage}",
                prices=prices,
            )
            answered = 0

            def on_answer(spent) -> None:
                nonlocal answered
                answered = max(answered, spent.reused + spent.paid)
                self.on_progress(
                    Progress(
                        stage,
                        what,
                        answered,
                        max(total, answered) if total else 0,
                        spent.decoded,
                        spent.reused,
                        time.monotonic() - started,
                        spent.cached / spent.prompt if spent.prompt and spent.cached else None,
                        sampler.cost,
                    )
                )

            sampler.on_answer = on_answer
            yield sampler


def make_work(
    settings: Settings,
    *,
    suite: str,
    round: str,
    policy: str = "tiny",
    engine: str = "vllm",
    on_progress: OnProgress = silent,
) -> Work:
    """Surroundings by name.

    Raises:
        BadConfig, BadModel: the suite, the engine or the policy is none.
    """
    work = Work(settings, load_suite(suite, folder=settings.suites), round, policy, engine, on_progress)
    work.place("check", "name")
    work.policy  # noqa: B018 - raises now rather than after an hour
    return work


def shards_of(tasks: pl.DataFrame, *, size: int) -> dict[str, pl.DataFrame]:
    """Tasks by shard, named after the split and numbered: slices of some tasks in their order."""
    found = {}
    for (split,), rows in sorted(tasks.sort("task").group_by("split"), key=lambda item: item[0]):
        for number, start in enumerate(range(0, rows.height, size)):
            found[f"{split}-{number:03d}"] = rows[start : start + size]
    return found


def inputs(version: str, *, config: Any = None, **parts: str) -> dict[str, str]:
    """What a shard is made from, for its file: stage version, configuration, digests."""
    settings = json.dumps(asdict(config), sort_keys=True) if config is not None else "{}"
    return {"version": version, "config": settings, **parts}


@dataclass(slots=True)
class Shards:
    """A stage's walk over its shards; collects the report.

    scores: names of scores that stand beside the tables, each in a file of its own.
    """

    work: Work
    stage: str
    tables: tuple[str, ...]
    scores: tuple[str, ...] = ()
    report: Report = field(init=False)
    _started: float = field(default_factory=time.monotonic)
    _places: list[Place] = field(default_factory=list)
    _missed: set[str] = field(default_factory=set)
    _current: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.report = Report(self.stage, self.work.suite.name, self.work.round)

    def stale(
        self, shards: dict[str, Any], inputs_of: Callable[[str], dict[str, str]]
    ) -> Iterator[tuple[str, Any, dict[str, str]]]:
        """The shards that must be made, with their inputs; each is held against other processes while it is made.

        Raises:
            BadTable: another process makes one of them.
        """
        for name, content, made_from, held in self.claimed(shards, inputs_of):
            with held:
                yield name, content, made_from
                self.report.fresh += 1

    def claimed(
        self, shards: dict[str, Any], inputs_of: Callable[[str], dict[str, str]]
    ) -> Iterator[tuple[str, Any, dict[str, str], ExitStack]]:
        """As `stale`, each with what holds it, for whoever makes several at a time.

        Raises:
            BadTable: another process makes one of them.
        """
        store = self.work.store
        for number, (name, content) in enumerate(shards.items()):
            place, made_from = self.work.place(self.stage, name), inputs_of(name)
            self._places.append(place)
            if self._is_current(name, made_from):
                self._current.add(name)
            else:
                with ExitStack() as held:
                    held.enter_context(
                        locked(store.files, f"{self.stage} of {place.suite}, round {place.round}, {name}")
                    )
                    if not self._is_current(name, made_from):
                        yield name, content, made_from, held.pop_all()
            self.work.on_progress(
                Progress(self.stage, "shards", number + 1, len(shards), 0, 0, time.monotonic() - self._started)
            )

    def to_make(self, tasks: dict[str, pl.DataFrame]) -> int:
        """Tasks in the shards that the walk has not found current so far."""
        return sum(rows.height for name, rows in tasks.items() if name not in self._current)

    @property
    def seconds(self) -> float:
        """Since the walk began."""
        return time.monotonic() - self._started

    def write(
        self, shard: str, made_from: dict[str, str], *, missed: Set[str] = frozenset(), **rows: pl.DataFrame
    ) -> None:
        """Write the shard's tables, in the order the stage names them: the first is the commit's last.

        Args:
            missed: requests whose answers it lacks, and another run may bring. It is current only where there are none.
        """
        self._missed |= missed
        if missed:
            made_from = {**made_from, MISSED: str(len(missed))}
        for table in reversed(self.tables):
            self.work.store.write(table, rows[table], self.work.place(self.stage, shard), inputs=made_from)

    def write_scores(self, shard: str, made_from: dict[str, str], rows: Callable[[str], pl.DataFrame]) -> None:
        """Write what was said of the shard's nodes, by name; after the nodes, whose digest the files state."""
        for name in self.scores:
            said = self._scored_from(shard, made_from)
            self.work.store.write("scores", rows(name), self.work.place(name, shard), inputs=said)

    def _is_current(self, shard: str, made_from: dict[str, str]) -> bool:
        store, work = self.work.store, self.work
        if not store.is_current(self.tables, work.place(self.stage, shard), made_from):
            return False
        said = self._scored_from(shard, made_from)
        return all(store.is_current(("scores",), work.place(name, shard), said) for name in self.scores)

    def _scored_from(self, shard: str, made_from: dict[str, str]) -> dict[str, str]:
        nodes = self.work.store.digest("nodes", self.work.place(self.stage, shard)) if self.scores else ""
        return inputs(made_from["version"], **{self.stage: nodes})

    def cover(self, places: Iterable[Place]) -> None:
        """Have the report be over shards that were not walked over, too."""
        self._places = sorted({*self._places, *places})

    def finish(self, **numbers: float | int | None) -> Report:
        """The report, over what the store now holds for this stage."""
        store = self.work.store
        digest = hashlib.sha256()
        for table in self.tables:
            self.report.rows[table] = sum(store.rows(table, place) for place in self._places)
            for place in self._places:
                digest.update(store.digest(table, place).encode())
        self.report.shards = len(self._places)
        self.report.digest = digest.hexdigest()[:32]
        self.report.seconds = time.monotonic() - self._started
        self.report.numbers = {name: value for name, value in numbers.items() if value is not None}
        if self._missed:
            self.report.numbers[MISSED] = len(self._missed)
            again = f"run again to ask {len(self._missed):,} failed requests again, which another time may be answered"
            self.report.notes = (*self.report.notes, again)
        return self.report

    def read(self, table: str) -> pl.DataFrame:
        """What the store now holds of one of the stage's tables."""
        return self.work.store.read(table, self._places)


def check_answered(made: Iterable[Report], *, most: float = 0.0, otherwise: str = "") -> None:
    """Refuse to go on from what lacks answers that may yet come, where what is made of it could not take them later.

    Args:
        most: share of a stage's requests that may lack theirs.
        otherwise: what helps where they never come, for print.

    Raises:
        BadModel: a stage lacks more.
    """
    for report in made:
        missed, asked = report.numbers.get(MISSED, 0), report.rows["requests"]
        if missed > most * asked:
            raise BadModel(
                f"{missed:,} of {asked:,} requests of {report.stage}, round {report.round} of {report.suite}, failed, "
                "and another time may be answered",
                remedy=f"see that the engine is up and run again, which asks those alone{otherwise}",
            )


def let_stand(work: Work, stage: str) -> None:
    """Have shards that lack answers be current as they are, so that what they lack is not asked again."""
    for entry in work.store.catalogue(suite=work.suite.name, round=work.round, stage=stage):
        if MISSED in entry.inputs:
            made_from = {name: value for name, value in entry.inputs.items() if name != MISSED}
            rows = work.store.read(entry.table, [entry.place])
            work.store.write(entry.table, rows, entry.place, inputs=made_from)


def request_rows(ledger: Ledger, keys: dict[str, str], *, stage: str, asked_by: str) -> pl.DataFrame:
    """Rows of the requests table for `keys` (request to task), as `asked_by` booked them."""
    return pl.DataFrame(
        [
            {
                "task": keys[key],
                "request": key,
                "stage": stage,
                "sample_index": entry.sample,
                "policy": entry.policy,
                "engine": entry.engine,
                "sampling": entry.sampling,
                "prompt_tokens": len(entry.prompt),
                "cached_tokens": entry.completion.cached,
                "decoded_tokens": None if entry.completion.error else len(entry.completion.token_ids),
                "seconds": entry.completion.seconds,
                "reused": None if entry.asked_by is None else entry.asked_by != asked_by,
                "attempts": entry.attempts,
                "error": entry.completion.error,
            }
            for key, entry in ledger.get(list(keys)).items()
        ],
        schema=column_types(Requests),
        orient="row",
    )

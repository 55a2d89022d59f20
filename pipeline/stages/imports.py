"""Stage: what others recorded becomes the rollouts of a round, merged into a tree a task, in bounded memory.

What cannot be read is a line of a report, with its file and line; the rest comes in.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec
import polars as pl

from pipeline.errors import BadConfig, BadInput, check_words
from pipeline.exchange import IMPORTED, IMPORTERS
from pipeline.exchange.answers import Answer
from pipeline.exchange.document import Document, Fault, Found, Refused, Restored
from pipeline.exchange.encoding import Encoder
from pipeline.exchange.files import Source, sources
from pipeline.exchange.planting import Rows
from pipeline.exchange.reading import Importer, documents
from pipeline.exchange.references import renamed
from pipeline.exchange.sorting import Spool
from pipeline.exchange.violations import Violations, count_violations, violations
from pipeline.generation.engine import Completion, Request
from pipeline.generation.engines import engine_fingerprint, open_tokens
from pipeline.report import Progress, Report
from pipeline.stages.judging import judge
from pipeline.stages.work import Work, inputs, shards_of
from pipeline.store.files import locked
from pipeline.store.layout import EVERY_ROUND, NAME, Place
from pipeline.store.write import disk_errors
from pipeline.tasks.verifiers import VERIFIERS
from pipeline.trees.grow import read_trees
from schemas import TABLES
from schemas.words import SPLITS

STAGE, VERSION = "rollouts", "4"
TASKS, SCORES, LABELS = "tasks", "source", "step_labels"
FOLDER = "imports"
"""Below the store, on this machine: a file a round with what could not be read."""
_EVERY = 2000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Found).decode


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """format: key of IMPORTERS. path: of a file, or of a folder of them. licence: of what is imported, where its
    records name none. tokens: source: token ids as the source has them, of a tokenizer that is not known here, so that
    nothing can be grown from them; policy: they are of the tokenizer of --policy, which may grow them; render:
    likewise, and texts without token ids are encoded by it. replace: take the place of the round's rollouts of other
    files.
    """

    format: str = ""
    path: str = ""
    licence: str = ""
    tokens: Literal["source", "policy", "render"] = "source"
    replace: bool = False


def write_imports(work: Work, config: ImportConfig = ImportConfig()) -> Report:
    """Read foreign files into the round's tasks, nodes, verdicts, step labels and, under `source`, scores.

    Raises:
        BadConfig: there is no such format, the suite has other tasks, or the round rollouts of other files.
        BadInput: there is no such file, or nothing in it can be imported.
    """
    check_words(config, format=IMPORTERS, tokens=("source", "policy", "render"))
    run = _Import(work, config)
    if not run.is_current():
        with locked(work.store.files, f"import of {work.suite.name}, round {work.round}"):
            run.make()
    return run.report()


@dataclass(slots=True)
class _Import:
    work: Work
    config: ImportConfig
    documents: int = 0
    steps: int = 0
    conflicts: int = 0
    fresh: int = 0
    _started: float = field(default_factory=time.monotonic)
    _sources: list[Source] = field(default_factory=list)
    _made_from: dict[str, str] = field(default_factory=dict)
    _importer: Importer | None = None
    _labels: set[Place] = field(default_factory=set)

    def __post_init__(self):
        self._importer = import_module(IMPORTERS[self.config.format]).IMPORTER
        self._sources = sources(Path(self.config.path), self._importer.endings)
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(f"{source.name}\0".encode() + source.digest)
        policy = IMPORTED
        if self.config.tokens != "source":
            policy = engine_fingerprint(self.work.engine, self.work.policy)
        said = replace(self.config, path="", replace=False)
        self._made_from = inputs(VERSION, config=said, files=digest.hexdigest(), policy=policy)

    @property
    def violations_file(self) -> Path:
        return self.work.store.files.local / FOLDER / f"{self.work.suite.name}.{self.work.round}.jsonl"

    def is_current(self) -> bool:
        """Whether every shard is there and was made from just these files."""
        store, places = self.work.store, self.work.places("nodes", stage=STAGE)
        found = [store.entry("nodes", place).inputs for place in places]
        return bool(found) and all(
            said.items() >= self._made_from.items() and said.get("shards") == str(len(found)) for said in found
        )

    def make(self) -> None:
        """Write every shard, and what could not be read."""
        self._refuse_others()
        local = self.work.store.files.local
        with (
            disk_errors(local, setting="BRANCHPOINT_STORE"),
            violations(self.violations_file) as faults,
            TemporaryDirectory(prefix=".import-", dir=local) as folder,
        ):
            spool, tasks = Spool(Path(folder)), set()
            for task, data in self._read(faults):
                spool.add(task, data)
                tasks.add(task)
            new = not tasks or self._may_replace(tasks)
            count = -(-len(tasks) // self.work.suite.shard_tasks)
            self._write_shards(spool, {"shards": str(count)}, faults, new=new)
            if self.documents:
                self._drop_others(count, new=new)
            faults.publish()
            if not self.documents:
                raise BadInput(
                    f"{self.config.path}: nothing in it can be read as {self.config.format}",
                    remedy=f"{faults.path} says why" if faults.count else "it has no record at all",
                )

    def _refuse_others(self) -> None:
        others = [place for place in self.work.places("nodes", stage=STAGE) if not self._is_ours("nodes", place)]
        if others and not self.config.replace:
            raise BadConfig(
                f"round {self.work.round} of {self.work.suite.name} has rollouts that are not of {self.config.path}",
                remedy="import it into another --round, or give --replace to lose them",
            )

    def report(self) -> Report:
        """Of what the store now holds."""
        store, work = self.work.store, self.work
        report = Report("import", work.suite.name, work.round, fresh=self.fresh)
        digest = hashlib.sha256()
        for table in (TASKS, "nodes", "verdicts", LABELS, "scores", "requests"):
            places = [place for place in _places(work, table) if self._is_ours(table, place)]
            report.rows[table] = sum(store.rows(table, place) for place in places)
            for place in places:
                digest.update(store.digest(table, place).encode())
        report.shards = len(work.places("nodes", stage=STAGE))
        report.digest = digest.hexdigest()[:32]
        left_out = count_violations(self.violations_file)
        report.seconds = time.monotonic() - self._started
        report.numbers = {"violations": left_out, "files": len(self._sources)}
        if self.fresh:
            report.numbers |= {
                "documents": self.documents,
                "conflicts": self.conflicts,
                "steps": self.steps,
                "steps_per_second": self.steps / max(report.seconds, 1e-9),
            }
        if left_out:
            report.notes = (f"{left_out} records were left out; {self.violations_file} says which and why",)
        return report

    def _read(self, faults: Violations) -> Iterator[tuple[str, bytes]]:
        """Documents by task."""
        encoder, count = self._encoder(), 0
        for number, source in enumerate(self._sources, start=1):
            name = source.name
            for line, found in [(0, Fault(0, source.why))] if source.why else documents(self._importer, source.path):
                if not isinstance(found, Fault):
                    try:
                        task, found = self._prepared(found, encoder)
                    except Refused as error:
                        found = Fault(line, str(error))
                if isinstance(found, Fault):
                    faults.add(name, line, found.why)
                    continue
                count += 1
                if count % _EVERY == 0:
                    self._tell("documents", count, count)
                yield task, _encode(Found(name, line, self.config.format, found))
            self._tell("files", number, len(self._sources))

    def _prepared(self, found: Document | Restored, encoder: Encoder | None) -> tuple[str, Document | Restored]:
        if isinstance(found, Restored):
            found = renamed(found, suite=self.work.suite.name, round=self.work.round)
            return found.task["task"], found
        if encoder is not None:
            encoder.encode(found)
        return task_name(self.work.suite.name, self.config.format, found), found

    def _encoder(self) -> Encoder | None:
        if self.config.tokens == "source":
            return None
        return Encoder(open_tokens(self.work.policy), self.work.suite.separator, render=self.config.tokens == "render")

    def _may_replace(self, tasks: set[str]) -> bool:
        """Whether the suite's tasks are this round's own and written anew; where another round made them, or has
        trees of them, they must be those that are imported, in the same shards.

        Raises:
            BadConfig: they are others, or in others.
        """
        store, suite = self.work.store, self.work.suite.name
        places = store.places("tasks", suite=suite)
        are_own = all(store.entry("tasks", place).inputs.get("round") == self.work.round for place in places)
        if are_own and all(place.round == self.work.round for place in store.places("nodes", suite=suite)):
            return True
        known = store.tasks(suite, split="train", columns=["task"])
        if set(known["task"].to_list()) != tasks:
            raise BadConfig(
                f"suite {suite} has other tasks than {self.config.path}", remedy="import it into a --suite of its own"
            )
        size = self.work.suite.shard_tasks
        shards = {shard: rows.height for shard, rows in shards_of(known, size=size).items()}
        if shards != {place.shard: store.rows("tasks", place) for place in places if place.shard.startswith("train-")}:
            raise BadConfig(
                f"the tasks of suite {suite} are in other shards than shard_tasks = {size} makes",
                remedy="set it to what it was, or import into a --suite of its own",
            )
        return are_own

    def _write_shards(self, spool: Spool, shards: dict[str, str], faults: Violations, *, new: bool) -> None:
        """Plant and write the trees, a shard at a time; until a document stands nothing is replaced."""
        waiting: list[Rows] = []
        for rows in self._planted(spool):
            for fault in rows.faults:
                faults.add(*fault)
            self.documents += rows.documents
            self.steps += rows.steps
            self.conflicts += rows.conflicts
            waiting.append(rows)
            if self.documents:
                for one in waiting:
                    self._write(one, f"train-{self.fresh:03d}", shards, new=new)
                    self._tell("shards", self.fresh, int(shards["shards"]))
                waiting.clear()

    def _planted(self, spool: Spool) -> Iterator[Rows]:
        """The trees of a shard at a time."""
        asked: dict[str, str] = {}
        rows, held = self._rows(asked), 0
        for task, some in groupby(spool.read(), key=lambda item: item[0]):
            if held == self.work.suite.shard_tasks:
                yield rows
                rows, held = self._rows(asked), 0
            rows.add(task, [_decode(data) for _, data in some])
            held += 1
        if held:
            yield rows

    def _rows(self, asked: dict[str, str]) -> Rows:
        suite, book = self.work.suite.name, self.config.tokens != "source"
        return Rows(suite, self.work.round, book=book, licence=self.config.licence, asked=asked)

    def _write(self, rows: Rows, shard: str, shards: dict[str, str], *, new: bool) -> None:
        work, store, frames = self.work, self.work.store, rows.frames()
        made = self._made_from | shards
        if new:
            at = Place(work.suite.name, EVERY_ROUND, TASKS, shard)
            store.write("tasks", frames["tasks"], at, inputs=made | {"round": work.round})
        made["tasks"] = store.tasks_digest(work.suite.name, shard)
        self._record(rows.answers)
        place = work.place(STAGE, shard)
        store.write("requests", frames["requests"], place, inputs=made)
        verdicts = frames["verdicts"] if self.config.tokens == "source" else _judged(frames)
        store.write("verdicts", verdicts, place, inputs=made)
        store.write("scores", frames["scores"], work.place(SCORES, shard), inputs=made)
        for (labeller,), labels in frames[LABELS].group_by("labeller", maintain_order=True):
            place_of_labels = work.place(_stage(labeller), shard)
            store.write(LABELS, labels, place_of_labels, inputs=made)
            self._labels.add(place_of_labels)
        store.write("nodes", frames["nodes"], place, inputs=made)
        self.fresh += 1

    def _record(self, answers: Iterable[Answer]) -> None:
        """Put sampled answers into the ledger, as if they had been asked for here."""
        work = self.work
        with work.store.ledger() as ledger:
            for policy, some in groupby(answers, key=lambda answer: answer.policy):
                pairs = [
                    (
                        Request(one.request, one.prompt, _NotTold(), 0),
                        Completion(one.request, one.token_ids, one.logprobs, one.finish),
                    )
                    for one in some
                ]
                by = f"{work.suite.name}/{work.round}/{STAGE}"
                ledger.put(pairs, policy=policy, engine=IMPORTED, asked_by=by)

    def _drop_others(self, count: int, *, new: bool) -> None:
        """Remove what stands for shards that there no longer are, and labels of an earlier import."""
        store, kept = self.work.store, {f"train-{number:03d}" for number in range(count)}
        for table in TABLES:
            for place in store.places(table, suite=self.work.suite.name):
                is_gone = place.round == self.work.round or (new and place.round == EVERY_ROUND)
                if is_gone and place.shard not in kept and place.shard not in SPLITS:
                    store.drop(table, place)
        for place in self.work.places(LABELS):
            if "files" in store.entry(LABELS, place).inputs and place not in self._labels:
                store.drop(LABELS, place)

    def _is_ours(self, table: str, place: Place) -> bool:
        return self.work.store.entry(table, place).inputs.get("files") == self._made_from["files"]

    def _tell(self, what: str, done: int, total: int) -> None:
        self.work.on_progress(Progress("import", what, done, total, 0, 0, time.monotonic() - self._started))


class _NotTold:
    """Sampling of which nothing is known."""

    def as_json(self) -> str:
        return "{}"


def task_name(suite: str, format: str, document: Document) -> str:
    """A task by its content: what is asked, what stands before it, the tools offered."""
    parts = "\0".join((document.question, document.messages or "", document.tools or ""))
    return f"{suite}/{format}/train/{hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()}"


def _judged(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The verdicts of the source, and our own on the ends of attempts that it does not judge and that can be judged:
    which attempts are grown further depends on them."""
    tasks = {row["task"]: row for row in frames["tasks"].iter_rows(named=True) if row["verifier"] in VERIFIERS}
    trees = read_trees(frames["nodes"].filter(pl.col("task").is_in(list(tasks))))
    ours = judge(trees.values(), tasks, known=True)
    return pl.concat([frames["verdicts"], ours.join(frames["verdicts"], on=["tree", "node"], how="anti")])


def _places(work: Work, table: str) -> list[Place]:
    return work.store.places(table, suite=work.suite.name, round=EVERY_ROUND if table == TASKS else work.round)


def _stage(labeller: str) -> str:
    """A labeller's place in the store: its name, where that can be one; else what of it can be, told apart."""
    if NAME.fullmatch(labeller):
        return labeller
    letters = "".join(letter for letter in labeller if letter.isascii() and (letter.isalnum() or letter in "_.-"))
    return f"labels-{letters[:50]}-{hashlib.blake2b(labeller.encode(), digest_size=4).hexdigest()}"

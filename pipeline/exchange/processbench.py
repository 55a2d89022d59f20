"""ProcessBench: a solution with the first step that people found wrong."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pipeline.exchange.document import SOURCE, Document, Judgement, Label, Refused, chain, licence_of, record_of
from pipeline.exchange.reading import Importer, rows

LABELLER, VERSION = "human", "processbench"


class Row(msgspec.Struct):
    """label: index of the first wrong step; -1: none is."""

    problem: str
    steps: list[str]
    label: int
    final_answer_correct: bool | None = None


def parse(data: bytes) -> Iterator[Document]:
    """A chain of steps, labelled up to the first wrong one; nothing is said of those after it.

    Raises:
        Refused: the label is no step's.
    """
    raw = msgspec.json.decode(data)
    row = msgspec.convert(raw, Row)
    if not -1 <= row.label < len(row.steps):
        raise Refused(f"label is {row.label}, there are {len(row.steps)} steps")
    upto = len(row.steps) if row.label < 0 else row.label + 1
    last = len(row.steps) - 1
    judged = [] if row.final_answer_correct is None else [Judgement(last, float(row.final_answer_correct), SOURCE)]
    yield Document(
        row.problem,
        chain(row.steps, finish="stop"),
        labels=[Label(place, LABELLER, VERSION, place != row.label) for place in range(upto)],
        judgements=judged,
        leaf=last,
        record=record_of({name: raw[name] for name in raw if name not in Row.__struct_fields__}),
        model=raw["generator"] if isinstance(raw.get("generator"), str) else None,
        licence=licence_of(raw, raw.get("metadata")),
    )


IMPORTER = Importer(parse, rows, (".jsonl", ".json", ".parquet"))

"""Math-Shepherd: question and steps in one text, a marker after each step, and the same with `+` or `-` for markers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.exchange.document import Document, Label, Refused, chain, licence_of, record_of
from pipeline.exchange.paths import Exporter, Line, Path
from pipeline.exchange.reading import Importer, rows

LABELLER, VERSION = "math_shepherd", "1"
FIRST, MARKER = "Step 1:", "ки"


class Row(msgspec.Struct, gc=False):
    """A row of the file."""

    input: str
    label: str
    task: str | None = None
    licence: Any = None
    license: Any = None


_decode = msgspec.json.Decoder(Row).decode


def parse(data: bytes) -> Iterator[Document]:
    """A solution as a chain of steps, each with its label.

    Raises:
        Refused: the two texts differ in more than the markers, or no first step is found.
    """
    row = _decode(data)
    pieces, marks, rest = _aligned(row.input, row.label)
    if not pieces:
        raise Refused(f"no {MARKER!r} in input")
    start = next((place for place, piece in enumerate(pieces) if FIRST in piece), None)
    if start is None:
        raise Refused(f"no {FIRST!r} in input")
    before, _, first = pieces[start].partition(FIRST)
    question = MARKER.join([*pieces[:start], before]).strip()
    texts = [f"{FIRST}{first}".strip(), *(piece.strip() for piece in pieces[start + 1 :])]
    labels = [Label(place, LABELLER, VERSION, mark == "+") for place, mark in enumerate(marks[start:])]
    if rest.strip():
        texts.append(rest.strip())
    steps = chain(texts, finish="stop")
    yield Document(
        question,
        steps,
        labels=labels,
        leaf=len(steps) - 1,
        record=record_of({"task": row.task} if row.task else None),
        licence=licence_of({"licence": row.licence, "license": row.license}),
    )


def _aligned(plain: str, labelled: str) -> tuple[list[str], str, str]:
    """The pieces of a text that end in a marker, their marks, and what follows the last one."""
    *pieces, rest = plain.split(MARKER)
    marks, at = [], 0
    for piece in pieces:
        end = at + len(piece)
        if labelled[at:end] != piece or labelled[end : end + 1] not in ("+", "-"):
            raise Refused(f"input and label differ in step {len(marks)}")
        marks.append(labelled[end])
        at = end + 1
    if labelled[at:] != rest:
        raise Refused("input and label differ at their ends")
    return pieces, "".join(marks), rest


def lines(path: Path) -> Iterator[Line]:
    """A path as a row; steps without a label keep the marker. None where no step has a label."""
    from pipeline.builders.prm_rows import StepwiseRow, marked_text

    labels = [path.hard_label(step["node"], LABELLER) for step in path.steps]
    if any(label is not None for label in labels):
        marked = marked_text(StepwiseRow(path.question, [step["text"] for step in path.steps], labels), marker=MARKER)
        record = next(iter(path.records("math_shepherd")), {})
        yield {"input": marked[0], "label": marked[1], "task": record.get("task", "")}


IMPORTER = Importer(parse, rows, (".jsonl", ".json", ".parquet"))
EXPORTER = Exporter(lines)

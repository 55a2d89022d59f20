"""TRL's stepwise supervision: a prompt, its steps and a label a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from pipeline.exchange.document import Document, Label, Refused, Share, chain, licence_of, record_of
from pipeline.exchange.paths import Exporter, Line, Path
from pipeline.exchange.reading import Importer, rows

LABELLER, VERSION = "trl_stepwise", "1"


class Row(msgspec.Struct):
    """labels: whether a step is right, or its chance of success."""

    prompt: str
    completions: list[str]
    labels: list[bool | Share | Annotated[int, msgspec.Meta(ge=0, le=1)] | None]


def parse(data: bytes) -> Iterator[Document]:
    """A chain of steps with their labels. Whether the last one is the end is not told.

    Raises:
        Refused: not a label for each step.
    """
    raw = msgspec.json.decode(data)
    row = msgspec.convert(raw, Row)
    if len(row.labels) != len(row.completions):
        raise Refused(f"{len(row.completions)} completions have {len(row.labels)} labels")
    labels = []
    for place, said in enumerate(row.labels):
        if isinstance(said, bool):
            labels.append(Label(place, LABELLER, VERSION, said))
        elif said is not None:
            labels.append(Label(place, LABELLER, VERSION, soft=float(said)))
    rest = {name: raw[name] for name in raw if name not in Row.__struct_fields__}
    yield Document(
        row.prompt,
        chain(row.completions),
        labels=labels,
        leaf=len(row.completions) - 1,
        record=record_of(rest),
        licence=licence_of(raw, raw.get("metadata")),
    )


def written(path: Path) -> Iterator[Line]:
    """The steps of a path as far as they have a hard label; None where the first has none."""
    texts, labels = [], []
    for step in path.steps:
        label = path.hard_label(step["node"], LABELLER)
        if label is None:
            break
        texts.append(step["text"])
        labels.append(label)
    if texts:
        yield {"prompt": path.question, "completions": texts, "labels": labels}


IMPORTER = Importer(parse, rows, (".jsonl", ".json", ".parquet"))
EXPORTER = Exporter(written)

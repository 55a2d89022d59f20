"""What an importer makes of a foreign record: a task's prompt and steps below it, no tree yet.

Knows no format, no suite and no numbers of nodes. The structs are in no cycles, so the garbage collector need not walk
millions of them again and again: `gc=False`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Share = Annotated[float, Meta(ge=0, le=1)]

REFERENCE = "#step"
"""Key of what stands for a step's text in the rest of a record: the step's number in its document; -1: the question."""
OWN = "own"
"""Under `REFERENCE`, key of the value that the record itself has under it."""
TEMPLATE = "template"
"""Speaker of tokens around a message, which are none of it."""

SOURCE = "source"
"""Name of the scores that say where a path was read, and what its record holds beside the nodes; verifier of verdicts
that came with a record."""


class Refused(ValueError):
    """A record that cannot be read; says why."""


class Step(Struct, array_like=True, gc=False):
    """A node to be.

    parent:    step that it follows, by number in the document; -1: the prompt.
    kind, origin: words of KINDS and ORIGINS.
    speaker:   whose message it is; tells equal texts apart.
    begins:    whether a token context begins here.
    token_ids: those it adds, as `packed_ids` has them. None: the source has none.
    logprobs:  one a token, as `packed_numbers` has them. None: the source has none.
    tool_calls: JSON. None: none.
    finish:    word of FINISHES. None: no end, or not told.
    reward:    what the environment paid for it. None: not told.
    """

    parent: int
    text: str
    kind: str = "step"
    origin: str = "sample"
    speaker: str = ""
    begins: bool = False
    token_ids: bytes | None = None
    logprobs: bytes | None = None
    tool_calls: str | None = None
    finish: str | None = None
    reward: float | None = None


class Label(Struct, array_like=True, gc=False):
    """What a source says of a step; see the table of step labels. created: microseconds since 1970, UTC."""

    step: int
    labeller: str
    version: str
    hard: bool | None = None
    soft: float | None = None
    rationale: str | None = None
    created: int | None = None


class Judgement(Struct, array_like=True, gc=False):
    """A verdict that a source has on a step. reward: in its own units. components: JSON."""

    step: int
    reward: float
    verifier: str = "source"
    components: str | None = None


class Document(Struct, array_like=True, tag=True, gc=False):
    """One record of a foreign file.

    question: the user's message; empty where the source lacks it, which is a gap.
    steps:    parents first.
    messages, tools: JSON of what stands before the question and of the tools offered. None: none.
    prompt_ids: of the whole prompt, packed. None: the source has none.
    answer, solution: of the task. None: not told.
    leaf:     step that the record hangs on; -1: the prompt.
    record:   JSON of what has no column, `REFERENCE` in place of texts. Empty: nothing.
    info:     JSON of what the source says of the task. None: nothing.
    model:    which wrote the steps. None: not told.
    licence:  of the record. None: it names none.
    """

    question: str
    steps: list[Step]
    messages: str | None = None
    tools: str | None = None
    prompt_ids: bytes | None = None
    answer: str | None = None
    solution: str | None = None
    labels: list[Label] = []
    judgements: list[Judgement] = []
    leaf: int = -1
    record: str = ""
    info: str | None = None
    model: str | None = None
    licence: str | None = None


class Restored(Struct, array_like=True, tag=True, gc=False):
    """Nodes that were exported from a store, as they were there, each a row of its table; see `references`.

    Times are microseconds since 1970, UTC.
    """

    task: dict[str, Any]
    round: str
    nodes: list[dict[str, Any]]
    verdicts: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []


class Record(Struct, omit_defaults=True):
    """Where a path was read, as the scores `SOURCE` of its end say, in a JSON list.

    nodes:    of the steps of its document.
    speakers: of them; empty: no step has one.
    record:   what is left of it, `REFERENCE` in place of texts.
    """

    file: str
    line: int
    format: str
    nodes: list[int]
    licence: str | None = None
    speakers: list[str] = []
    record: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Fault(Struct, array_like=True):
    """A part of a file that cannot be imported, and why. line: from 1; 0: the file as a whole."""

    line: int
    why: str


def packed_ids(token_ids: Sequence[int] | None) -> bytes | None:
    """Token ids as int32 end to end; None stays None."""
    return None if token_ids is None else array("i", token_ids).tobytes()


def packed_numbers(numbers: Sequence[float] | None) -> bytes | None:
    """Numbers as float32 end to end; None stays None."""
    return None if numbers is None else array("f", numbers).tobytes()


def chain(texts: list[str], *, finish: str | None = None) -> list[Step]:
    """Steps one below the other, from the prompt down; the last has the finish."""
    steps = [Step(place - 1, text) for place, text in enumerate(texts)]
    if steps:
        steps[-1].finish = finish
    return steps


def as_json(value: Any) -> str:
    """Compact JSON text."""
    return msgspec.json.encode(value).decode()


def licence_of(*objects: Any) -> str | None:
    """The licence that the first of some objects of a record names which names any; None where none does."""
    for said in objects:
        if isinstance(said, dict):
            for value in (said.get("licence"), said.get("license")):
                if isinstance(value, str) and value.strip():
                    return value.strip()
    return None


def escape(record: Any) -> None:
    """Mark as the record's own, in place, what would read as a reference to a step."""
    if REFERENCE in as_json(record):
        _escape(record)


def _escape(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            _escape(inner)
        if value.keys() == {REFERENCE}:
            value[REFERENCE] = {OWN: value[REFERENCE]}
    elif isinstance(value, list):
        for inner in value:
            _escape(inner)


def record_of(value: Any) -> str:
    """JSON of what is left of a record; empty where nothing is."""
    return as_json(value) if value else ""


class Found(Struct, array_like=True):
    """A document and where it was read."""

    file: str
    line: int
    format: str
    document: Document | Restored

"""Branches in the events of an Inspect log: the conversations that models had on each. Knows no tree.

Spans are nested; a `branch` event says that its span replays another path up to an anchor and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.exchange.document import Refused

MOST_CALLS, MOST_MESSAGES = 5_000, 1_000_000
"""On the branches of a sample, and what they may be told together: ranges of a pool say much in few bytes."""


class Event(msgspec.Struct):
    """An event as far as branches ask; what is of another kind than it should be is no part of one."""

    event: str = ""
    span_id: Any = None
    id: Any = None
    parent_id: Any = None
    from_anchor: Any = None
    input: Any = None
    input_refs: Any = None
    output: Any = None


class Branch(NamedTuple):
    """anchor: where it departs. calls: what each model call in it was told and said, as messages of the log."""

    anchor: str
    calls: list[list[Any]]


def branches(events: Sequence[Event], pool: Any) -> Iterator[Branch]:
    """The branches of a sample, each with the calls that are of no branch within it.

    Args:
        pool: `events_data` of the sample, to whose messages events refer.

    Raises:
        Refused: a call refers to messages that are not there, or calls to too many.
    """
    above = {one.id: one.parent_id for one in events if one.event == "span_begin" and isinstance(one.id, str)}
    begun = [one for one in events if one.event == "branch" and isinstance(one.span_id, str)]
    found = {one.span_id: Branch(str(one.from_anchor or ""), []) for one in begun}
    nearest: dict[str, str | None] = {span: span for span in found}
    if not found:
        return
    messages, calls, room = pool.get("messages") if isinstance(pool, dict) else None, 0, MOST_MESSAGES
    for one in events:
        if one.event == "model" and (span := _nearest(one.span_id, above, nearest)) is not None:
            said = _told(one, messages, room)
            calls, room = calls + 1, room - len(said)
            if calls > MOST_CALLS:
                raise _too_many()
            if said:
                found[span].calls.append(said)
    yield from found.values()


def _nearest(span: Any, above: dict[str, Any], known: dict[str, str | None]) -> str | None:
    """The branch that a span is in, which is kept in `known`; None: in none."""
    passed = []
    while isinstance(span, str) and span not in known:
        known[span] = None  # until it is found; spans that are around each other are in none
        passed.append(span)
        span = above.get(span)
    found = known.get(span) if isinstance(span, str) else None
    known.update(dict.fromkeys(passed, found))
    return found


def _too_many() -> Refused:
    return Refused(f"its branches have more than {MOST_CALLS:,} calls or {MOST_MESSAGES:,} messages")


def _told(event: Event, pool: Any, room: int) -> list[Any]:
    """What a call was told, then the answer, if there is one; at most so many messages."""
    told = list(event.input) if isinstance(event.input, list) else []
    if not told and isinstance(event.input_refs, list):
        for place in event.input_refs:
            start, end = place if isinstance(place, list) and len(place) == 2 else (-1, -1)
            if not (isinstance(pool, list) and type(start) is type(end) is int and 0 <= start <= end <= len(pool)):
                raise Refused(f"a model call refers to messages {str(place)[:40]} of the log, which are not there")
            if len(told) + end - start > room:
                raise _too_many()
            told += pool[start:end]
    choices = event.output.get("choices") if isinstance(event.output, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict) and "message" in choices[0]:
        told.append(choices[0]["message"])
    return told

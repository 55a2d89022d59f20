"""Tool calls as columns, and how much a call is like a reference.

Does not know turns, trajectories nor what a call returned.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.credit.columns import ranges
from pipeline.credit.scored import parse


class Call(NamedTuple):
    """A call as JSON has it. arguments: an object; whatever else stands for none."""

    name: Any
    arguments: Any


class Calls(NamedTuple):
    """`C` calls with `A` arguments in all, in codes shared with the calls they are held against.

    name:    `[C]` int64, code of the name in lower case; -1 where it is no text.
    key:     `[A]` int64, code of each argument's name, call after call.
    value:   `[A]` int64, code of its value.
    offsets: `[C + 1]` int64, where the arguments of each call begin.
    """

    name: np.ndarray
    key: np.ndarray
    value: np.ndarray
    offsets: np.ndarray


def call_columns(*batches: Sequence[Call]) -> tuple[Calls, ...]:
    """Several lists of calls in the same codes.

    Names are alike whatever their case. Values are alike by `canonical`.
    """
    names: dict[str, int] = {}
    keys: dict[str, int] = {}
    values: dict[Hashable, int] = {}
    found = []
    for calls in batches:
        objects = [call.arguments if isinstance(call.arguments, Mapping) else {} for call in calls]
        flat = [(key, canonical(value)) for arguments in objects for key, value in arguments.items()]
        named = [call.name.lower() if isinstance(call.name, str) else None for call in calls]
        found.append(
            Calls(
                name=np.array([-1 if name is None else names.setdefault(name, len(names)) for name in named], np.int64),
                key=np.array([keys.setdefault(key, len(keys)) for key, _ in flat], np.int64),
                value=np.array([values.setdefault(value, len(values)) for _, value in flat], np.int64),
                offsets=np.cumsum([0, *map(len, objects)], dtype=np.int64),
            )
        )
    return tuple(found)


def read_calls(text: str) -> list[Call] | None:
    """The calls of a JSON list; None where the text is none. An entry that is no object is a call without a name."""
    found = parse(text)
    try:
        canonical(found)
    except RecursionError:
        return None
    if not isinstance(found, list):
        return None
    objects = [entry if isinstance(entry, Mapping) else {} for entry in found]
    return [Call(entry.get("name"), entry.get("arguments")) for entry in objects]


def take(calls: Calls, rows: np.ndarray) -> Calls:
    """Some of the calls, `[R]` int64, in that order; a call may be there more than once."""
    counts = np.diff(calls.offsets)[rows]
    arguments = ranges(calls.offsets[:-1][rows], counts)
    return Calls(
        name=calls.name[rows],
        key=calls.key[arguments],
        value=calls.value[arguments],
        offsets=np.concatenate(([0], np.cumsum(counts))),
    )


def canonical(value: Any) -> Hashable:
    """A JSON value as something equal to that of an equal one.

    Numbers are equal by value, so 1 and 1.0 are; a truth value is no number, a number that is not one equals nothing.
    Arrays are ordered, objects are not.
    """
    if isinstance(value, bool):
        return "truth", value
    if isinstance(value, float) and value != value:
        return object()
    if isinstance(value, Mapping):
        return "object", frozenset((key, canonical(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return "array", *map(canonical, value)
    return value


def similarity(calls: Calls, call: np.ndarray, references: Calls, reference: np.ndarray) -> np.ndarray:
    """How much calls are like references.

    0 where the names differ. Else `(1 + J + V) / (2 + parameters of the reference)`, J the Jaccard index of the
    parameters' names (1 where neither has any), V the number of the reference's parameters that the call has with the
    same value.

    Args:
        calls, references: in shared codes.
        call, reference: `[Q]` int, the pairs to compare, as rows of both.

    Returns:
        `[Q]` float64 in [0, 1].

    Source: MatchTIR (2026) and its code. Deviation: `true` is not 1.
    """
    named = (calls.name[call] == references.name[reference]) & (calls.name[call] >= 0)
    call, reference = call[named], reference[named]
    given, wanted = np.diff(calls.offsets)[call], np.diff(references.offsets)[reference]

    pairs = np.repeat(np.arange(len(call)), given)
    argument = ranges(calls.offsets[call], given)
    width = max(calls.key.max(initial=0), references.key.max(initial=0)) + 1
    parameters = np.repeat(np.arange(len(references.name)), np.diff(references.offsets)) * width + references.key
    order = np.argsort(parameters)
    sought = reference[pairs] * width + calls.key[argument]
    place = np.searchsorted(parameters, sought, sorter=order)
    met = np.flatnonzero(place < len(parameters))
    met = met[parameters[order[place[met]]] == sought[met]]
    equal = references.value[order[place[met]]] == calls.value[argument[met]]
    common = np.bincount(pairs[met], minlength=len(call))
    values = np.bincount(pairs[met[equal]], minlength=len(call))

    union = given + wanted - common
    names = np.divide(common, union, out=np.ones(len(call)), where=union > 0)
    result = np.zeros(len(named))
    result[named] = (1.0 + names + values) / (2.0 + wanted)
    return result

"""What imported trees say of requests: sampled tokens with all that was before them, as the ledger keeps answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.exchange.document import packed_ids, packed_numbers


class Answer(NamedTuple):
    """A request with its answer, of whose sampling and engine no more is known than the table of requests says."""

    request: str
    policy: str
    prompt: np.ndarray
    token_ids: np.ndarray
    logprobs: np.ndarray
    finish: str


def ended_answers(nodes: Mapping[str, Sequence[Any]], start: int = 0) -> Iterator[Answer]:
    """The answers that ended, each of all the nodes on its path that came of its request.

    Args:
        nodes: columns of the nodes of one tree from row `start` on, in the order of their numbers; token_ids and
            logprobs packed.
    """
    for row in range(start, len(nodes["node"])):
        if not nodes["sampled"][row] or nodes["finish"][row] is None:
            continue
        path, at = [row], row
        while nodes["node"][at] != nodes["context"][row]:
            at = start + nodes["parent"][at]
            path.append(at)
        path.reverse()
        request = nodes["request"][row]
        first = next(place for place, at in enumerate(path) if nodes["request"][at] == request)
        yield Answer(
            request,
            nodes["policy"][row],
            _joined(nodes["token_ids"], path[:first], np.int32),
            _joined(nodes["token_ids"], path[first:], np.int32),
            _joined(nodes["logprobs"], path[first:], np.float32),
            nodes["finish"][row],
        )


def answers_of_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
    """As `ended_answers`, of rows of one tree from its root on."""
    names = ("node", "parent", "context", "sampled", "finish", "request", "policy")
    columns = {name: [row[name] for row in rows] for name in names}
    columns["token_ids"] = [packed_ids(row["token_ids"]) for row in rows]
    columns["logprobs"] = [packed_numbers(_known(row["logprobs"])) for row in rows]
    yield from ended_answers(columns)


def _known(logprobs: Sequence[float | None] | None) -> list[float] | None:
    return None if logprobs is None else [np.nan if number is None else number for number in logprobs]


def _joined(parts: Sequence[bytes], rows: Sequence[int], kind: type[np.generic]) -> np.ndarray:
    return np.frombuffer(b"".join(parts[row] for row in rows), kind)

"""Why a request was not answered: what another try may mend, what none will, and which server is to rest."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

REST = 1.0
"""Seconds a server rests that wants to be left alone and does not say how long."""
_ANOTHER_TRY = {404, 408, 425, 429}
"""Refusals that are not the request's fault. 404: the server no longer has the model."""
_LEAVE_ALONE = {404, 429, 502, 503, 504}


class Fault(Exception):
    """Another try may succeed.

    rest: seconds the server should be left alone before it is asked how it is. None: it is well.
    """

    def __init__(self, reason: str, *, rest: float | None = None):
        super().__init__(reason)
        self.rest = rest


class Refused(Exception):
    """The server will not take this request, however often it is asked."""


class Lost(Exception):
    """No server has been there for as long as a run waits."""


def check_status(status: int, text: str, headers: Mapping[str, str]) -> None:
    """Pass what is answered with 200.

    Args:
        text: what came instead of an answer.

    Raises:
        Fault: another try may succeed, on another server or later.
        Refused: the request is at fault.
    """
    if status == 200:
        return
    said = f"answered {status}: {_message(text)}"
    if 400 <= status < 500 and status not in _ANOTHER_TRY:
        raise Refused(said)
    raise Fault(said, rest=_rest(headers.get("Retry-After")) if status in _LEAVE_ALONE else None)


def _message(text: str) -> str:
    """The sentence of an error as OpenAI's protocol has it; else how the text begins."""
    with suppress(ValueError, TypeError, KeyError):
        text = json.loads(text)["error"]["message"]
    return " ".join(str(text).split())[:300] or "no reason given"


def _rest(retry_after: str | None) -> float:
    """Seconds that a Retry-After asks for: a number of them, or a date."""
    if not retry_after:
        return REST
    with suppress(ValueError):
        return max(0.0, float(retry_after))
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return REST

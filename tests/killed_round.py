"""A scripted round in a process of its own, to be killed: forked from one that has imported everything beforehand.

The engine notes each request it is sent, by one write to a file that no kill can take back.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock

import pandas  # noqa: F401 - pyarrow looks for it when first used; here it is, before the fork
import pytest
import reasoning_gym  # noqa: F401 - likewise, by the tasks stage
from scripted_round import Pupil, run, scripted

from pipeline.generation.engine import Completion, Request
from pipeline.generation.scripted import ScriptedEngine

SENT, STORE = "sent.log", "store"
_IN_FLIGHT_S = 0.005
_ONE_ASKS = Lock()
"""How a process ended can be read once; `multiprocessing` reads it of every child whenever it starts another."""


def start(folder: Path) -> multiprocessing.Process:
    """A process at work on the round in a folder; it is past its start and about to look at the store."""
    context = multiprocessing.get_context("forkserver")
    with _ONE_ASKS, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        context.set_forkserver_preload([__name__])
        ready, begun = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(folder, begun))
        process.start()
        begun.close()
    with ready:
        ready.recv()
    return process


def end(process: multiprocessing.Process, *, within_s: float | None) -> int:
    """Wait so long for a process, then kill it where it stands. Returns how it ended: -9 where that was a kill."""
    if not wait([process.sentinel], within_s):
        process.kill()
        wait([process.sentinel])
    with _ONE_ASKS:
        process.join()
        return process.exitcode


def sent(folder: Path) -> list[str]:
    """Keys of the requests that were sent, in their order."""
    path = folder / SENT
    return path.read_text().splitlines() if path.exists() else []


def _work(folder: Path, begun: Connection) -> None:
    log = os.open(folder / SENT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Noting(ScriptedEngine):
        def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
            return super().generate(map(_noted, requests))

    def _noted(request: Request) -> Request:
        os.write(log, f"{request.key}\n".encode())
        time.sleep(_IN_FLIGHT_S)
        return request

    with scripted(folder, Pupil(), kind=Noting) as work:
        begun.send(None)
        run(work)

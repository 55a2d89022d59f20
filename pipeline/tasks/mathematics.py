"""Whether two answers are equal as mathematics, within a time limit that holds in every thread.

math-verify can search for minutes (a power tower, sixty brackets), and its own limit is a signal: it works in the main
thread alone, and is lost when it goes off inside a callback of the garbage collector. So the search happens in a
process beside this one, which is killed and replaced when its time is up.
"""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import TimeoutError as Late
from functools import lru_cache
from multiprocessing.util import Finalize

from pebble import ProcessExpired, ProcessPool

START_SECONDS = 60


def _equal(expected: str, given: str) -> bool | str:
    """Runs in the process beside: the verdict, or the words of an error, whose type may not pass between processes."""
    from math_verify import parse, verify

    try:
        left, right = (parse(f"${text}$", parsing_timeout=None, raise_on_error=True) for text in (expected, given))
        return bool(verify(left, right, timeout_seconds=None, raise_on_error=True))
    except Exception as error:  # noqa: BLE001 - whatever a foreign parser raises at foreign text
        return f"{type(error).__name__}: {error}"


def _begin() -> None:
    """Runs first in the process beside, outside every time limit, so that one in a killed one's place is warm too.

    math-verify warns at every call that its own limit is off, which is meant.
    """
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    _equal("1", "2")


@lru_cache(maxsize=1)
def _pool() -> ProcessPool:
    """One process, started and warmed at the first use, ended with this one however this one was started."""
    pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"), initializer=_begin)
    # Not atexit: a process of multiprocessing waits for its children before it comes to that.
    Finalize(None, _end, args=(pool,), exitpriority=10)
    try:
        pool.schedule(_equal, args=("1", "2"), timeout=START_SECONDS).result()
    except BaseException:
        _end(pool)
        raise
    return pool


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def equal(expected: str, given: str, *, seconds: float) -> bool:
    """Equal as mathematics (math-verify): `1/2` and `0.5`, `\\frac{1}{2}` and `2^{-1}`.

    Raises:
        TimeoutError: no verdict within `seconds`.
        ValueError: math-verify or its process failed.
    """
    for _ in range(2):
        try:
            pool = _pool()
        except (Late, ProcessExpired, RuntimeError) as error:
            raise ValueError(f"math-verify cannot be started: {error}") from error
        try:
            found = pool.schedule(_equal, args=(expected, given), timeout=seconds).result()
        except Late as error:
            raise TimeoutError(f"math-verify takes over {seconds} s") from error
        except ProcessExpired as error:
            raise ValueError(f"math-verify died: {error}") from error
        except RuntimeError:  # the process was killed while it had nothing to do, and the pool with it
            _end(pool)
            _pool.cache_clear()
            continue
        if isinstance(found, str):
            raise ValueError(found)
        return found
    raise ValueError("the process of math-verify does not stay alive")

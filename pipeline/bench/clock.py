"""Times calls side by side, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_seconds(*calls: Callable[[], object], repeats: int) -> list[float]:
    """Median wall time of each call, the calls taking turns, after one round that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(repeats + 1):
        for call, spent in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if number:
                spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in seconds]

"""What no order of requests can do better: the longest chain of those that wait for each other, the time taken.

Counts ticks; knows no engine. What tokens can be spared is in `pipeline.generation.reuse`.
"""

from __future__ import annotations

import numpy as np


def longest_path(parent: np.ndarray, ticks: np.ndarray) -> float:
    """The longest chain of requests each of which waits for the one before it.

    Args:
        parent: `[N]` row of the request that is waited for; -1 where none is.
        ticks:  `[N]` from a request's start to its answer's delivery.
    """
    upto, above = np.array(ticks, dtype=np.float64), np.array(parent)
    while len(rows := np.flatnonzero(above >= 0)):
        upto[rows] += upto[above[rows]]
        above[rows] = above[above[rows]]
    return float(upto.max(initial=0.0))


def least_makespan(parent: np.ndarray, busy: np.ndarray, *, slots: int, delay: np.ndarray | float = 0.0) -> float:
    """Ticks that the requests take at least, whatever their order: all slots full, or one path after the other.

    Args:
        parent: `[N]` row of the request that is waited for; -1 where none is.
        busy:   `[N]` ticks for which a request fills a slot.
        slots:  requests that run at once.
        delay:  `[N]` ticks from the end of an answer to its delivery.
    """
    busy = np.asarray(busy, dtype=np.float64)
    return max(float(busy.sum()) / slots, longest_path(parent, busy + delay))

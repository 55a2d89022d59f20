"""What a run grants its servers before it gives something up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of requests and of seconds.

    in_flight:    requests sent and not answered, a server; one server has at most a quarter more.
    attempts:     times a request is sent before it is a failure.
    stall:        silence after which an answer is given up; see `asking.py`.
    patience:     how long to wait for any server to be there before everything left fails.
    back_off:     longest first wait between two tries; doubles from try to try.
    longest_wait: what it doubles up to.
    look:         time between two looks at the list of servers.
    """

    in_flight: int = 256
    attempts: int = 6
    stall: float = 60.0
    patience: float = 600.0
    back_off: float = 0.5
    longest_wait: float = 10.0
    look: float = 1.0

    def waits(self) -> Iterator[float]:
        """Seconds to wait after each try that failed: exponential, with full jitter, for ever.

        Source: Brooker, Exponential Backoff and Jitter (2015).
        """
        for tries in count():
            yield random.uniform(0, min(self.longest_wait, self.back_off * 2 ** min(tries, 20)))

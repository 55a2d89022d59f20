"""What a run has spent, what that costs, and where it ends cleanly. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.errors import BadConfig

Amount = TypeVar("Amount", float, np.ndarray)


@dataclass(slots=True)
class Spent:
    """What a sampler has asked for so far; tokens are those decoded now, not those found again.

    prompt:  tokens sent with the requests paid now. cached: of those, found in the engine's prefix cache.
    seconds: on the clock from when the opened engine was first asked to its latest answer.
    """

    reused: int = 0
    paid: int = 0
    decoded: int = 0
    prompt: int = 0
    cached: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """In whatever currency; 0: nothing. All 0: not known.

    decoded: of a million tokens. prompt: of a million of those sent, cached or not. hour: of the engine, all its
        servers together.
    """

    decoded: float = 0.0
    prompt: float = 0.0
    hour: float = 0.0

    @property
    def known(self) -> bool:
        """Whether there are any."""
        return bool(self.decoded or self.prompt or self.hour)

    def cost(self, *, prompt: Amount | None, decoded: Amount | None, seconds: Amount | None) -> Amount | None:
        """Of so many tokens and seconds; None where there are no prices, or what has one is not known."""
        parts = ((self.prompt / 1e6, prompt), (self.decoded / 1e6, decoded), (self.hour / 3600, seconds))
        due = [(price, amount) for price, amount in parts if price]
        if not due or any(amount is None for _, amount in due):
            return None
        return sum(price * amount for price, amount in due)


NO_PRICES = Prices()


@dataclass(frozen=True, slots=True)
class Caps:
    """Where a run ends cleanly; None: nowhere. What is in flight when a cap is reached is given up.

    tokens:  decoded now, those found in the ledger not among them. seconds: since the run began.
    cost:    at the prices; likewise of what is paid now.

    Raises:
        BadConfig: money is capped without prices.
    """

    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    prices: Prices = NO_PRICES

    def __post_init__(self):
        if self.cost is not None and not self.prices.known:
            raise BadConfig(
                f"a run shall end at a cost of {self.cost:g}, and nothing has a price",
                remedy="give a price: of a million decoded tokens, of a million prompt tokens, or of an hour",
            )

    def reached(self, *, seconds: float, before: Spent, now: Spent) -> str:
        """The cap that is reached, as a sentence; empty where none is.

        Args:
            seconds: since the run began. before: what had been spent then.
        """
        if self.tokens is not None and now.decoded - before.decoded >= self.tokens:
            return f"the cap of {self.tokens} tokens is reached"
        if self.seconds is not None and seconds >= self.seconds:
            return f"the cap of {self.seconds:g} seconds is reached"
        if self.cost is not None and self._cost(before, now) >= self.cost:
            return f"the cap of {self.cost:g} in money is reached"
        return ""

    def _cost(self, before: Spent, now: Spent) -> float:
        return self.prices.cost(
            prompt=now.prompt - before.prompt,
            decoded=now.decoded - before.decoded,
            seconds=now.seconds - before.seconds,
        )


NO_CAPS = Caps()

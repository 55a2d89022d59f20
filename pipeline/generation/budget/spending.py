"""What a run has spent, what that costs, and where it ends cleanly; the options that say so. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from pipeline.errors import BadConfig, check_counts

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

    decoded: of a million tokens. prompt: of a million of those sent, cached or not. hour: of the engine; of all its
        servers together, since neither the clock nor the ledger knows how many there were.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What a run of a stage costs, in whatever currency; a part of the configurations of stages.

    price_per_million_decoded: of tokens; 0: none. price_per_million_prompt: likewise, cached or not. price_per_hour: of
    the engine while it is asked, all its servers together; 0: none.

    Raises:
        BadConfig: one is negative.
    """

    price_per_million_decoded: float = 0.0
    price_per_million_prompt: float = 0.0
    price_per_hour: float = 0.0

    def __post_init__(self):  # for subclasses too: only what is shared comes by keyword alone
        check_counts(self, **{field.name: 0 for field in fields(self) if field.kw_only})

    @property
    def prices(self) -> Prices:
        """What tokens and hours cost."""
        return Prices(self.price_per_million_decoded, self.price_per_million_prompt, self.price_per_hour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capped(Priced):
    """Where a run of a stage ends cleanly; a part of the configurations of stages.

    most_tokens: decoded, after which the run ends cleanly; 0: no end. most_seconds: likewise. most_cost: likewise, at
    these prices.

    Raises:
        BadConfig: one is negative.
    """

    most_tokens: int = 0
    most_seconds: float = 0.0
    most_cost: float = 0.0

    @property
    def caps(self) -> Caps:
        """Where the run ends.

        Raises:
            BadConfig: money is capped and nothing has a price.
        """
        return Caps(self.most_tokens or None, self.most_seconds or None, self.most_cost or None, self.prices)

"""The payoff matrix that a reply of GTAlign states: reading it from untrusted text, and the game it describes.

Does not know rewards. Text is searched from left to right once for each tag, and never run.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO

CELLS = ("DQ_AQ", "DQ_CQ", "DQ_DA", "VQ_AQ", "VQ_CQ", "VQ_DA")
"""A definite or a vague question; the reply answers and asks, asks, or answers."""
PLAYERS = ("LLM", "user")

LONGEST, DEEPEST = 10_000, 8
"""Characters of a payoff block that is read at all, and brackets open at once; an honest one has some 300 and 2."""

_STRAIGHT = str.maketrans("“”„‟‘’‚‛", "\"\"\"\"''''")
_SEAMS = tuple(
    re.compile(pattern)
    for pattern in (
        r"</thinking>\s*<payoff>",
        r"</payoff>\s*<analyze>",
        r"</analyze>\s*<response>",
        r"(?m)</response>$",
    )
)

Payoff = Mapping[str, Mapping[str, float]]
"""By cell, in the order written, what each of PLAYERS gets; finite numbers."""


class PriceShift(NamedTuple):
    """What the welfare choice adds to the payoffs. llm: to every payoff of the model; user: to the user's, where llm
    is 0."""

    llm: float = 0.0
    user: float = 0.0


def block(text: str, tag: str) -> str | None:
    """What stands between the first `<tag>` and the next `</tag>`, trimmed. None: there is no such pair."""
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", start + len(tag) + 2) if start >= 0 else -1
    return text[start + len(tag) + 2 : end].strip() if end >= 0 else None


def well_formed(text: str) -> bool:
    """Whether a text is the four blocks in order, with blanks alone between them, from its first character on.

    Nothing may follow on the line that closes the last block; what follows on later lines is let pass, as in the
    official code. Each seam is taken where it first occurs, which finds a way through if there is one.
    """
    if not text.startswith("<thinking>"):
        return False
    place = len("<thinking>")
    for seam in _SEAMS:
        found = seam.search(text, place)
        if found is None:
            return False
        place = found.end()
    return True


def read_payoff(text: str) -> Payoff | None:
    """The matrix written as JSON or as a Python literal, typographic quotes straightened. None: it is none.

    It must have the six CELLS and no other, each with a finite number for both PLAYERS and nothing more; a truth
    value is no number. What is longer than `LONGEST` or nested deeper than `DEEPEST` is not looked at.
    """
    if len(text) > LONGEST or _depth(text) > DEEPEST:
        return None
    said = _parse(text.strip().translate(_STRAIGHT))
    if not isinstance(said, dict) or set(said) != set(CELLS):
        return None
    for cell in said.values():
        if not isinstance(cell, dict) or set(cell) != set(PLAYERS) or not all(map(_is_number, cell.values())):
            return None
    return {name: {player: float(cell[player]) for player in PLAYERS} for name, cell in said.items()}


def payoff_array(payoffs: Sequence[Payoff | None]) -> np.ndarray:
    """`[R, 6, 2]` float64, by CELLS and PLAYERS; NaN where there is no matrix."""
    unknown = np.full((len(CELLS), len(PLAYERS)), np.nan)
    return np.array(
        [
            unknown if payoff is None else [[payoff[cell][player] for player in PLAYERS] for cell in CELLS]
            for payoff in payoffs
        ],
        dtype=np.float64,
    ).reshape(len(payoffs), len(CELLS), len(PLAYERS))


def pareto_cells(payoffs: np.ndarray) -> np.ndarray:
    """`[R, 6]` bool: cells that no other one beats for a player without being worse for the other.

    Args:
        payoffs: `[R, 6, 2]` float64, as of `payoff_array`; a matrix of NaN has none.
    """
    other, own = payoffs[:, None, :, :], payoffs[:, :, None, :]
    beaten = (other >= own - ZERO).all(axis=3) & (other > own + ZERO).any(axis=3)
    return ~beaten.any(axis=2) & ~np.isnan(payoffs).any(axis=2)


def best_product_cells(payoffs: np.ndarray) -> np.ndarray:
    """`[R, 6]` bool: the cells with the largest product of both payoffs, ties kept. Two losses make a large one."""
    with np.errstate(over="ignore"):  # an endless product is the largest there is
        product = payoffs.prod(axis=2)
    best = product.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        nearly = best - ZERO * np.maximum(1.0, np.abs(best))
    return product >= np.where(np.isinf(best), best, nearly)


def preferred_cells(payoffs: np.ndarray) -> np.ndarray:
    """`[R]` int64: the Pareto cell with the largest sum, then the most for the user, then for the model; -1: none."""
    llm, user = payoffs[..., 0], payoffs[..., 1]
    left = pareto_cells(payoffs)
    with np.errstate(over="ignore"):
        total = llm + user
    for amount in (total, user, llm):
        best = np.where(left, amount, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        left &= amount >= best - ZERO
    return np.where(left.any(axis=1), left.argmax(axis=1), -1)


def shifted_payoff(payoff: Payoff, shift: PriceShift) -> Payoff:
    """The matrix at other prices, rounded to 0.1, in the order of its cells.

    With a shift for the model, the user gains 1 in cells that answer and ask, and 0.5 in those that ask; else with
    one for the user, the model gains 1 in cells that answer, and 0.5 in those that answer and ask.
    """
    llm, user = {}, {}
    if shift.llm:
        llm, user = dict.fromkeys(("AQ", "CQ", "DA"), shift.llm), {"AQ": 1.0, "CQ": 0.5}
    elif shift.user:
        llm, user = {"DA": 1.0, "AQ": 0.5}, dict.fromkeys(("AQ", "CQ", "DA"), shift.user)
    return {
        cell: {
            "LLM": round(paid["LLM"] + llm.get(_action(cell), 0.0), 1),
            "user": round(paid["user"] + user.get(_action(cell), 0.0), 1),
        }
        for cell, paid in payoff.items()
    }


def welfare_actions(payoff: Payoff) -> list[str]:
    """What the reply may do, by the cells of the largest product: distinct, in the order of the matrix's cells."""
    best = best_product_cells(payoff_array([payoff]))[0]
    kept = {cell for cell, is_best in zip(CELLS, best, strict=True) if is_best}
    return list(dict.fromkeys(_action(cell) for cell in payoff if cell in kept))


def _action(cell: str) -> str:
    return cell.partition("_")[2]


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _depth(text: str) -> int:
    """The most brackets open at once, those inside strings counted too."""
    turn = [1 if sign in "{[(" else -1 for sign in text if sign in "{[()]}"]
    return max(accumulate(turn), default=0)


def _parse(text: str) -> Any:
    """What a text says as JSON, else as a Python literal. None: it says nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about how the literal is written
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None

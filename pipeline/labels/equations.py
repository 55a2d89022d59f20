"""Exact arithmetic and simple algebra found in text: does an equation hold. Text is untrusted; nothing of it is run.

Both sides become polynomials over fractions, by a parser of our own with limits on every size. What is not understood
is not judged: a word beside a number may change what it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<word>[^\W\d_]+)|(?P<sign>\*\*|=>|[-+*/^()=%])|(?P<other>\n|\S)"
)
_WRITTEN = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\[dt]?frac\s{0,3}\{([^{}]{1,40})\}\s{0,3}\{([^{}]{1,40})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:left|right)(?=[()])"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|[×·]"), "*"),
    (re.compile(r"\\div(?![a-z])|÷"), "/"),
    (re.compile(r"\\(?:Rightarrow|implies|to)(?![a-zA-Z])|[⇒→]"), "=>"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\\?[$€£]|\\[()\[\]]"), " "),
)
_SCALES = re.compile(r"(?:thousand|[mb]illion|trillion|hundred|dozen|percent|remainder|mod|pi|[re])", re.IGNORECASE)
"""Words that change what the number before them is."""
_GLUE = re.compile(
    r"(?:of|per|times|plus|minus|divided|over|by|squared|cubed|root|log|ln|sin|cos|tan|sqrt|mod)", re.IGNORECASE
)
"""Words that make what follows a part of something longer."""
_JOINING = frozenset(("\\", "{", "[", "_", "|", "√", "!", "'", ":"))
_ARTICLES = frozenset(("a", "A", "I"))
MOST_TOKENS, MOST_DEPTH, MOST_DIGITS, MOST_POWER, MOST_TERMS = 120, 24, 40, 32, 64
_BITS = 4096

Terms = dict[tuple[str, ...], Fraction]
"""A polynomial: the variables of a term, sorted and repeated, to its coefficient, never 0."""


class _Unread(ValueError):
    """The tokens are no expression, or one too large."""


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation in a text, and whether it holds.

    text:  as it was read. holds: None where it could not be told.
    value: of its left side where that is a number, for print.
    """

    text: str
    holds: bool | None
    value: Fraction | None = None


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def equations(text: str) -> list[Equation]:
    """The equations of a text that could be read, those that are a bare `x = 5` left out.

    `a = b = c` is two. Linear equations of one variable that are joined by `=>` must each have the solution of the one
    before. A result with decimals may be rounded.
    """
    for pattern, plain in _WRITTEN:
        text = pattern.sub(plain, text)
    found: list[Equation] = []
    for run in _runs(text):
        before: tuple[str, Fraction] | None = None
        for link in _split(run, "=>"):
            sides = _split(link, "=")
            for left, right in pairwise(sides):
                equation, solved = _judged(left, right)
                if solved is not None:
                    if before is not None and before[0] == solved[0]:
                        equation = Equation(equation.text, solved == before)
                    before = solved
                if equation.holds is not None:
                    found.append(equation)
    return found


def _runs(text: str) -> Iterator[list[_Token]]:
    """Stretches of numbers, signs and single letters with an `=` in them, that no word beside them may change."""
    run: list[_Token] = []
    whole, named = True, False
    for token in [*_tokens(text), _Token("other", "", len(text), len(text))]:
        short = token.kind == "word" and len(token.text) == 1 and token.text not in _ARTICLES
        if token.kind in ("number", "sign") or (short and not _touches_word(text, token)):
            run.append(token)
            continue
        counts = named and [one.text for one in run[1:2]] == ["="]  # such as `day 3 = ...`
        fits = len(run) <= MOST_TOKENS and any(one.text == "=" for one in run)
        if whole and fits and not counts and token.text not in _JOINING and not _SCALES.fullmatch(token.text):
            yield _bare(run)
        run, named = [], token.kind == "word"
        whole = not _GLUE.fullmatch(token.text) and token.text not in _JOINING
        whole &= not (named and text[token.end : token.end + 1] == "(")


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        yield _Token(str(match.lastgroup), match.group(), match.start(), match.end())


def _touches_word(text: str, token: _Token) -> bool:
    beside = text[max(token.start - 1, 0) : token.start] + text[token.end : token.end + 1]
    return any(sign.isalpha() or sign in "_'\\" for sign in beside)


def _bare(run: list[_Token]) -> list[_Token]:
    """Without signs that can neither begin nor end an expression."""
    while run and run[0].text in ("*", "/", "^", "**", "%", "=", "=>", ")"):
        run = run[1:]
    while run and run[-1].text in ("*", "/", "^", "**", "=", "=>", "("):
        run = run[:-1]
    return run


def _split(run: Sequence[_Token], *signs: str) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in run:
        if token.text in signs:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _judged(left: list[_Token], right: list[_Token]) -> tuple[Equation, tuple[str, Fraction] | None]:
    """An equation, and what it says the variable is, where it has one and is linear."""
    text = f"{_text(left)} = {_text(right)}"
    try:
        one, other = _Parser(left).whole(), _Parser(right).whole()
    except (_Unread, ZeroDivisionError):
        return Equation(text, None), None
    difference = _sum(one, {key: -value for key, value in other.items()})
    names = {name for key in difference for name in key}
    if names:
        solved = None
        if len(names) == 1 and all(len(key) <= 1 for key in difference):
            (name,) = names
            solved = name, -difference.get((), Fraction(0)) / difference[name,]
        return Equation(text, None), solved
    if any(key for key in one):  # an identity in its variables
        return Equation(text, not difference), None
    if len(left) == 1 and len(right) == 1:
        return Equation(text, None), None
    gap = abs(difference.get((), Fraction(0)))
    return Equation(text, gap <= _rounding(right), one.get((), Fraction(0))), None


def _rounding(right: Sequence[_Token]) -> Fraction:
    """Half of the last decimal of a result. One that is off by less has more decimals, which were left out."""
    places = len(right[0].text.partition(".")[2]) if len(right) == 1 else 0
    return Fraction(1, 2 * 10**places) if places else Fraction(0)


def _text(tokens: Sequence[_Token]) -> str:
    return " ".join(token.text for token in tokens)


class _Parser:
    """Reads one side: sums, products (also of neighbours), powers, signs, brackets, percents."""

    def __init__(self, tokens: Sequence[_Token]):
        self._tokens, self._at, self._depth = tokens, 0, 0
        self._parted = False  # a percent was read

    def whole(self) -> Terms:
        """All tokens as one polynomial.

        Raises:
            _Unread: they are none.
            ZeroDivisionError: they divide by nothing.
        """
        found = self._sum()
        if self._at < len(self._tokens):
            raise _Unread
        return found

    def _next(self, *texts: str) -> str:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        if token is None or token.text not in texts:
            return ""
        self._at += 1
        return token.text

    def _sum(self) -> Terms:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _Unread
        found, parted = self._product(), self._parted
        while sign := self._next("+", "-"):
            more = self._product()
            if parted or self._parted:
                raise _Unread  # `100 - 20 %` is 20 % of 100 less, or 0.2
            found = _sum(found, more if sign == "+" else {key: -value for key, value in more.items()})
        self._depth -= 1
        return found

    def _product(self) -> Terms:
        found = self._signed()
        while True:
            if self._next("*"):
                found = _product(found, self._signed())
            elif self._next("/"):
                found = _product(found, {(): 1 / _number(self._signed())})
            elif self._at < len(self._tokens) and (self._tokens[self._at].kind == "word" or self._peeks_bracket()):
                found = _product(found, self._power())
            else:
                return found

    def _peeks_bracket(self) -> bool:
        return self._tokens[self._at].text == "("

    def _signed(self) -> Terms:
        minus = False
        while sign := self._next("+", "-"):
            minus ^= sign == "-"
        found = self._power()
        return {key: -value for key, value in found.items()} if minus else found

    def _power(self) -> Terms:
        found = self._atom()
        while self._next("%"):
            self._parted = True
            found = _product(found, {(): Fraction(1, 100)})
        if self._next("^", "**"):
            power = _number(self._signed())
            if power.denominator != 1 or abs(power) > MOST_POWER:
                raise _Unread
            if power < 0:
                return {(): 1 / _number(_raised(found, -int(power)))}
            return _raised(found, int(power))
        return found

    def _atom(self) -> Terms:
        if self._next("("):
            found = self._sum()
            if not self._next(")"):
                raise _Unread
            return found
        if self._at == len(self._tokens):
            raise _Unread
        token = self._tokens[self._at]
        self._at += 1
        if token.kind == "number" and len(token.text) <= MOST_DIGITS:
            value = Fraction(token.text)
            return {(): value} if value else {}
        if token.kind == "word":
            return {(token.text,): Fraction(1)}
        raise _Unread


def _number(terms: Terms) -> Fraction:
    """The number that a polynomial is."""
    if any(key for key in terms):
        raise _Unread
    return terms.get((), Fraction(0))


def _sum(one: Terms, other: Terms) -> Terms:
    found = dict(one)
    for key, value in other.items():
        found[key] = found.get(key, Fraction(0)) + value
    return _checked(found)


def _product(one: Terms, other: Terms) -> Terms:
    found: Terms = {}
    for key, value in one.items():
        for more, factor in other.items():
            name = tuple(sorted((*key, *more)))
            found[name] = found.get(name, Fraction(0)) + value * factor
    return _checked(found)


def _raised(terms: Terms, power: int) -> Terms:
    found: Terms = {(): Fraction(1)}
    for _ in range(power):
        found = _product(found, terms)
    return found


def _checked(terms: Terms) -> Terms:
    """Without terms that are 0.

    Raises:
        _Unread: it has grown too large.
    """
    large = any(value.numerator.bit_length() + value.denominator.bit_length() > _BITS for value in terms.values())
    if len(terms) > MOST_TERMS or large or any(len(key) > MOST_POWER for key in terms):
        raise _Unread
    return {key: value for key, value in terms.items() if value}

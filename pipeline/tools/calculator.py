"""A calculator: exact arithmetic over numbers, `+ - * / // % ^` and brackets. Text is untrusted; nothing of it is run.

Python's parser reads the expression, and a walk over a closed list of its nodes works it out in fractions, each of
which may have so many bits and no more.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from pydantic import Field

from pipeline.tools.toolbox import Arguments, Tool, ToolAnswer

VERSION = "1"
MOST_CHARACTERS, MOST_BITS = 200, 4096
"""Of an expression; of a numerator or a denominator."""
_TOO_LARGE = f"a number has over {MOST_BITS} bits"
_WRITTEN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_ALLOWED = re.compile(r"[0-9eE.+\-*/%() ]*")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}


class Uncalculable(ValueError):
    """An expression that cannot be worked out; the message says why."""


def calculate(expression: str) -> Fraction:
    """The exact value. `^` and `**` are powers, `×` and `÷` are read, and commas between thousands are left out.

    Raises:
        Uncalculable: it is no such expression, divides by 0, has a power that is no fraction, or is too large.
    """
    if len(expression) > MOST_CHARACTERS:
        raise Uncalculable(f"the expression has over {MOST_CHARACTERS} characters")
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), expression.translate(_WRITTEN))
    text = " ".join(text.replace("^", "**").split())
    if not _ALLOWED.fullmatch(text):
        raise Uncalculable("only numbers, + - * / // % ^ and brackets are understood")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:  # what the parser has for odd or deep text
        raise Uncalculable("this is no expression; write one such as (3 + 4) * 2") from error
    try:
        return _value(tree.body, text)
    except ZeroDivisionError as error:
        raise Uncalculable("division by 0") from error


def written(value: Fraction) -> str:
    """As short as is exact: a whole number, a decimal that ends, else `a/b`."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest > 1:
        return str(value)
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    point = len(digits) - places
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:point]}.{digits[point:]}" if places else f"{sign}{digits}"


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant():
            number = text[node.col_offset : node.end_col_offset]  # as written: a float would have lost digits
            if not _NUMBER.fullmatch(number):
                raise Uncalculable(f"{number[:40]} is no number")
            return _bounded(Fraction(number))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _value(operand, text)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, text), _value(right, text))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _bounded(_OPERATORS[type(sign)](_value(left, text), _value(right, text)))
    raise Uncalculable(f"{text[node.col_offset : node.end_col_offset][:40]} is not understood")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """Refused before it is worked out where it would be too large."""
    if exponent.denominator != 1:
        raise Uncalculable("only whole powers are understood")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (bits - 1) * abs(exponent.numerator) > MOST_BITS:
        raise Uncalculable(_TOO_LARGE)
    return _bounded(base**exponent.numerator)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise Uncalculable(_TOO_LARGE)
    return value


@dataclass(frozen=True, slots=True)
class Options:
    """There are none."""


class CalculatorArguments(Arguments):
    """What is worked out."""

    expression: str = Field(description="Numbers, + - * / // % ^ and brackets, such as (3 + 4) * 2.")


def opened(options: Options) -> Tool:
    """The tool."""
    del options
    return Tool(
        name="calculator",
        description="Work out an arithmetic expression exactly.",
        arguments=CalculatorArguments,
        answer=_answer,
        version=VERSION,
    )


def _answer(given: CalculatorArguments) -> ToolAnswer:
    try:
        return ToolAnswer(written(calculate(given.expression)))
    except Uncalculable as error:
        return ToolAnswer("", str(error))

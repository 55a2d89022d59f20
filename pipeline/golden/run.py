"""Runs the reference vectors of a folder: a file a method, or several. Knows no method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pipeline.errors import BadConfig, BranchpointError
from pipeline.golden import GOLDEN
from pipeline.golden.compare import Compared, Difference, Tolerance, compare, plain

DEFAULT_TOLERANCE = 1e-6
_KEYS = ("name", "params", "input", "expected")


class Ran(NamedTuple):
    """A file of vectors, run. largest_error: over all numbers of its cases; of a failed one those that could be
    compared. failing, difference: of the first case that fails. Null: none does. difference is in words."""

    file: str
    method: str
    passed: int
    failed: int
    largest_error: float | None
    failing: str | None
    difference: str | None


class _Vectors(NamedTuple):
    method: str
    tolerance: Tolerance
    cases: list[dict[str, Any]]


def run_folder(folder: Path) -> Iterator[Ran]:
    """Run every file of vectors in a folder, in the order of their names.

    Raises:
        BadConfig: there is no such folder, it holds no JSON, or a file is none of vectors; names the file.
    """
    if not folder.is_dir():
        raise BadConfig(f"there is no folder {folder}", remedy="name one that holds files of vectors, *.json")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise BadConfig(f"{folder} holds no *.json", remedy="name a folder that holds files of vectors")
    read = [(file, _read(file)) for file in files]
    for file, vectors in read:
        yield run_vectors(file.name, vectors)


def run_vectors(file: str, vectors: _Vectors) -> Ran:
    """Run the cases of one file; all of them fail where the method is unknown, one if there are none."""
    if vectors.method not in GOLDEN:
        near = ", ".join(get_close_matches(vectors.method, GOLDEN))
        said = f"there is no method {vectors.method!r}{near and f'; near to it {near}'}"
        return Ran(file, vectors.method, 0, max(1, len(vectors.cases)), None, None, said)
    module = import_module(GOLDEN[vectors.method])
    passed, largest, failing, difference = 0, 0.0, None, None
    for case in vectors.cases:
        error, different = run_case(module, case, vectors.tolerance)
        largest = max(largest, error)
        passed += different is None
        if different is not None and failing is None:
            failing, difference = case["name"], different
    return Ran(file, vectors.method, passed, len(vectors.cases) - passed, largest, failing, difference)


def run_case(module: ModuleType, case: dict[str, Any], tolerance: Tolerance) -> tuple[float, str | None]:
    """The largest error of a case, and in words where it is not as expected. Null: nowhere."""
    alike = getattr(module, "alike", None)
    try:
        found = plain(module.answer(case["params"], case["input"]))
        expected = plain(case["expected"])
        if alike is not None:
            expected, found = (alike(value, case["input"]) for value in (expected, found))
        compared: Compared = compare(expected, found, tolerance)
    except (BranchpointError, ValueError, KeyError, IndexError, TypeError, ArithmeticError, AttributeError) as error:
        return 0.0, f"{type(error).__name__}: {error}"
    return compared.largest, None if compared.different is None else _spelt(compared.different)


def _spelt(different: Difference) -> str:
    return f"{different.field} is {_short(different.found)}, expected {_short(different.expected)}"


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _read(file: Path) -> _Vectors:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfig(f"{file} cannot be read as JSON: {error}", remedy="mend it or take it away") from error
    try:
        method, cases = content["method"], content["cases"]
        allowed = content.get("tolerance", DEFAULT_TOLERANCE)
        both = allowed if isinstance(allowed, dict) else {"rtol": allowed, "atol": allowed}
        tolerance = Tolerance(rtol=float(both.get("rtol", 0)), atol=float(both.get("atol", 0)))
        lacking = [f"case {place}: {key}" for place, case in enumerate(cases) for key in _KEYS if key not in case]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise BadConfig(f"{file} holds no vectors", remedy="it must be an object with `method` and `cases`") from error
    if lacking or not isinstance(method, str):
        raise BadConfig(f"{file} lacks {lacking[0] if lacking else 'a name in `method`'}", remedy="add it")
    return _Vectors(method, tolerance, cases)

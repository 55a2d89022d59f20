"""Parameters given as JSON: those of a credit method, of a growth strategy."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from pipeline.errors import BadConfig


def read_json_params(defaults: Any, text: str, *, of: str) -> Any:
    """A frozen dataclass of parameters: the defaults, but for what a JSON object says.

    Args:
        defaults: an instance.
        text: empty: nothing is said.
        of: whose parameters they are, for print.

    Raises:
        BadConfig: it is no object, or names no parameter, or a value that it cannot have.
    """
    known = ", ".join(field.name for field in fields(defaults))
    try:
        said = json.loads(text) if text else {}
        if not isinstance(said, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"params {text!r} are no JSON object", remedy=f"give any of {known}") from error
    if unknown := said.keys() - {field.name for field in fields(defaults)}:
        raise BadConfig(f"{of} has no parameter {min(unknown)!r}", remedy=f"it has {known}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    for key, value in values.items():
        default = getattr(defaults, key)
        fits = isinstance(value, int | float) if type(default) is float else type(value) is type(default)
        if default is not None and (not fits or isinstance(value, bool) != isinstance(default, bool)):
            raise BadConfig(f"{of}: {key} is {said[key]!r}", remedy=f"give it as its default is, {default!r}")
    return replace(defaults, **values)

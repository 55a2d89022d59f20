"""Parameters given as JSON: those of a credit method, of a growth strategy."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any, get_args, get_origin, get_type_hints

from pipeline.errors import BadConfig


def read_json_params(defaults: Any, text: str, *, of: str) -> Any:
    """A frozen dataclass of parameters: the defaults, but for what a JSON object says.

    Args:
        defaults: an instance.
        text: empty: nothing is said.
        of: whose parameters they are, for print.

    Raises:
        BadConfig: it is no object, or names no parameter, or a value that it cannot have, as NaN and infinity are.
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
        default, kind = getattr(defaults, key), _kind(defaults, key)
        fits = type(value) in ((int, float) if kind is float else (kind,)) or value is default
        parts = value if isinstance(value, tuple) else (value,)
        if not fits or not all(math.isfinite(part) for part in parts if isinstance(part, float)):
            wanted = f"a {kind.__name__}" if default is None else f"it as its default is, {default!r}"
            raise BadConfig(f"{of}: {key} is {said[key]!r}", remedy=f"give {wanted}")
    return replace(defaults, **values)


def _kind(defaults: Any, key: str) -> type:
    """The type of a parameter, that besides None where None is the default."""
    default = getattr(defaults, key)
    if default is not None:
        return type(default)
    hint = next(one for one in get_args(get_type_hints(type(defaults))[key]) if one is not type(None))
    return get_origin(hint) or hint

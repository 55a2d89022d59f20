"""What a dataset is to be, declared: sources with shares, filters, balance, splits. Read from TOML; builds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pipeline.builders.row_filters import BALANCES, check_filters
from pipeline.builders.shapes import SHAPES
from pipeline.errors import BadConfig, check_words


class Source(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Rows of one stage of a round. Empty: the suite and round of the command; all stages of the table.

    share: of the mixture, in any unit; 0: all rows. filters: of this source, before those of the recipe.
    """

    suite: str = ""
    round: str = ""
    stage: str = ""
    share: float = 0.0
    filters: dict[str, Any] = {}

    def name(self) -> str:
        """For print."""
        return "/".join(filter(None, (self.suite, self.round, self.stage)))


class Recipe(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A dataset.

    shape:    key of SHAPES.
    filters:  by name, in the order in which they look at rows.
    distinct: drop rows whose tokens were there before, in whatever source.
    balance:  as many rows of either side: pairs whose chosen answer is the longer or the shorter; right and wrong ones.
    clean:    leave out tasks that hygiene withholds.
    held_out: share of the tasks put aside as a split of their own, tasks that read nearly the same together.
    seed:     of what is drawn.
    """

    shape: str = "dpo"
    sources: tuple[Source, ...] = (Source(),)
    filters: dict[str, Any] = {}
    distinct: bool = True
    balance: bool = False
    clean: bool = False
    held_out: float = 0.0
    seed: int = 0

    @property
    def table(self) -> str:
        return SHAPES[self.shape].table


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file.

    Raises:
        BadConfig: there is none, or a key or value of it is not understood.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise BadConfig(f"recipe {path} cannot be read: {error.strerror}", remedy="correct the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        remedy = f"a recipe has {', '.join(Recipe.__struct_fields__)}"
        raise BadConfig(f"recipe {path}: {error}", remedy=remedy) from error


def read_filters(text: str) -> dict[str, Any]:
    """Filters from a JSON object; none from nothing.

    Raises:
        BadConfig: it is none.
    """
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"filters {text!r} are no JSON", remedy="write them as '{\"max_tokens\": 512}'") from error
    if not isinstance(found, dict):
        raise BadConfig(f"filters {text!r} are no JSON object", remedy="write them as '{\"max_tokens\": 512}'")
    return found


def check_recipe(recipe: Recipe) -> None:
    """Refuse what cannot be built.

    Raises:
        BadConfig: names the part at fault.
    """
    check_words(recipe, of="recipe", shape=SHAPES)
    if not recipe.sources:
        raise BadConfig("the recipe has no source", remedy="name at least one, or leave sources out")
    for filters in (recipe.filters, *(source.filters for source in recipe.sources)):
        check_filters(filters, recipe.table)
    if recipe.balance and recipe.table not in BALANCES:
        raise BadConfig(f"{recipe.table} have no sides to balance", remedy=f"leave it out; {', '.join(BALANCES)} have")
    if not 0 <= recipe.held_out < 1:
        raise BadConfig(f"held_out is {recipe.held_out}", remedy="give a share from 0 to below 1")
    if any(source.share < 0 for source in recipe.sources):
        raise BadConfig("a share is negative", remedy="give 0 or more")

"""Errors a user can act on: what is at fault and what to do about it.

The commands print these in one line and exit with 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Collection


class BranchpointError(Exception):
    """A failure with a culprit and a remedy, both for print."""

    def __init__(self, culprit: str, *, remedy: str):
        self.culprit, self.remedy = culprit, remedy
        super().__init__(f"{culprit}; {remedy}")

    def __reduce__(self):
        return (_rebuild, (type(self), self.culprit, self.remedy))


def _rebuild(kind: type[BranchpointError], culprit: str, remedy: str) -> BranchpointError:
    return kind(culprit, remedy=remedy)


class BadConfig(BranchpointError):
    """A setting, name or file given by the user cannot be used."""


class BadInput(BranchpointError):
    """A task file or a row of it cannot be read."""


class BadModel(BranchpointError):
    """A policy cannot be loaded or does not fit what is asked of it."""


class BadTable(BranchpointError):
    """Rows break the schema or an invariant of their table."""


class StoreFull(BranchpointError):
    """The store could not be written, the disk being full or read-only."""


def check_counts(config: object, *, of: str = "", **least: int) -> None:
    """Refuse counts below their least.

    Args:
        of: whose they are, for print.

    Raises:
        BadConfig: names the field.
    """
    for name, minimum in least.items():
        if getattr(config, name) < minimum:
            raise BadConfig(f"{of} {name} is {getattr(config, name)}".lstrip(), remedy=f"give at least {minimum}")


def check_words(config: object, *, of: str = "", **known: Collection[str]) -> None:
    """Refuse words that are none of those known.

    Args:
        of: whose they are, for print.

    Raises:
        BadConfig: names the field.
    """
    for name, words in known.items():
        if getattr(config, name) not in words:
            culprit = f"{of} {name} {getattr(config, name)!r} is not known".lstrip()
            raise BadConfig(culprit, remedy=f"use one of {', '.join(words)}")

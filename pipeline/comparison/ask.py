"""Finds the round that a report is asked of, and says why a picture cannot be drawn. Knows no report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig
from pipeline.store.layout import Place
from pipeline.store.store import Store


def find_round(
    store: Store, having: Sequence[Place], *, suite: str | None, round: str | None, what: str, command: str
) -> tuple[str, str]:
    """The round that is meant: the one named, or the only one that has what is asked for.

    Args:
        having: places of what is asked for.
        what: that, in print. command: makes it.

    Raises:
        BadConfig: names what there is, or what to run.
    """
    reported = {(place.suite, place.round) for place in having}
    there = reported | {(place.suite, place.round) for place in store.places("nodes")}
    if not there:
        raise BadConfig("the store has no rounds", remedy="run `branchpoint tasks` and `branchpoint rollouts` first")
    if suite is not None:
        check_choice("suite", suite, sorted({one for one, _ in there}))
    if round is not None:
        check_choice("round", round, sorted({one for of, one in there if suite in (None, of)}))
    meant = sorted(one for one in there if suite in (None, one[0]) and round in (None, one[1]))
    found = [one for one in meant if one in reported]
    if not found:
        of_suite, of_round = meant[0]
        raise BadConfig(
            f"round {of_round} of {of_suite} has no {what}",
            remedy=f"run `{command} --suite {of_suite} --round {of_round}` first",
        )
    if len(found) > 1:
        named = ", ".join(f"{of_suite} {of_round}" for of_suite, of_round in found)
        raise BadConfig(f"any of these may be meant: {named}", remedy="name one with --suite and --round")
    return found[0]


@contextmanager
def picture_at(path: Path) -> Iterator[None]:
    """Draw a picture within, into a place that a user gave.

    Raises:
        BadConfig: it is no PNG, or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise BadConfig(f"picture {path} is no PNG", remedy="give a name that ends in .png")
    try:
        yield
    except OSError as error:
        raise BadConfig(f"cannot write {path}: {error.strerror}", remedy="give another --picture") from error

"""Finds the credit report of a round in a store, and prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from pipeline import show
from pipeline.cli_options import check_choice
from pipeline.credit_report.lines import Line, legend, lines_of, records, table
from pipeline.errors import BadConfig
from pipeline.stages.agreement import STAGE
from pipeline.store.store import Store


def ask_credit(
    store: Store, *, suite: str | None, round: str | None, picture: Path | None, as_json: bool, to: TextIO
) -> None:
    """Print the report of a round, a line a method; draw it where a file is named.

    Raises:
        BadConfig: there is no such round, or several, or it has no report; or the picture cannot be there.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise BadConfig(f"picture {picture} is no PNG", remedy="give a name that ends in .png")
    suite, round = find_round(store, suite=suite, round=round)
    lines = read_lines(store, suite=suite, round=round)
    if picture is not None:
        from pipeline.credit_report.picture import draw_report

        try:
            draw_report(lines, picture, title=f"{suite}, round {round}")
        except OSError as error:
            raise BadConfig(f"cannot write {picture}: {error.strerror}", remedy="give another --picture") from error
    if as_json:
        show.print_json(*records(lines, suite=suite, round=round), to=to)
        return
    print(f"credit of suite {suite}, round {round}", file=to)
    show.print_table(*table(lines), to=to)
    for line in legend(lines):
        print(line, file=to)


def find_round(store: Store, *, suite: str | None, round: str | None) -> tuple[str, str]:
    """The round that is meant: the one named, or the only one with a report.

    Raises:
        BadConfig: names what there is, or what to run.
    """
    there = {(place.suite, place.round) for place in store.places("nodes")}
    reported = {(place.suite, place.round) for place in store.places("evals", stage=STAGE)}
    there |= reported
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
            f"round {of_round} of {of_suite} has no credit report",
            remedy=f"run `branchpoint agreement --suite {of_suite} --round {of_round}` first",
        )
    if len(found) > 1:
        named = ", ".join(f"{of_suite} {of_round}" for of_suite, of_round in found)
        raise BadConfig(f"several rounds have a credit report: {named}", remedy="name one with --suite and --round")
    return found[0]


def read_lines(store: Store, *, suite: str, round: str) -> list[Line]:
    """The report of a round.

    Raises:
        BadConfig: it is of an earlier version of Branchpoint, or of a round without credit.
    """
    places = store.places("evals", suite=suite, round=round, stage=STAGE)
    lines = lines_of(store.read("evals", places))
    again = f"run `branchpoint agreement --suite {suite} --round {round}`"
    if not lines:
        raise BadConfig(
            f"round {round} of {suite} has no credit", remedy=f"run `branchpoint credit` first, then {again}"
        )
    if not any("degenerate_share" in line.figures for line in lines):
        raise BadConfig(f"the figures of round {round} of {suite} are of an earlier version", remedy=f"{again} again")
    return lines

"""Finds the credit report of a round in a store, and prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from pipeline import show
from pipeline.comparison.ask import find_round, picture_at
from pipeline.comparison.lines import Line
from pipeline.credit_report.lines import legend, lines_of, records, table
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
    reports, said = store.places("evals", stage=STAGE), {"what": "credit report", "command": "branchpoint agreement"}
    suite, round = find_round(store, reports, suite=suite, round=round, **said)
    lines = read_lines(store, suite=suite, round=round)
    if picture is not None:
        from pipeline.credit_report.picture import draw_report

        with picture_at(picture):
            draw_report(lines, picture, title=f"{suite}, round {round}")
    if as_json:
        show.print_json(*records(lines, suite=suite, round=round), to=to)
        return
    print(f"credit of suite {suite}, round {round}", file=to)
    show.print_table(*table(lines), to=to)
    for line in legend(lines):
        print(line, file=to)


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

"""Finds the label report of a round and prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from pipeline import show
from pipeline.cli_options import check_choice
from pipeline.errors import BadConfig
from pipeline.label_report.lines import legend, lines_of, records, table
from pipeline.stages.label_agreement import STAGE
from pipeline.store.store import Store


def ask_labels(
    store: Store, *, suite: str | None, round: str | None, picture: Path | None, as_json: bool, to: TextIO
) -> None:
    """Print the report of a round, a line a labeller; draw it where a file is named.

    Raises:
        BadConfig: there is no such round, or several, or it has no report; or the picture cannot be there.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise BadConfig(f"picture {picture} is no PNG", remedy="give a name that ends in .png")
    suite, round = _round(store, suite=suite, round=round)
    lines = lines_of(store.read("evals", store.places("evals", suite=suite, round=round, stage=STAGE)))
    if picture is not None:
        from pipeline.label_report.picture import draw_labels

        try:
            draw_labels(lines, picture, title=f"{suite}, round {round}")
        except OSError as error:
            raise BadConfig(f"cannot write {picture}: {error.strerror}", remedy="give another --picture") from error
    if as_json:
        show.print_json(*records(lines, suite=suite, round=round), to=to)
        return
    print(f"labels of suite {suite}, round {round}", file=to)
    show.print_table(*table(lines), to=to)
    for line in legend(lines):
        print(line, file=to)


def _round(store: Store, *, suite: str | None, round: str | None) -> tuple[str, str]:
    """The round that is meant: the one named, or the only one with a report."""
    there = sorted({(place.suite, place.round) for place in store.places("evals", stage=STAGE)})
    if not there:
        raise BadConfig("no round has a label report", remedy="run `branchpoint label-agreement` first")
    if suite is not None:
        check_choice("suite", suite, sorted({one for one, _ in there}))
    found = [one for one in there if suite in (None, one[0])]
    if round is not None:
        check_choice("round", round, sorted({one for _, one in found}))
    found = [one for one in found if round in (None, one[1])]
    if len(found) > 1:
        named = ", ".join(f"{of_suite} {of_round}" for of_suite, of_round in found)
        raise BadConfig(f"several rounds have a label report: {named}", remedy="name one with --suite and --round")
    return found[0]

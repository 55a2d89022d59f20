"""Finds the label report of a round in a store, and prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from pipeline import show
from pipeline.comparison.ask import find_round, picture_at
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
    reports = store.places("evals", stage=STAGE)
    said = {"what": "label report", "command": "branchpoint label-agreement"}
    suite, round = find_round(store, reports, suite=suite, round=round, **said)
    lines = lines_of(store.read("evals", store.places("evals", suite=suite, round=round, stage=STAGE)))
    if picture is not None:
        from pipeline.label_report.picture import draw_labels

        with picture_at(picture):
            draw_labels(lines, picture, title=f"{suite}, round {round}")
    if as_json:
        show.print_json(*records(lines, suite=suite, round=round), to=to)
        return
    print(f"labels of suite {suite}, round {round}", file=to)
    show.print_table(*table(lines), to=to)
    for line in legend(lines):
        print(line, file=to)

"""Shows how far a stage is: one moving line on a terminal, else a plain line now and then. Knows no stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from pipeline.report import OnProgress, Progress, silent

EVERY_SECONDS = 30.0
MOST_SECONDS = 1e9
"""Left, of which no time is told."""


@contextmanager
def progress_on(stream: TextIO, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Whom a stage tells its progress while the context lasts."""
    if quiet:
        yield silent
    elif stream.isatty():
        with _moving_line(stream) as on_progress:
            yield on_progress
    else:
        yield every_so_often(lambda line: print(line, file=stream, flush=True))


class Counts:
    """The first and the latest count of everything that the running stage counts, by what is counted."""

    def __init__(self) -> None:
        self.first: dict[str, Progress] = {}
        self.latest: dict[str, Progress] = {}

    def add(self, progress: Progress) -> None:
        """Take in a count; those of an earlier stage are forgotten."""
        if any(one.stage != progress.stage for one in self.latest.values()):
            self.first, self.latest = {}, {}
        self.first.setdefault(progress.what, progress)
        self.latest[progress.what] = progress

    def describe(self) -> str:
        """All of them on one line."""
        parts = []
        for progress in self.latest.values():
            reused = f" ({progress.reused:,} from the ledger)" if progress.reused else ""
            of_total = f"/{progress.total:,}" if progress.total else ""
            parts.append(f"{progress.done:,}{of_total} {progress.what}{reused}")
        latest = max(self.latest.values(), key=lambda progress: progress.seconds)
        tokens = max(progress.tokens for progress in self.latest.values())
        if tokens:
            rate = f", {tokens / latest.seconds:,.0f} a second" if latest.seconds >= 1 else ""
            parts.append(f"{tokens:,} tokens{rate}")
        for progress in self.latest.values():
            if progress.cached is not None:
                parts.append(f"{progress.cached:.0%} of prompts cached")
            if progress.cost is not None:
                parts.append(f"cost {progress.cost:,.4g}")
        left = self.seconds_left()
        soon = f", about {timedelta(seconds=round(left))} left" if 1 <= left < MOST_SECONDS else ""
        return f"{latest.stage}: {', '.join(parts)}, {latest.seconds:.0f} s{soon}"

    def furthest_from_done(self) -> Progress | None:
        """Of the counts whose total is known the one of which the least part is done; None where none is known."""
        known = [progress for progress in self.latest.values() if progress.total]
        return min(known, key=lambda progress: progress.done / progress.total, default=None)

    def seconds_left(self) -> float:
        """How long it may still take, by what is slowest since its first count; 0 where nothing tells."""
        told = [0.0]
        for what, now in self.latest.items():
            done, seconds = now.done - self.first[what].done, now.seconds - self.first[what].seconds
            if done > 0 and now.total:
                told.append(seconds / done * (now.total - now.done))
        return max(told)


def every_so_often(say: Callable[[str], None]) -> OnProgress:
    """Progress as a line of text, at most one in EVERY_SECONDS."""
    counts = Counts()
    said = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal said
        counts.add(progress)
        if time.monotonic() - said >= EVERY_SECONDS:
            said = time.monotonic()
            say(counts.describe())

    return on_progress


@contextmanager
def _moving_line(stream: TextIO) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    counts = Counts()
    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(file=stream), transient=True, redirect_stdout=False) as bar:
        line = bar.add_task("starting", total=None)

        def on_progress(progress: Progress) -> None:
            counts.add(progress)
            counted = counts.furthest_from_done()
            how_far = {} if counted is None else {"completed": counted.done, "total": counted.total}
            bar.update(line, description=counts.describe(), **how_far)

        yield on_progress

"""Shows how far a stage is: one moving line on a terminal, else a plain line now and then. Knows no stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from pipeline.report import OnProgress, Progress, silent

EVERY_SECONDS = 30.0


@contextmanager
def progress_on(stream: TextIO, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Whom a stage tells its progress while the context lasts."""
    if quiet:
        yield silent
    elif stream.isatty():
        with _moving_line(stream) as on_progress:
            yield on_progress
    else:
        yield _plain_lines(stream)


def describe_progress(counts: dict[str, Progress]) -> str:
    """One line of the latest count of everything a stage counts, by what is counted."""
    parts = []
    for progress in counts.values():
        reused = f" ({progress.reused:,} from the ledger)" if progress.reused else ""
        parts.append(f"{progress.done:,}/{progress.total:,} {progress.what}{reused}")
    latest = max(counts.values(), key=lambda progress: progress.seconds)
    tokens = max(progress.tokens for progress in counts.values())
    if tokens:
        rate = f", {tokens / latest.seconds:,.0f} a second" if latest.seconds >= 1 else ""
        parts.append(f"{tokens:,} tokens{rate}")
    if latest.cached is not None:
        parts.append(f"{latest.cached:.0%} of prompts cached")
    return f"{latest.stage}: {', '.join(parts)}, {latest.seconds:.0f} s{_left(counts)}"


def _left(counts: dict[str, Progress]) -> str:
    """How long it may still take, going by what is counted slowest; empty where nothing tells."""
    told = [one.seconds / one.done * (one.total - one.done) for one in counts.values() if 0 < one.done <= one.total]
    longest = max(told, default=0.0)
    return f", about {timedelta(seconds=round(longest))} left" if longest >= 1 else ""


def _plain_lines(stream: TextIO) -> OnProgress:
    counts: dict[str, Progress] = {}
    said = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal said
        counts[progress.what] = progress
        if time.monotonic() - said >= EVERY_SECONDS:
            said = time.monotonic()
            print(describe_progress(counts), file=stream, flush=True)

    return on_progress


@contextmanager
def _moving_line(stream: TextIO) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    counts: dict[str, Progress] = {}
    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(file=stream), transient=True, redirect_stdout=False) as bar:
        line = bar.add_task("starting", total=None)

        def on_progress(progress: Progress) -> None:
            counts[progress.what] = progress
            counted = counts.get("requests", progress)
            bar.update(line, description=describe_progress(counts), completed=counted.done, total=counted.total)

        yield on_progress

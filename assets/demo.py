"""`make demo`: the whole graph once, in this process, on the embedded suite and policy.

Uses the instance that `make ui` shows. What is current is left alone, so a second run regenerates nothing.
"""

import argparse
import logging
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import dagster as dg
from dagster_shared.error import SerializableErrorInfo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from assets.definitions import WITHOUT_ENVIRONMENT
from assets.partitions import add_partitions
from assets.resources import Workplace, listen
from pipeline.cli import ROUND, STAGES, SUITE
from pipeline.cli_options import Parser, add_store_option, check_store, check_suite, read_options
from pipeline.cli_progress import Counts
from pipeline.cli_store import settings_of
from pipeline.errors import BranchpointError
from pipeline.report import Progress as Step
from pipeline.report import Report
from pipeline.settings import Settings, quiet_engines
from pipeline.show import plain, short_figure
from pipeline.stages.tasks import note_empty
from pipeline.stages.work import make_work
from pipeline.store.layout import EVERY_ROUND

POLICY = "tiny"
LINE_SECONDS = 10.0
MOST_COLUMNS = 120
"""Of the last screen: a narrow terminal breaks its lines rather than lose the end of an interval."""
SETTINGS = {
    "trees": {"attempts": 2, "branches": 3},
    "retries": {"per_task": 1},
    "interventions": {"per_task": 1, "continuations": 4},
    "judge__genprm": {"per_task": 1},
    "policies__online": {"rounds": 1, "changes": '{"eval_shards": 2}'},
    "policies__prm": {"steps": 60},
    "evals__prm": {"samples": 4},
}
"""Where the demo asks for less than a real run would, so that it ends in minutes."""
OURS = {BranchpointError.__name__, *(kind.__name__ for kind in BranchpointError.__subclasses__())}
INTERRUPTS = {KeyboardInterrupt.__name__, dg.DagsterExecutionInterruptedError.__name__}
CHECK_FAILED = "DagsterAssetCheckFailedError"


class Teller:
    """Shows what a run is doing: a live bar on a terminal, a line now and then elsewhere, a line a finished stage."""

    def __init__(self, console: Console):
        self._console, self._last, self._counts = console, 0.0, Counts()
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()
        self.reports: list[Report] = []
        self._noted: set[str] = set()

    def progress(self, step: Step) -> None:
        what = f"{step.stage}: {step.what}" + (f", {step.tokens} tokens" if step.tokens else "")
        self._counts.add(step)
        counted = self._counts.furthest_from_done() or step
        self._bar.update(self._task, description=what, completed=counted.done, total=counted.total or None)
        if not self._console.is_terminal and time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            of_total = f" of {counted.total}" if counted.total else ""
            self._console.print(f"  {what}, {counted.done}{of_total} {counted.what}", markup=False, highlight=False)

    def report(self, report: Report) -> None:
        self.reports.append(report)
        counts = [*list(report.rows.items())[:1], *list(report.numbers.items())[:6]]
        figures = "  ".join(f"{name} {short_figure(value)}" for name, value in counts)
        state = f"{report.seconds:6.1f} s" if report.fresh else " current"
        notes = [note for note in report.notes if note not in self._noted]
        self._noted.update(notes)
        for line in (f"{state}  {report.stage:<24} {figures}", *(f"          {note}" for note in notes)):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def main(argv: list[str] | None = None) -> int:
    """Run the graph for one suite and round; returns the exit code."""
    parser = Parser(prog="branchpoint-demo", description="Run every asset for one suite and round.")
    parser.add_argument("--suite", default=SUITE, help=f"embedded suite, or one of suites/*.toml; default {SUITE}")
    parser.add_argument("--round", default=ROUND, help=f"name of the round; default {ROUND}")
    parser.add_argument(
        "--policy", default=POLICY, help=f"embedded policy, a trained one, or a folder; default {POLICY}"
    )
    add_store_option(parser)
    console = Console(stderr=False)
    try:
        options = read_options(parser, sys.argv[1:] if argv is None else argv)
        settings = settings_of(options)
        check_suite(options.suite, folder=settings.suites)
        check_store(settings.store)
        make_work(settings, suite=options.suite, round=options.round, policy=options.policy)
        return _run(options, settings, console)
    except BranchpointError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("stopped; what is recorded is kept, run again to go on")
        return 130


def _run(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    quiet_engines()
    _quiet()
    started, teller = time.monotonic(), Teller(console)
    listen(teller.progress, teller.report)
    console.print(
        f"suite {options.suite}, round {options.round}, policy {options.policy}: {len(WITHOUT_ENVIRONMENT)} assets, "
        "in this process",
        highlight=False,
    )
    instance = dg.DagsterInstance.from_config(str(Path.cwd()))
    try:
        outcome = dg.materialize(
            WITHOUT_ENVIRONMENT,
            instance=instance,
            partition_key=add_partitions(instance, suite=options.suite, round=options.round),
            resources={"workplace": Workplace(policy=options.policy, store=str(settings.store))},
            run_config={
                "ops": {name: {"config": config} for name, config in SETTINGS.items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=False,
        )
    finally:
        listen(None, None)
        teller.close()
        instance.dispose()
    checks = outcome.get_asset_check_evaluations()
    failed = [check for check in checks if not check.passed]
    if not outcome.success:
        return _say_why(outcome, failed)
    _last_screen(options, settings, console, teller, checks=len(checks), seconds=time.monotonic() - started)
    return 0


def _quiet() -> None:
    """Third parties' warnings are not the user's business."""
    warnings.filterwarnings("ignore")
    for name in ("dagster", "vllm", "transformers", "trl", "datasets", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _say_why(outcome: dg.ExecuteInProcessResult, failed: list[dg.AssetCheckEvaluation]) -> int:
    """A line an asset that failed, in our own words; a bug keeps its traceback.

    Returns:
        The exit code: 2 where the user must mend something, 1 where we must.

    Raises:
        KeyboardInterrupt: the run was interrupted, which the events hold as one more failure.
    """
    for check in failed:
        _say(f"check {check.check_name} of {check.asset_key.to_user_string()}: {check.description or 'failed'}")
    errors = [(event.step_key, event.step_failure_data.error) for event in outcome.all_events if event.is_step_failure]
    if not errors:
        errors = [("run", event.job_failure_data.error) for event in outcome.all_events if event.is_job_failure]
    code = 2
    for name, error in errors:
        causes = list(_causes(error))
        if any(cause.cls_name in INTERRUPTS for cause in causes):
            raise KeyboardInterrupt
        # The first of ours: what it was raised from is a library's error, which names neither file nor remedy.
        ours = next((cause for cause in causes if cause.cls_name in OURS), None)
        if ours is not None:
            _say(f"{name}: {ours.message.removeprefix(f'{BranchpointError.__module__}.{ours.cls_name}: ')}")
        elif not (failed and any(cause.cls_name == CHECK_FAILED for cause in causes)):  # said above
            _say(f"{name}: {causes[-1].message if causes else 'no reason is known'}")
            print(error or "", file=sys.stderr)
            code = 1
    return code


def _causes(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.cause


def _say(text: str) -> None:
    print(f"branchpoint-demo: {plain(' '.join(text.split()))}", file=sys.stderr)


def _last_screen(
    options: argparse.Namespace, settings: Settings, console: Console, teller: Teller, *, checks: int, seconds: float
) -> None:
    from schemas import TABLES

    work = make_work(settings, suite=options.suite, round=options.round, policy=options.policy)
    store, suite = work.store, work.suite.name
    console.width = max(console.width, MOST_COLUMNS)
    rows = _table("table", ">rows")
    for table in TABLES:
        places = store.places(table, suite=suite, round=EVERY_ROUND if table == "tasks" else options.round)
        rows.add_row(table, f"{sum(store.rows(table, place) for place in places):,}")
    passes = _table("policy", ">pass@1", "interval", ">less " + work.policy.name, "interval")
    scores = _table("method", ">AUC", "interval", ">steps")
    found = defaultdict(dict)
    for row in store.read("evals", work.places("evals")).iter_rows(named=True):
        found[row["policy"]][row["metric"]] = row
    for policy in sorted(found, key=lambda name: (name != work.policy.name, name)):
        metrics = found[policy]
        if one := metrics.get("pass@1"):
            gain = metrics.get(f"pass@1 less {work.policy.name}")
            passes.add_row(policy, *_interval(one), *(_interval(gain, sign="+") if gain else ()))
        if (score := metrics.get("oracle_auc")) and score["value"] is not None:
            scores.add_row(policy, *_interval(score), f"{score['count']:,}")
    for title, table, without in (
        (f"round {options.round} of {suite}", rows, ""),
        ("on held-out tasks, with 95 % intervals over tasks", passes, note_empty(work.suite, "held_out")),
        (
            "how well it ranks the first wrong step, against the exact oracle of sums",
            scores,
            "no task is a sum, so there is no exact oracle to compare with",
        ),
    ):
        heading = title if table.row_count else without
        console.print(f"\n{heading}", style="bold", highlight=False, soft_wrap=True)
        if table.row_count:
            console.print(table)
    fresh = sum(report.fresh > 0 for report in teller.reports)
    console.print(
        f"\n{checks} checks passed, {fresh} of {len(teller.reports)} stages made now, {seconds:.0f} s\n"
        f"store    {settings.store}\nrelease  {settings.release / f'{suite}-{options.round}'}\n"
        'next     make ui    or    .venv/bin/branchpoint sql "from evals order by policy, metric"\n'
        f"{smaller_draws(options)}",
        highlight=False,
        soft_wrap=True,
    )


def smaller_draws(options: argparse.Namespace) -> str:
    """Which options find the shards of the demo current, where it asked for less than the stages do by themselves."""
    commands = []
    for asset, given in SETTINGS.items():
        name = asset.removesuffix("__genprm")  # the judge that is asked unless another is named
        if name not in STAGES:
            continue
        stage = STAGES[name]
        defaults = getattr(import_module(stage.module), stage.config)()
        changed = {field: value for field, value in given.items() if value != getattr(defaults, field)}
        spelt = " ".join(f"--{field.replace('_', '-')} {value}" for field, value in changed.items())
        commands += [f"{name} {spelt}"] if changed else []
    usual = {"suite": SUITE, "round": ROUND, "policy": POLICY}
    shared = [f"--{name} {getattr(options, name)}" for name in usual if getattr(options, name) != usual[name]]
    each = f"; each with {' '.join(shared)}" if shared else ""
    return f"drew     less than the stages do by themselves; what finds its shards current: {', '.join(commands)}{each}"


def _table(*columns: str) -> Table:
    """An empty table; a column whose name begins with `>` is aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def _interval(row: dict, *, sign: str = "") -> tuple[str, str]:
    if row["value"] is None:
        return "unknown", ""
    between = "" if row["low"] is None else f"{row['low']:{sign}.3f} to {row['high']:{sign}.3f}"
    return f"{row['value']:{sign}.3f}", between


if __name__ == "__main__":
    sys.exit(main())

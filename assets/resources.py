"""The workplace as Dagster sees it: a thin adapter that hands out our own plain objects."""

from collections.abc import Callable

import dagster as dg

from pipeline.cli_progress import every_so_often
from pipeline.report import OnProgress, Report
from pipeline.settings import Settings, place_named
from pipeline.stages.work import Work, make_work


class Workplace(dg.ConfigurableResource):
    """Where store, policies and releases lie, and with which policy and engine a round is made.

    Empty paths mean those of the environment (BRANCHPOINT_STORE and so on).
    """

    policy: str = "tiny"
    engine: str = "vllm"
    store: str = ""
    policies: str = ""
    release: str = ""

    def settings(self) -> Settings:
        """The paths as a value."""
        found = Settings.from_environment()
        given = {
            name: place_named(value) for name in ("store", "policies", "release") if (value := getattr(self, name))
        }
        return Settings(**{name: given.get(name, getattr(found, name)) for name in Settings.__slots__})

    def open(self, context: dg.AssetExecutionContext, *, policy: str = "") -> Work:
        """The surroundings of a stage for the partition of a run."""
        keys = context.partition_key.keys_by_dimension
        return make_work(
            self.settings(),
            suite=keys["suite"],
            round=keys["round"],
            policy=policy or self.policy,
            engine=self.engine,
            on_progress=_listener or every_so_often(context.log.info),
        )


_listener: OnProgress | None = None
_reader: Callable[[Report], None] | None = None


def listen(on_progress: OnProgress | None, on_report: Callable[[Report], None] | None) -> None:
    """Send progress and reports of runs in this process to somebody; progress then no longer goes to the log."""
    global _listener, _reader
    _listener, _reader = on_progress, on_report


def announce(report: Report) -> None:
    """Tell whoever listens that a stage is done."""
    if _reader is not None:
        _reader(report)

"""The commands `import` and `export`: which options they have, and how they are run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipeline import show
from pipeline.cli_progress import progress_on
from pipeline.cli_store import settings_of, store_of
from pipeline.exchange import EXPORTERS, IMPORTERS

_OF_ROUND: dict[str, dict[str, Any]] = {"--round": {"metavar": "NAME", "default": "r0", "help": "default r0"}}
IMPORT: dict[str, dict[str, Any]] = {
    "format": {"metavar": "FORMAT", "help": "|".join(IMPORTERS)},
    "path": {"metavar": "PATH", "help": "a file, or a folder of them"},
    "--suite": {
        "metavar": "NAME",
        "required": True,
        "help": "of the tasks; its file is written if there is none",
    },
    **_OF_ROUND,
    "--licence": {"default": "", "help": "of what is imported, where its records name none"},
    "--tokens": {
        "default": "source",
        "metavar": "NAME",
        "help": "source|policy|render: token ids as the source has them; they are of --policy, which may grow them; "
        "texts without them are encoded by it too; default source",
    },
    "--replace": {"action": "store_true", "help": "take the place of the round's rollouts of other files"},
    "--policy": {"default": "tiny", "help": "name, or folder of a model, for --tokens; default tiny"},
    "--engine": {"default": "vllm", "metavar": "NAME", "help": "that will grow them, for --tokens; default vllm"},
}
EXPORT: dict[str, dict[str, Any]] = {
    "format": {"metavar": "FORMAT", "help": "|".join(EXPORTERS)},
    "folder": {"metavar": "DIR", "type": Path, "help": "to write into"},
    "--suite": {"metavar": "NAME", "required": True, "help": "whose paths"},
    **_OF_ROUND,
    "--tree": {"metavar": "TREE", "default": "", "help": "of this tree alone"},
    "--node": {"metavar": "NODE", "type": int, "default": -1, "help": "the path to this node of the tree alone"},
}


def run_import(options: argparse.Namespace) -> None:
    """Import, and print the report."""
    from pipeline.cli_options import check_choice, check_store
    from pipeline.exchange.suite_file import ensure_suite
    from pipeline.stages.imports import ImportConfig, write_imports
    from pipeline.stages.work import make_work
    from pipeline.store.query import write_database

    check_choice("format", options.format, IMPORTERS)
    check_choice("tokens", options.tokens, get_args(get_type_hints(ImportConfig)["tokens"]))
    settings = settings_of(options)
    check_store(settings.store)
    ensure_suite(options.suite, folder=settings.suites)
    config = ImportConfig(options.format, options.path, options.licence, options.tokens, options.replace)
    of = {"suite": options.suite, "round": options.round, "policy": options.policy, "engine": options.engine}
    with progress_on(sys.stderr) as on_progress:
        work = make_work(settings, **of, on_progress=on_progress)
        report = write_imports(work, config)
    _print(report, options)
    if report.fresh:
        write_database(work.store)


def run_export(options: argparse.Namespace) -> None:
    """Export, and print the report."""
    from pipeline.cli_options import check_choice
    from pipeline.stages.exports import ExportConfig, write_exports

    check_choice("format", options.format, EXPORTERS)
    config = ExportConfig(options.format, str(options.folder), options.tree, options.node)
    with progress_on(sys.stderr) as on_progress:
        store = store_of(options)
        report = write_exports(store, options.suite, options.round, config, on_progress=on_progress)
    _print(report, options)


def _print(report: Any, options: argparse.Namespace) -> None:
    for line in (show.report_json(report),) if options.json else show.report_lines(report):
        print(line)

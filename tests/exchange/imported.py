"""An import into a store of its own, and what it holds then; shared by tests of the exchange."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.exchange.suite_file import ensure_suite
from pipeline.report import Report
from pipeline.settings import Settings
from pipeline.stages.exports import ExportConfig, write_exports
from pipeline.stages.imports import ImportConfig, write_imports
from pipeline.stages.work import Work, make_work
from pipeline.store.audit import audit


def work_at(folder: Path, suite: str = "foreign") -> Work:
    settings = replace(Settings(), store=folder / "store", suites=folder / "suites")
    ensure_suite(suite, folder=settings.suites)
    return make_work(settings, suite=suite, round="r0")


def bring_in(work: Work, format: str, path: Path, **options: Any) -> Report:
    return write_imports(work, ImportConfig(format, str(path), **options))


def send_out(work: Work, format: str, folder: Path) -> list[Path]:
    write_exports(work.store, work.suite.name, "r0", ExportConfig(format, str(folder)))
    return sorted(folder.iterdir())


def table(work: Work, name: str) -> pl.DataFrame:
    return work.store.read(name, work.store.places(name, suite=work.suite.name))


def steps(work: Work) -> list[tuple]:
    nodes = table(work, "nodes")
    return list(nodes.select("node", "parent", "kind", "origin", "text").iter_rows())


def as_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def violations(work: Work) -> list[tuple[str, int, str]]:
    path = Path(work.settings.store) / "imports" / f"{work.suite.name}.r0.jsonl"
    return [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]


def faults_in(work: Work) -> list[str]:
    return [found.detail for found in audit(work.store) if not found.passed]

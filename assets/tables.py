"""What assets tell the UI of their tables: column schemas beforehand, numbers and checks afterwards."""

import base64
import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from pydantic import create_model

from assets.partitions import suite_rounds
from assets.resources import announce
from pipeline.report import Report
from pipeline.stages.earlier import GENERATING
from pipeline.stages.work import Work
from pipeline.store.checks import CHECKS
from pipeline.store.layout import EVERY_ROUND
from pipeline.store.query import write_database
from pipeline.variants.checks import VARIANT_CHECKS
from schemas import TABLES
from schemas.base import column_docs, describe

MOST_NUMBERS = 12
ALL_CHECKS = {**CHECKS, "variants": {**CHECKS["variants"], **VARIANT_CHECKS}}


def table_metadata(*tables: str) -> dict[str, object]:
    """Static metadata of an asset that writes these tables; the first is the one whose columns are shown."""
    columns = [
        dg.TableColumn(
            name=column.name,
            type=column.type,
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for column in column_docs(TABLES[tables[0]])
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/table_name": tables[0],
        "tables": {table: describe(TABLES[table]) for table in tables},
    }


def table_checks(key: Sequence[str], *tables: str) -> list[dg.AssetCheckSpec]:
    """The blocking checks of an asset, one for each property of each of its tables."""
    asset = dg.AssetKey(list(key))
    return [
        dg.AssetCheckSpec(name=f"{table}_{name}", asset=asset, blocking=True, description=check.__doc__)
        for table in tables
        for name, check in ALL_CHECKS[table].items()
    ]


def round_asset(
    *key: str,
    group: str,
    kinds: set[str],
    owners: list[str],
    tables: Sequence[str] = (),
    checks: Sequence[dg.AssetCheckSpec] = (),
    **options: object,
) -> Callable[[Callable], dg.AssetsDefinition]:
    """The decorator of every asset here: partitioned by suite and round, with its tables' columns and blocking checks.

    Args:
        key: of the asset; the decorated function's name where none is given.
        tables: what it writes; the columns of the first are shown.
        checks: its own, beside those of its tables.
        options: as `dagster.asset` takes them; the description is the function's docstring where none is given.
    """

    def decorate(function: Callable) -> dg.AssetsDefinition:
        name = list(key) or [function.__name__]
        return dg.asset(
            key=name,
            partitions_def=suite_rounds,
            group_name=group,
            kinds=kinds,
            owners=owners,
            code_version="1",
            metadata=table_metadata(*tables) if tables else None,
            check_specs=[*table_checks(name, *tables), *checks],
            **options,
        )(function)

    return decorate


def launch_form(config: type) -> type[dg.Config]:
    """A launchpad form with the fields and defaults of a stage's configuration, in the order of its command's options;
    a tuple is a list there.
    """
    hints, fields = typing.get_type_hints(config), {}
    for field in sorted(dataclasses.fields(config), key=lambda field: field.kw_only):
        many = isinstance(field.default, tuple)
        fields[field.name] = (list[str], list(field.default)) if many else (hints[field.name], field.default)
    docs = (inspect.getdoc(one).partition("\n\nRaises:")[0] for one in config.__mro__[:-1])
    return create_model(config.__name__, __base__=dg.Config, __doc__="\n\n".join(docs), **fields)


def filled(config: type, form: dg.Config) -> object:
    """The stage's configuration from a filled form."""
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in form.model_dump().items()}
    return config(**said)


def result(work: Work, report: Report, *, tables: Sequence[str] = ()) -> dg.MaterializeResult:
    """A stage's report as a materialisation, with the checks of its tables; the store's DuckDB file is kept whole."""
    announce(report)
    write_database(work.store)
    numbers = dict(list(report.numbers.items())[:MOST_NUMBERS])
    metadata = {name: round(value, 4) if isinstance(value, float) else value for name, value in numbers.items()}
    metadata |= {f"rows of {table}": rows for table, rows in report.rows.items()}
    if tables:
        metadata["dagster/partition_row_count"] = report.rows[tables[0]]
        metadata["dagster/uri"] = f"{work.settings.store}/{tables[0]}"
    metadata |= {"note": "\n".join(report.notes)} if report.notes else {}
    metadata |= {"seconds": round(report.seconds, 1), "shards made now": report.fresh, "shards": report.shards}
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(report.digest) if report.digest else None,
        check_results=[found for table in tables for found in _check(work, table, report.stage)],
    )


def with_picture(done: dg.MaterializeResult, path: Path) -> dg.MaterializeResult:
    """The same with a PNG, which the UI shows, among its metadata; without it where the file is gone."""
    if not path.is_file():
        return done
    shown = dg.MetadataValue.md(f"![{path}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})")
    return done._replace(metadata={**done.metadata, "picture": shown})


def said(documented: object) -> str:
    """What a docstring says first, and its source, for the UI."""
    first, *others = (inspect.getdoc(documented) or "").split("\n\n")
    sources = [paragraph for paragraph in others if paragraph.startswith("Source:")]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (first, *sources))


def _check(work: Work, table: str, stage: str) -> list[dg.AssetCheckResult]:
    store = work.store
    round = EVERY_ROUND if table == "tasks" else work.round
    stages = [stage]
    if table == "nodes":  # sound only together with the nodes they hang on
        stages = list(GENERATING[: GENERATING.index(stage) + 1])
    places = [place for one in stages for place in store.places(table, suite=work.suite.name, round=round, stage=one)]
    found = {name: check(store, table, places) for name, check in ALL_CHECKS[table].items()}
    return [
        dg.AssetCheckResult(passed=finding.passed, check_name=f"{table}_{name}", description=finding.detail)
        for name, finding in found.items()
    ]

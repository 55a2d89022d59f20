"""Suites: a named set of tasks with its prompts and segmentation, one TOML file each.

The embedded ones lie beside this module; a user's own is given by the path of its file.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import polars as pl

from pipeline.environments import ENVIRONMENTS, Surroundings
from pipeline.errors import BadConfig
from pipeline.prompts import PACKS
from pipeline.tasks.sources import SOURCES
from schemas import Tasks
from schemas.base import column_types
from schemas.words import SPLITS

SUITES = ("chain_sum", "calculator", "number_path", "tic_tac_toe", "kuhn_poker", "mini_hanabi", "bargains", "multi_hop")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Band:
    """Tasks of one difficulty from one source."""

    name: str
    source: str
    options: Any


@dataclass(frozen=True, slots=True)
class Suite:
    """What to ask and how to read the answers.

    prompts:    name of a prompt pack.
    separator:  closes a step.
    max_tokens: of one answer.
    bands:      from the easiest to the hardest.
    base:       folder that paths in the bands start from.
    shard_tasks: tasks in a shard, the unit of work and one file a table. Another number makes the round anew, out of
        the ledger; for a hundred thousand tasks some thousands keep queries fast.
    environment: what tasks are played in; None: they are answered at once.
    """

    name: str
    description: str
    prompts: str
    separator: str
    max_tokens: int
    bands: tuple[Band, ...]
    base: Path
    shard_tasks: int = 64
    environment: Surroundings | None = None


def suite_names(folder: Path = Path("suites")) -> tuple[str, ...]:
    """Suites that can be named: the embedded ones, then one's own."""
    return (*SUITES, *sorted(path.stem for path in folder.glob("*.toml") if path.stem not in SUITES))


def load_suite(name: str, *, folder: Path = Path("suites")) -> Suite:
    """An embedded suite by name, or one's own: `<folder>/<name>.toml`, or the path of a TOML file.

    Raises:
        BadConfig: there is none, or a key of the file is unknown, missing, of the wrong kind or of no use.
    """
    path = None
    if name in SUITES:
        _refuse_namesake(folder / f"{name}.toml")
        text, base = resources.files(__name__).joinpath(f"{name}.toml").read_text(), Path()
    elif name.endswith(".toml") or (folder / f"{name}.toml").is_file():
        path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
        try:
            text, base = path.read_text(), path.parent
        except OSError as error:
            raise BadConfig(f"suite {name} cannot be read: {error.strerror}", remedy="correct the path") from error
        except UnicodeDecodeError as error:
            raise BadConfig(f"suite {name} is not UTF-8 text", remedy="save it as UTF-8") from error
    else:
        raise BadConfig(
            f"suite {name!r} does not exist",
            remedy=f"choose one of {', '.join(suite_names(folder))}, or give the path of a .toml file",
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"suite {name} is not TOML: {error}", remedy="mend the file") from error
    bands = content.pop("bands", [])
    if not isinstance(bands, list) or not bands or not all(isinstance(band, dict) for band in bands):
        raise BadConfig(f"suite {name} has no [[bands]]", remedy="add at least one, in double brackets")
    bands = tuple(_band(name, band) for band in bands)
    environment = _environment(name, content.pop("environment", None))
    suite = _fill(Suite, {**content, "bands": bands, "base": base}, where=f"suite {name}")
    suite = replace(suite, environment=environment)
    _check(suite, where=f"suite {name}", file=path)
    return suite


def _refuse_namesake(file: Path) -> None:
    """Refuse a file whose suite and an embedded one cannot be told apart by name."""
    if file.is_file():
        raise BadConfig(
            f"{file}: {file.stem!r} is the name of an embedded suite", remedy="give file and suite another name"
        )


def _check(suite: Suite, *, where: str, file: Path | None) -> None:
    """Refuse what would fail later, or let one suite's tasks take the place of another's.

    file: the suite's own; None where it is embedded.
    """
    if file is not None and suite.name != file.stem:
        raise BadConfig(
            f"{where}: name is {suite.name!r} in the file {file.name}", remedy="give file and suite the same name"
        )
    if file is not None and suite.name in SUITES:
        _refuse_namesake(file)
    if suite.prompts not in PACKS:
        raise BadConfig(f"{where}: prompts {suite.prompts!r} do not exist", remedy=f"choose one of {', '.join(PACKS)}")
    if not suite.separator:
        raise BadConfig(f"{where}: separator is empty", remedy=r'give what closes a step, such as "\n"')
    if suite.max_tokens < 1:
        raise BadConfig(f"{where}: max_tokens is {suite.max_tokens}", remedy="give at least 1")
    if suite.shard_tasks < 1:
        raise BadConfig(f"{where}: shard_tasks is {suite.shard_tasks}", remedy="give at least 1")
    names = [band.name for band in suite.bands]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise BadConfig(f"{where}: two bands have the name {twice[0]!r}", remedy="give every band its own")


def _band(suite: str, content: dict[str, Any]) -> Band:
    name, source = content.pop("name", None), content.pop("source", None)
    if source not in SOURCES:
        raise BadConfig(
            f"suite {suite}: source {source!r} does not exist", remedy=f"choose one of {', '.join(SOURCES)}"
        )
    options = _fill(SOURCES[source].Options, content, where=f"suite {suite}, band {name!r}")
    return _fill(Band, {"name": name, "source": source, "options": options}, where=f"suite {suite}")


def _environment(suite: str, content: Any) -> Surroundings | None:
    if content is None:
        return None
    name = content.pop("name", None) if isinstance(content, dict) else None
    if name not in ENVIRONMENTS:
        raise BadConfig(
            f"suite {suite}: environment {name!r} does not exist", remedy=f"choose one of {', '.join(ENVIRONMENTS)}"
        )
    return Surroundings(name, _fill(ENVIRONMENTS[name].Options, content, where=f"suite {suite}, environment"))


def _fill(kind: type, content: dict[str, Any], *, where: str) -> Any:
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(content.keys() - known):
        raise BadConfig(f"{where}: unknown key {unknown[0]!r}", remedy=f"the keys are {', '.join(sorted(known))}")
    for key, value in content.items():
        wanted = get_origin(hints[key]) or hints[key]
        fits = wanted is Any or isinstance(value, (int, float) if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise BadConfig(f"{where}: {key} is {value!r}, not {wanted.__name__}", remedy="correct its value")
    must = {name for name, field in known.items() if field.default is field.default_factory is MISSING}
    if missing := sorted(must - content.keys()):
        raise BadConfig(f"{where} has no {' and no '.join(missing)}", remedy="add what is missing")
    try:
        return kind(**content)
    except BadConfig as error:
        raise BadConfig(f"{where}: {error.culprit}", remedy=error.remedy) from error


def more_tasks(suite: Suite, split: str) -> str:
    """What to change in the file of a suite that has no tasks of a split."""
    ways: dict[str, list[str]] = {}
    for band in suite.bands:
        ways.setdefault(SOURCES[band.source].MORE[split], []).append(band.name)
    return ", or ".join(f"in band {' or '.join(names)} {way}" for way, names in ways.items())


def suite_tasks(suite: Suite) -> pl.DataFrame:
    """The suite's tasks in the columns of their table.

    A train task that asks what a held-out task asks is left out, so that nothing evaluated was trained on; a warning
    says how many. The others keep the numbers their sources gave them.

    Raises:
        BadInput, BadConfig: a source cannot be read.
    """
    tasks = pl.DataFrame(list(_task_rows(suite)), schema=column_types(Tasks), orient="row")
    held_out = tasks.filter(split="held_out")["question"]
    apart = tasks.filter((pl.col("split") == "held_out") | ~pl.col("question").is_in(held_out.implode()))
    if left_out := tasks.height - apart.height:
        _LOG.warning("suite %s: %d train tasks ask what a held-out task asks and are left out", suite.name, left_out)
    return apart


def _task_rows(suite: Suite) -> Iterator[dict[str, Any]]:
    for rank, band in enumerate(suite.bands):
        source, numbers = SOURCES[band.source], dict.fromkeys(SPLITS, 0)
        for row in source.read(band.options, base=suite.base):
            number = numbers[row.split]
            numbers[row.split] += 1
            yield {
                "task": f"{suite.name}/{band.name}/{row.split}/{number:06d}",
                "suite": suite.name,
                "band": band.name,
                **row._asdict(),
                "verifier": source.VERIFIER,
                "difficulty": float(rank),
            }

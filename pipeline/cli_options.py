"""Turns the fields of a stage's configuration into options of its command, and options back into it.

Knows no stage. A default stands in the configuration's class alone; so does what a field means.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import shutil
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from pipeline.errors import BadConfig, StoreFull
from pipeline.settings import place_named
from pipeline.store.files import is_url


class Registry(NamedTuple):
    """Where the words a field may hold are listed: a dict, a tuple or a Literal."""

    module: str
    name: str


CHOICES: dict[str, Registry] = {
    "engine": Registry("pipeline.generation.engines", "ENGINES"),
    "method": Registry("pipeline.credit", "METHODS"),
    "labeller": Registry("pipeline.labels", "LABELLERS"),
    "judge": Registry("pipeline.judges", "JUDGES"),
    "strategy": Registry("pipeline.trees.growth", "FROM_PROMPT"),
    "rule": Registry("pipeline.trees.growth", "FROM_TREE"),
    "order": Registry("pipeline.generation.scheduler", "ORDERS"),
    "clone": Registry("pipeline.variants.intervene", "Clone"),
}
"""Fields, and the options common to all stages, whose words are listed somewhere; imported on use."""


class _Reader(NamedTuple):
    """How a value of a field is read from the command line."""

    type: type
    many: bool = False
    words: tuple[str, ...] = ()


class Parser(argparse.ArgumentParser):
    """Refuses in one line; spells options in full."""

    def __init__(self, **settings: Any):
        wide = partial(argparse.HelpFormatter, max_help_position=30)
        super().__init__(**settings, allow_abbrev=False, formatter_class=wide)

    def error(self, message: str) -> NoReturn:
        raise BadConfig(message, remedy=f"see {self.prog} --help")


def add_commands(
    parser: Parser, groups: Mapping[str, Sequence[str]], summaries: Mapping[str, str]
) -> dict[str, Parser]:
    """Add commands, which the help lists under headings.

    Args:
        groups: names of commands by heading, in the order of the list.
        summaries: what each command does, by name.

    Returns:
        The parsers of the commands.
    """
    wide = max(map(len, summaries)) + 4
    lines = textwrap.TextWrapper(shutil.get_terminal_size().columns - 2, subsequent_indent=" " * wide)
    parts = []
    for heading, names in groups.items():
        parts += [f"{heading}:", *(lines.fill(f"{f'  {name}':<{wide}}{summaries[name]}") for name in names), ""]
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} COMMAND ..."
    parser.epilog = "\n".join(parts)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    added = parser.add_subparsers(prog=parser.prog, help=argparse.SUPPRESS)
    return {name: added.add_parser(name, description=_sentence(summary)) for name, summary in summaries.items()}


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def read_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str], *, command: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    """The options that the arguments spell.

    Args:
        command: parser of the command among the arguments, if there are commands and one was named.

    Raises:
        BadConfig: an argument is not understood; names the closest option.
    """
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        spoken = command or parser
        known = re.findall(r"--[\w-]+", spoken.format_usage())
        raise BadConfig(
            f"{unknown[0]!r} is not understood", remedy=f"{closest(unknown[0], known)}see {spoken.prog} --help"
        )
    return options


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the store is."""
    parser.add_argument(
        "--store",
        type=_store_place,
        metavar="DIR",
        help="folder or URL of the store; default BRANCHPOINT_STORE or ./store",
    )


def add_engine_option(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add the option that says what generates; `check_choice` is for its part before a colon."""
    help = f"{'|'.join(choices('engine'))}, served:URL,...; default {default}"
    parser.add_argument("--engine", default=default, metavar="NAME", help=help)


def _store_place(text: str) -> Path | str:
    if not text.strip():
        raise BadConfig("--store names nothing", remedy="give a folder or URL, or leave --store out")
    return place_named(text)


def closest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? ` where something known is close to the word, else nothing."""
    known = list(known)
    begun = [name for name in known if word and name.startswith(word)]
    found = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}? " if found else ""


def check_choice(what: str, word: str, known: Iterable[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        BadConfig: names the closest.
    """
    known = list(known)
    if word not in known:
        raise BadConfig(
            f"{what} {word!r} does not exist", remedy=f"{closest(word, known)}choose one of {', '.join(known)}"
        )


def check_suite(suite: str, *, folder: Path) -> None:
    """Refuse the name of a suite that is neither embedded nor in the folder of suites; the path of a file passes.

    Raises:
        BadConfig: names the closest.
    """
    from pipeline.tasks.suites import suite_names

    if not suite.endswith(".toml"):
        check_choice("suite", suite, suite_names(folder))


def check_store(store: Path | str) -> None:
    """Refuse a store that cannot be written before anything is paid for.

    Raises:
        BadConfig: a file is in its place, or in that of a folder above it; or it is half a URL.
        StoreFull: nothing can be written there.
    """
    folder = str(store).removeprefix("file://")
    if is_url(folder):
        return
    store = Path(folder)
    above = store.absolute()
    while not os.path.lexists(above):
        above = above.parent
    remedy = "choose another store with --store or BRANCHPOINT_STORE"
    if re.match(r"\w+:", str(store)):
        raise BadConfig(f"store {store} is neither a folder nor a URL", remedy="write a URL as s3://bucket/folder")
    if not above.is_dir():
        raise BadConfig(f"store {store} cannot be: {above} is not a folder", remedy=remedy)
    try:
        TemporaryDirectory(dir=above).cleanup()
    except OSError as error:
        raise StoreFull(f"store {store} cannot be written: {above}: {error.strerror}", remedy=remedy) from error


def choices(name: str) -> tuple[str, ...]:
    """The words a field or common option may hold; empty where any will do."""
    if name not in CHOICES:
        return ()
    found = getattr(import_module(CHOICES[name].module), CHOICES[name].name)
    return get_args(found) or tuple(found)


def add_config_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add an option a field of a configuration whose fields all have defaults."""
    group = parser.add_argument_group("options of this stage")
    defaults, hints, meanings = config(), get_type_hints(config), _meanings(config)
    for field in sorted(fields(config), key=lambda field: field.kw_only):  # what stages share comes last
        default, reader = getattr(defaults, field.name), _reader(field.name, hints[field.name])
        shown = " ".join(map(str, default)) if reader.many else default
        parts = (
            meanings.get(field.name, ""),
            ", ".join(reader.words),
            f"default {'none' if shown in ('', None) else shown}",
        )
        settings: dict[str, Any] = {
            "dest": _dest(field.name),
            "default": default,
            "help": "; ".join(part for part in parts if part).replace("%", "%%"),
        }
        flag = "--" + field.name.replace("_", "-")
        if reader.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
        else:
            settings["metavar"] = "NAME" if reader.words else reader.type.__name__.upper()
            kind = _finite if reader.type is float else reader.type
            group.add_argument(flag, type=kind, nargs="+" if reader.many else None, **settings)


def read_config(options: argparse.Namespace, config: type) -> Any:
    """The configuration that the options spell.

    Raises:
        BadConfig: a value is none of the words its field may hold; names the closest.
    """
    hints, values = get_type_hints(config), {}
    for field in fields(config):
        value, reader = getattr(options, _dest(field.name)), _reader(field.name, hints[field.name])
        for word in (value if reader.many else (value,)) if reader.words and value else ():
            check_choice(field.name, word, reader.words)
        values[field.name] = tuple(value) if reader.many else value
    return config(**values)


def _finite(text: str) -> float:
    """A number; NaN passes every check of a range, and infinity many."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def _dest(field: str) -> str:
    """Where a field's value lies in the namespace, apart from the options common to all."""
    return f"config.{field}"


def _reader(name: str, hint: Any) -> _Reader:
    words = choices(name)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return _reader(name, get_args(hint)[0])._replace(many=True)
    if get_origin(hint) is Literal:
        return _Reader(str, words=get_args(hint))
    return _Reader(hint, words=words)


def _meanings(config: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields, written `field: meaning.` one after another."""
    names = "|".join(re.escape(field.name) for field in fields(config))
    found = {}
    for one in reversed(config.__mro__[:-1]):
        said = (one.__doc__ or "").partition("Raises:")[0]
        parts = re.split(rf"(?:^|(?<=\s))({names}):\s", " ".join(said.split()))
        found |= {name: text.strip().rstrip(".") for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    return found

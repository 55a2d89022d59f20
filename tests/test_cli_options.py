"""Options made from a configuration, refusals that commands share, the progress line and the report."""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pipeline import cli_progress
from pipeline.cli_options import (
    Parser,
    add_config_options,
    check_store,
    check_suite,
    closest,
    read_config,
    read_options,
)
from pipeline.errors import BadConfig, StoreFull
from pipeline.report import Progress, Report
from pipeline.show import report_lines


@dataclass(frozen=True, slots=True)
class Config:
    """count: things, 100 % of them. words: some.
    pick: one of two."""

    count: int = 2
    share: float = 0.5
    strict: bool = True
    limit: int | None = None
    words: tuple[str, ...] = ("a", "b")
    pick: Literal["left", "right"] = "left"
    per_task: int = 1


def parse(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    add_config_options(parser, Config)
    return read_config(parser.parse_args(arguments), Config)


def test_config_options():
    assert parse() == Config()
    spelt = [
        "--count",
        "3",
        "--share",
        "1",
        "--no-strict",
        "--limit",
        "4",
        "--words",
        "c",
        "--pick",
        "right",
        "--per-task",
        "0",
    ]
    assert parse(*spelt) == Config(3, 1.0, False, 4, ("c",), "right", 0)
    with pytest.raises(BadConfig, match="pick 'rihgt' does not exist; did you mean 'right'"):
        parse("--pick", "rihgt")


def test_config_help():
    parser = argparse.ArgumentParser()
    add_config_options(parser, Config)
    text = " ".join(parser.format_help().split())
    assert "--count INT things, 100 % of them; default 2" in text
    assert "--words STR [STR ...] some; default a b" in text
    assert "--pick NAME one of two; left, right; default left" in text
    assert "--limit INT default none" in text
    assert text.endswith("--per-task INT default 1")


@dataclass(frozen=True)
class Longer(Config):
    """What comes before the fields is of the class.

    more: of it.

    Raises:
        BadConfig: never.
    """

    more: int = 1


def test_config_help_of_a_class_with_a_base():
    parser = argparse.ArgumentParser()
    add_config_options(parser, Longer)
    text = " ".join(parser.format_help().split())
    assert "--pick NAME one of two; left, right; default left" in text
    assert "--more INT of it; default 1" in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """price: of it."""

    price: float = 0.0


@dataclass(frozen=True, slots=True)
class Own(Shared):
    """count: of things."""

    count: int = 2


def test_options_of_a_shared_part_come_last():
    parser = argparse.ArgumentParser()
    add_config_options(parser, Own)
    text = " ".join(parser.format_help().split())
    assert text.endswith("--count INT of things; default 2 --price FLOAT of it; default 0.0")
    assert read_config(parser.parse_args(["--price", "1"]), Own) == Own(2, price=1.0)


@pytest.mark.parametrize(("word", "said"), [("rolouts", "rollouts"), ("ro", "rollouts"), ("zzz", None), ("", None)])
def test_closest(word, said):
    assert closest(word, iter(["tasks", "rollouts"])) == (f"did you mean {said!r}? " if said else "")


def progress(what: str, done: int, **others) -> Progress:
    return Progress("rollouts", what, done, 8, **({"tokens": 0, "reused": 0, "seconds": 3.2} | others))


def test_progress_without_a_terminal(monkeypatch):
    said = io.StringIO()
    with cli_progress.progress_on(said) as on_progress:
        on_progress(progress("shards", 1))
        on_progress(progress("requests", 1, seconds=15.0))
        assert said.getvalue() == ""
        monkeypatch.setattr(cli_progress, "EVERY_SECONDS", 0.0)
        on_progress(progress("requests", 4, tokens=1234, reused=2, seconds=30.0))
        on_progress(progress("attempts", 4)._replace(stage="verdicts"))
    counted = "rollouts: 1/8 shards, 4/8 requests (2 from the ledger), 1,234 tokens, 41 a second"
    assert said.getvalue() == f"{counted}, 30 s, about 0:00:20 left\nverdicts: 4/8 attempts, 3 s\n"


def test_progress_without_an_end(monkeypatch):
    monkeypatch.setattr(cli_progress, "EVERY_SECONDS", 0.0)
    said = io.StringIO()
    with cli_progress.progress_on(said) as on_progress:
        on_progress(progress("steps", 1)._replace(total=10**20))
        on_progress(progress("steps", 2, seconds=15.0)._replace(total=10**20))
    assert said.getvalue().endswith("15 s\n")


def test_the_bar_follows_what_is_furthest_from_done_among_what_has_an_end():
    counts = cli_progress.Counts()
    counts.add(progress("requests", 4, seconds=0.0)._replace(total=0))
    assert counts.furthest_from_done() is None
    for count in (progress("shards", 8), progress("trees", 1, seconds=2.0), progress("trees", 2, seconds=4.0)):
        counts.add(count)
    counts.add(progress("requests", 90, seconds=4.0)._replace(total=0))
    assert counts.furthest_from_done() == progress("trees", 2, seconds=4.0)
    assert counts.describe() == "rollouts: 90 requests, 8/8 shards, 2/8 trees, 4 s, about 0:00:12 left"


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_on_a_terminal(monkeypatch, quiet):
    monkeypatch.setenv("TERM", "xterm")
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: True)
    with cli_progress.progress_on(said, quiet=quiet) as on_progress:
        on_progress(progress("requests", 4))
    assert ("rollouts: 4/8 requests, 3 s" in said.getvalue()) != quiet


def command() -> tuple[Parser, Parser]:
    parser = Parser(prog="tool")
    one = parser.add_subparsers(required=True).add_parser("one")
    one.add_argument("--suite")
    return parser, one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "--siute", "x"], "'--siute' is not understood; did you mean '--suite'[?] see tool one --help"),
        (["one", "--suit", "x"], "'--suit' is not understood; did you mean '--suite'[?]"),
        (["one", "--suite"], "argument --suite: expected one argument; see tool one --help"),
        ([], "required: {one}; see tool --help"),
    ],
)
def test_read_options(arguments, message):
    parser, one = command()
    assert read_options(parser, ["one", "--suite", "x"], command=one).suite == "x"
    with pytest.raises(BadConfig, match=message):
        read_options(parser, arguments, command=one)


def test_check_suite(tmp_path):
    (tmp_path / "mine.toml").touch()
    for known in ("mine", "chain_sum", "anywhere/else.toml"):
        check_suite(known, folder=tmp_path)
    with pytest.raises(BadConfig, match=r"'mnie' does not exist; did you mean 'mine'[?] choose one of .*, mine"):
        check_suite("mnie", folder=tmp_path)


def test_check_store(tmp_path):
    (tmp_path / "file").touch()
    for good in (tmp_path, tmp_path / "new" / "store"):
        check_store(good)
    for bad in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(BadConfig, match="file is not a folder; choose another store with --store or BRANCHPOINT_S"):
            check_store(bad)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(StoreFull, match=r"cannot be written: /proc: .*; choose another store"):
        check_store(Path("/proc/store"))


def test_report_tells_counts_from_shares():
    numbers = {"tokens": 1234567, "pass_rate": 1.0, "mean_k": 3.25, "none": 0.0, "little": 0.0001}
    report = Report("trees", "mine", "r0", {"nodes": 12345}, numbers, 1, 3, 2.0, notes=("nothing\nheld out",))
    assert list(report_lines(report)) == [
        "trees of suite mine, round r0",
        "  nodes                12,345 rows",
        "  tokens               1,234,567",
        "  pass_rate            1.000",
        "  mean_k               3.250",
        "  none                 0.000",
        "  little               1.0e-04",
        "  shards               1 written now, 2 already current",
        "  seconds              2.0",
        "  nothing\\nheld out",
    ]

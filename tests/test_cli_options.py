"""Options made from a configuration, and the progress line."""

import argparse
import io
from dataclasses import dataclass
from typing import Literal

import pytest

from pipeline import cli_progress
from pipeline.cli_options import add_config_options, closest, read_config
from pipeline.errors import BadConfig
from pipeline.report import Progress


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
    assert "--pick NAME one of two; left|right; default left" in text
    assert "--limit INT default none" in text


@pytest.mark.parametrize(("word", "said"), [("rolouts", "rollouts"), ("ro", "rollouts"), ("zzz", None), ("", None)])
def test_closest(word, said):
    assert closest(word, iter(["tasks", "rollouts"])) == (f"did you mean {said!r}? " if said else "")


def progress(what: str, done: int, **others) -> Progress:
    return Progress("rollouts", what, done, 8, **({"tokens": 0, "reused": 0, "seconds": 3.2} | others))


def test_progress_without_a_terminal(monkeypatch):
    said = io.StringIO()
    with cli_progress.progress_on(said) as on_progress:
        on_progress(progress("shards", 1))
        assert said.getvalue() == ""
        monkeypatch.setattr(cli_progress, "EVERY_SECONDS", 0.0)
        on_progress(progress("requests", 4, tokens=1234, reused=2, seconds=31.0))
    assert said.getvalue() == "rollouts: 1/8 shards, 4/8 requests (2 from the ledger), 1,234 tokens, 31 s\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_on_a_terminal(monkeypatch, quiet):
    monkeypatch.setenv("TERM", "xterm")
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: True)
    with cli_progress.progress_on(said, quiet=quiet) as on_progress:
        on_progress(progress("requests", 4))
    assert ("rollouts: 4/8 requests, 3 s" in said.getvalue()) != quiet

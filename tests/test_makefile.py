"""What `make` installs and when, with a Python that only pretends to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRETENDER = """#!/bin/bash
# Stands for the system's python, and for python, pip and the demo of the environment it makes.
name=$(basename "$0")
echo "$name $*" >> calls.log
if [ "$2" = venv ]; then
    [ "$3" = --clear ] && rm -rf .venv
    mkdir -p .venv/bin
    for tool in python pip branchpoint-demo; do cp "$0" .venv/bin/$tool; done
elif [ "$1" = -c ]; then
    echo "a warning of some library" >&2
    [ ! -e broken ] || { echo "ImportError: libcudart.so.12" >&2; exit 1; }
    echo "      torch 2"
fi
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "pretender").write_text(PRETENDER)
    (tmp_path / "pretender").chmod(0o755)
    return tmp_path


def make(place: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """The outcome of `make demo`, and what it called meanwhile."""
    (place / "calls.log").write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "demo", "PYTHON=./pretender", *arguments], cwd=place, env=environment, capture_output=True, text=True
    )
    return done, (place / "calls.log").read_text().splitlines()


def installed(calls: list[str]) -> list[str]:
    """The extras that pip was asked for."""
    return [call.split("'")[0].split(".[")[1].split(",")[0] for call in calls if ".[" in call]


def test_each_engine_is_installed_once_and_anew_when_it_changes(place: Path):
    done, calls = make(place)
    assert done.returncode == 0, done.stderr
    assert installed(calls) == ["cpu"]
    assert "pretender -m venv .venv" in calls
    assert make(place)[1] == ["branchpoint-demo "]
    done, calls = make(place, "ENGINE=gpu")
    assert installed(calls) == ["gpu"]
    assert "pretender -m venv --clear .venv" in calls
    assert make(place, "ENGINE=gpu")[1] == ["branchpoint-demo "]
    assert make(place)[1] == ["branchpoint-demo "]
    assert installed(make(place, "ENGINE=cpu")[1]) == ["cpu"]


def test_imports_are_quiet_unless_they_fail(place: Path):
    (place / "broken").touch()
    done, calls = make(place)
    assert done.returncode != 0
    assert "ImportError: libcudart.so.12" in done.stderr
    assert "branchpoint-demo " not in calls
    (place / "broken").unlink()
    done, calls = make(place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch 2" in done.stdout
    assert calls[-1] == "branchpoint-demo "


def test_a_half_made_environment_of_the_other_engine_is_emptied(place: Path):
    (place / "broken").touch()
    make(place, "ENGINE=gpu")
    (place / "broken").unlink()
    assert "pretender -m venv --clear .venv" in make(place, "ENGINE=cpu")[1]


def test_an_engine_there_is_not(place: Path):
    done, calls = make(place, "ENGINE=tpu")
    assert done.returncode != 0
    assert 'ENGINE is "tpu"; choose cpu or gpu' in done.stderr
    assert calls == []

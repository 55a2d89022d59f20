"""The six rules of the house that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "pipeline", "trainers", "assets")
HEAVY = {"torch", "vllm", "transformers", "trl", "peft", "accelerate", "tokenizers"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, *, anywhere: bool) -> set[str]:
    """Top-level names of the modules a file imports: anywhere in it, or only when it is itself imported."""
    tree = ast.parse(path.read_text())
    found = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if anywhere or not (inside or typing_only):
            pending.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
class TestFile:
    def test_imports_only_to_the_left(self, path: Path):
        own = PACKAGES.index(path.relative_to(ROOT).parts[0])
        assert not imports(path, anywhere=True) & set(PACKAGES[own + 1 :])

    def test_dagster_at_the_edge(self, path: Path):
        if path.relative_to(ROOT).parts[0] != "assets":
            assert "dagster" not in imports(path, anywhere=True)

    def test_heavy_libraries_are_declared(self, path: Path):
        declared = (ast.get_docstring(ast.parse(path.read_text())) or "").startswith("Heavy:")
        assert declared or not imports(path, anywhere=False) & HEAVY

    def test_small(self, path: Path):
        assert path.read_text().count("\n") <= 400

    def test_no_drawer(self, path: Path):
        assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc"}

    def test_says_what_it_is(self, path: Path):
        text = path.read_text()
        assert not text.strip() or ast.get_docstring(ast.parse(text)), "no module docstring"


@pytest.mark.parametrize("module", ["assets.definitions", "pipeline.cli", "trainers.cli"])
def test_nothing_heavy_on_import(module: str):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {sorted(HEAVY | {'datasets'})!r}))"
    code = code.replace(repr(sorted(HEAVY | {"datasets"})), f"set({sorted(HEAVY | {'datasets'})!r})")
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

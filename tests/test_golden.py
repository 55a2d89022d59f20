"""The methods against reference vectors, most of them from their authors' code; and the command that runs them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.golden import GOLDEN
from pipeline.golden.compare import Tolerance, compare, plain
from pipeline.golden.run import run_case

FOLDER = Path(__file__).parent / "golden"
EXACT = Tolerance(rtol=0, atol=0)
CASES = [
    pytest.param(name, place, id=f"{name}: {case['name']}")
    for name in GOLDEN
    for place, case in enumerate(json.loads((FOLDER / f"{name}.json").read_text())["cases"])
]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_vector(name, place):
    vectors = json.loads((FOLDER / f"{name}.json").read_text())
    tolerance = vectors["tolerance"]
    both = tolerance if isinstance(tolerance, dict) else {"rtol": tolerance, "atol": tolerance}
    _, difference = run_case(import_module(GOLDEN[name]), vectors["cases"][place], Tolerance(**both))
    assert difference is None


@pytest.mark.parametrize(
    "name",
    [
        "attention_rhythm",
        "capo",
        "clip_delta",
        "hicra",
        "implicit_prm",
        "ma_rlhf",
        "pure",
        "tp_grpo",
        "trust_grpo",
    ],
)
def test_what_a_method_does_not_know_is_not_looked_at(name):
    module = import_module(GOLDEN[name])
    for case in json.loads((FOLDER / f"{name}.json").read_text())["cases"]:
        more = case | {"params": case["params"] | {"remark": "x"}, "input": case["input"] | {"remark": "x"}}
        assert run_case(module, more, Tolerance(rtol=1e-6, atol=1e-7))[1] is None


class TestCompare:
    @pytest.mark.parametrize(
        ("expected", "found"),
        [
            pytest.param({"a": 1}, {"a": 1.0, "b": 2}, id="more at the top, a whole number"),
            pytest.param({"a": None}, {"a": float("nan")}, id="null is not a number"),
            pytest.param({"a": [1, None]}, {"a": np.array([1.0, np.nan])}, id="an array"),
            pytest.param({"a": {"1": True}}, {"a": {1: np.True_}}, id="keys are text"),
            pytest.param({"a": {}}, {"a": {}}, id="empty"),
        ],
    )
    def test_alike(self, expected, found):
        assert compare(plain(expected), plain(found), EXACT) == (0, None)

    @pytest.mark.parametrize(
        ("expected", "found", "field"),
        [
            pytest.param({"a": 1}, {}, "a", id="missing"),
            pytest.param({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, "a.c", id="more inside"),
            pytest.param({"a": [1, 2]}, {"a": [1]}, "a (entries)", id="shorter"),
            pytest.param({"a": [1]}, {"a": [1, 2]}, "a (entries)", id="longer"),
            pytest.param({"a": True}, {"a": 1}, "a", id="a truth is no number"),
            pytest.param({"a": 0.0}, {"a": None}, "a", id="zero is not null"),
            pytest.param({"a": None}, {"a": 0.0}, "a", id="null is not zero"),
            pytest.param({"a": "x"}, {"a": "y"}, "a", id="text"),
            pytest.param({"a": 1}, {"a": float("inf")}, "a", id="infinite"),
            pytest.param({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, "a[0].b", id="deep"),
        ],
    )
    def test_different(self, expected, found, field):
        assert compare(plain(expected), plain(found), Tolerance(1e-6, 1e-6)).different.field == field

    def test_largest_error(self):
        found = compare({"a": 1.0, "b": [2.0]}, {"a": 1.25, "b": [2.5]}, Tolerance(1, 1))
        assert found == (0.5, None)


class TestCommand:
    def test_all_pass(self, tmp_path, capsys):
        (tmp_path / "x.json").write_text((FOLDER / "spo_tree.json").read_text())
        assert main(["golden", str(tmp_path), "--json"]) == 0
        ran = json.loads(capsys.readouterr().out)
        assert (ran["file"], ran["method"], ran["passed"], ran["failed"]) == ("x.json", "spo_tree", 6, 0)
        assert ran["largest_error"] < 1e-6

    def test_names_the_case_and_the_field(self, tmp_path, capsys):
        vectors = json.loads((FOLDER / "spo_tree.json").read_text())
        name, value = next(iter(vectors["cases"][2]["expected"]["value"].items()))
        vectors["cases"][2]["expected"]["value"][name] = value + 1
        (tmp_path / "x.json").write_text(json.dumps(vectors))
        assert main(["golden", str(tmp_path), "--json"]) == 1
        ran = json.loads(capsys.readouterr().out)
        assert (ran["passed"], ran["failed"], ran["failing"]) == (5, 1, vectors["cases"][2]["name"])
        assert ran["difference"].startswith(f"value.{name} is ")

    def test_a_case_without_what_the_method_needs_fails(self, tmp_path, capsys):
        case = {"name": "bare", "params": {}, "input": {}, "expected": {}}
        (tmp_path / "x.json").write_text(json.dumps({"method": "spo_tree", "cases": [case]}))
        assert main(["golden", str(tmp_path), "--json"]) == 1
        assert "KeyError" in json.loads(capsys.readouterr().out)["difference"]

    def test_an_unknown_method_fails(self, tmp_path, capsys):
        (tmp_path / "x.json").write_text(json.dumps({"method": "alchemy", "cases": []}))
        (tmp_path / "y.json").write_text((FOLDER / "tempo.json").read_text())
        assert main(["golden", str(tmp_path)]) == 1
        assert "alchemy" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            pytest.param("{", "cannot be read as JSON", id="no JSON"),
            pytest.param("[]", "holds no vectors", id="a list"),
            pytest.param('{"method": "tempo", "cases": [{"name": "a"}]}', "lacks case 0: params", id="case cut short"),
            pytest.param('{"method": 3, "cases": []}', "lacks a name in `method`", id="number for a method"),
            pytest.param('{"method": "tempo", "cases": [], "tolerance": "x"}', "holds no vectors", id="tolerance"),
            pytest.param('{"method": "tempo", "cases": [3]}', "holds no vectors", id="case is a number"),
        ],
    )
    def test_bad_files(self, tmp_path, capsys, content, said):
        (tmp_path / "x.json").write_text(content)
        assert main(["golden", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "x.json" in error
        assert error.count("\n") == 1

    def test_no_folder(self, tmp_path, capsys):
        assert main(["golden", str(tmp_path / "none")]) == 2
        assert "there is no folder" in capsys.readouterr().err
        assert main(["golden", str(tmp_path)]) == 2
        assert "holds no *.json" in capsys.readouterr().err

"""ProcessBench: its files are read or refused by row, and F1 has an interval over tasks and seeds."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.metrics.processbench import f1_difference, f1_interval, processbench
from pipeline.metrics.processbench_files import Case, read_processbench

ROW = {"id": "gsm8k-0", "generator": "x", "problem": "1 + 1 =", "steps": ["two", "2"], "label": -1}


class TestFiles:
    def test_kinds(self, tmp_path):
        wrong = {**ROW, "label": 1}
        (tmp_path / "gsm8k.json").write_text(json.dumps([ROW, wrong]))
        (tmp_path / "math.jsonl").write_text(f"{json.dumps(wrong)}\n\n")
        pl.DataFrame([wrong]).write_parquet(tmp_path / "omnimath-00000-of-00001.parquet")
        (tmp_path / "README.md").write_text("not read")
        found = read_processbench(tmp_path)
        assert found[0] == Case("gsm8k", "1 + 1 =", ["two", "2"], -1)
        assert [(case.subset, case.label) for case in found] == [
            ("gsm8k", -1),
            ("gsm8k", 1),
            ("math", 1),
            ("omnimath", 1),
        ]

    @pytest.mark.parametrize(
        ("row", "why"),
        [
            pytest.param({"problem": "?", "label": 0}, "row 1 lacks steps", id="a column is missing"),
            pytest.param("text", "row 1 lacks problem, steps, label", id="no object"),
            pytest.param({**ROW, "label": 2}, "label 2 is the place of none of its 2 steps", id="beyond the steps"),
            pytest.param({**ROW, "label": True}, "label True", id="no number"),
            pytest.param({**ROW, "steps": []}, "there is no step", id="no step"),
            pytest.param({**ROW, "steps": ["two", None]}, "a step is no text", id="no text"),
        ],
    )
    def test_a_row_is_refused_by_name(self, tmp_path, row, why):
        (tmp_path / "math.json").write_text(json.dumps([ROW, row]))
        with pytest.raises(BadInput, match=why):
            read_processbench(tmp_path / "math.json")

    @pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.json", "{}"), ("a.parquet", "x"), ("a.txt", "")])
    def test_a_file_is_refused(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match=name):
            read_processbench(tmp_path / name)

    def test_nothing_there(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.json"):
            with pytest.raises(BadInput, match="holds no file"):
                read_processbench(path)


class TestInterval:
    labels = np.tile([0, -1, 2, -1], 25)
    groups = np.repeat(np.arange(50), 2)

    def predictions(self, share: float, seed: int = 0) -> np.ndarray:
        """Right with such a chance, else one step off."""
        right = np.random.default_rng(seed).random(len(self.labels)) < share
        return np.where(right, self.labels, self.labels + 1).astype(float)

    def test_the_value_is_processbenchs(self):
        said = self.predictions(0.6)
        found = f1_interval(self.labels, said, self.groups)
        assert found.mean == pytest.approx(processbench(self.labels, said).f1 / 100)
        assert 0.02 < found.high - found.low < 0.4
        assert found.low < found.mean < found.high

    def test_several_seeds_are_a_mean(self):
        several = np.stack([self.predictions(0.6, seed) for seed in range(3)])
        each = [processbench(self.labels, said).f1 / 100 for said in several]
        assert f1_interval(self.labels, several, self.groups).mean == pytest.approx(np.mean(each))

    def test_difference(self):
        good, bad = (np.stack([self.predictions(share, seed) for seed in range(3)]) for share in (0.9, 0.3))
        found = f1_difference(self.labels, good, bad, self.groups)
        assert found.low > 0.3
        assert found.mean == pytest.approx(
            f1_interval(self.labels, good, self.groups).mean - f1_interval(self.labels, bad, self.groups).mean
        )
        same = f1_difference(self.labels, good, good, self.groups)
        assert same.low <= same.mean == 0 <= same.high

    def test_one_kind_alone_is_undefined(self):
        assert f1_interval(np.array([-1, -1]), np.array([-1.0, 0.0]), np.array([0, 1])).mean is None
        assert f1_interval(np.array([], int), np.array([]), np.array([], int)) == (None, None, None)

    def test_nothing_right_is_zero(self):
        assert f1_interval(np.array([0, -1]), np.array([1.0, 0.0]), np.array([0, 1])).mean == 0.0

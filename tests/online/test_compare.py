"""Recipes side by side: curves read at equal tokens, and a comparison that is done is only read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scripted_round import Pupil, scripted

from pipeline.errors import BadConfig
from trainers.online.compare import CompareConfig, Curve, compare_recipes, table_of

NAN = float("nan")


def curve(tokens: list[float], passed: list[float]) -> Curve:
    return Curve(np.array(tokens), np.arange(float(len(tokens))), np.array(passed))


def test_curves_are_read_at_equal_tokens():
    curves = {
        ("a", 0): curve([0, 50, 100], [0.2, NAN, 0.4]),
        ("a", 1): curve([0, 100], [0.2, 0.6]),
        ("b", 0): curve([0, 30], [0.2, 0.5]),
    }
    table = table_of(curves, tokens=100)
    at = {(row["recipe"], row["tokens"]): row for row in table.iter_rows(named=True)}
    assert at["a", 50]["pass@1"] == pytest.approx(0.35)
    assert at["a", 100]["pass@1"] == pytest.approx(0.5)
    half = 12.7062047 * np.std([0.4, 0.6], ddof=1) / np.sqrt(2)
    assert at["a", 100]["low"] == pytest.approx(0.5 - half, abs=1e-6)
    assert at["b", 100]["pass@1"] == pytest.approx(0.5)
    assert at["b", 100]["low"] is None


def test_a_comparison_is_a_table_and_a_picture_and_goes_on_where_it_was(tmp_path):
    common = {"tokens": 100, "rounds": 1, "changes": '{"group": 4}', "out": str(tmp_path / "out")}
    with scripted(tmp_path, Pupil()) as work:
        compare_recipes(work, CompareConfig(("grpo", "rloo"), seeds=1, **common))
        made = {
            place: work.store.digest("rl_samples", place) for place in work.store.places("rl_samples", suite="three")
        }
        report = compare_recipes(work, CompareConfig(("grpo", "rloo"), seeds=2, **common))
        assert {place: work.store.digest("rl_samples", place) for place in made} == made
        assert report.rows == {"curves": 4}
        assert {place.round for place in made} == {"grpo-s0-r0", "rloo-s0-r0"}
        alone = CompareConfig(("rloo",), seeds=1, first_seed=1, **common | {"out": str(tmp_path / "alone")})
        digests = {place: work.store.digest("rl_samples", place) for place in work.store.places("rl_samples")}
        assert compare_recipes(work, alone).rows == {"curves": 1}
        assert {place: work.store.digest("rl_samples", place) for place in work.store.places("rl_samples")} == digests
        compare_recipes(replace(work, round="b3"), replace(alone, first_seed=0))
        assert work.store.places("rl_samples", round="rloo-s0-b3")
        with pytest.raises(BadConfig, match="once"):
            compare_recipes(work, CompareConfig(("grpo", "grpo"), seeds=1, **common))
        with pytest.raises(BadConfig, match="gigpo reads state_key, step_reward"):
            compare_recipes(work, CompareConfig(("grpo", "gigpo"), seeds=1, **common | {"out": str(tmp_path / "none")}))
        assert not (tmp_path / "none").exists()
        with pytest.raises(BadConfig, match="no pass@1"):
            compare_recipes(work, CompareConfig(changes='{"eval_samples": 0}'))
    table = pl.read_csv(tmp_path / "out/curves.csv")
    assert set(table["seeds"]) == {2}
    assert table.filter(pl.col("tokens") == 100).height == 2
    assert (tmp_path / "out/curves.png").stat().st_size > 1000
    assert "| rloo | 2 |" in (tmp_path / "out/curves.md").read_text()

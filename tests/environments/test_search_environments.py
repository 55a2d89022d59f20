"""Environments of trees of searches: each branch acts in one of its own, and all are given back."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import polars as pl
import pytest
from environments.played_round import Script, dying
from environments.searching import GROWN, grown

from pipeline.environments.protocol import Observation
from pipeline.environments.tools import ToolEnvironment
from pipeline.errors import BadConfig
from pipeline.stages.episodes import EpisodeConfig


class Counting(ToolEnvironment):
    """Says how many actions were taken in it. What is open is known, and nobody takes two at a time into one."""

    copies = True

    def __init__(self, *made_of):
        super().__init__(*made_of)
        self._made_of, self._taken, self._inside = made_of, 0, threading.Lock()
        Counting.open.add(self)
        Counting.most = max(Counting.most, len(Counting.open))

    @contextmanager
    def _alone(self):
        assert self in Counting.open
        assert self._inside.acquire(blocking=False)
        time.sleep(0.001)
        yield
        self._inside.release()

    def step(self, action):
        with self._alone():
            self._taken += 1
            step = super().step(action)
        if step.observation is None:
            return step
        return step._replace(observation=Observation(f"{step.observation.text} {self._taken}"))

    def copy(self):
        with self._alone():
            if not self.copies:
                return None
            other = Counting(*self._made_of)
            other._taken = self._taken
            return other

    def close(self):
        Counting.open.remove(self)


@pytest.fixture
def counting(monkeypatch):
    Counting.open, Counting.most = set(), 0
    monkeypatch.setattr("pipeline.environments.tools.ToolEnvironment", Counting)
    return monkeypatch


class TestEnvironments:
    def test_each_branch_has_its_own_until_it_ends(self, tmp_path, counting):
        """Three trees, each with two branches of three turns at most."""
        out = grown(tmp_path)
        shown = out.nodes.filter((pl.col("kind") == "prompt") & pl.col("parent").is_not_null())
        taken = shown["text"].str.extract(r"</tool_response> (\d)").cast(pl.Int64)
        assert (taken == shown["turn"]).all()
        assert (out.report.numbers["failed"], Counting.open) == (0, set())
        assert Counting.most <= 3 * 2 * 3

    def test_one_that_cannot_be_copied_goes_the_way_again(self, tmp_path, counting):
        (tmp_path / "copied").mkdir()
        (tmp_path / "gone").mkdir()
        copied = grown(tmp_path / "copied")
        counting.setattr(Counting, "copies", False)
        gone = grown(tmp_path / "gone")
        assert (gone.report.digest, Counting.open) == (copied.report.digest, set())

    def test_one_that_cannot_go_back_is_refused_before_anything_is_asked(self, tmp_path, counting):
        counting.setattr(Counting, "replayable", False)
        with pytest.raises(BadConfig, match="does not say that it is replayable, so no tree grows"):
            grown(tmp_path)
        assert (Script.last.asked, Counting.open) == ([], set())

    @pytest.mark.parametrize("config", [GROWN, EpisodeConfig(group=3)], ids=["trees", "episodes"])
    def test_a_run_that_is_cut_short_gives_all_back(self, tmp_path, counting, config):
        with pytest.raises(KeyboardInterrupt):
            grown(tmp_path, config, kind=dying(after=7))
        assert Counting.most > 0 == len(Counting.open)
        capped = grown(tmp_path, replace(config, most_tokens=300)).report
        assert "the cap of 300 tokens is reached" in capped.notes[0]
        assert not Counting.open

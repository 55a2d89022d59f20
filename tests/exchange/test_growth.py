"""An imported run grows from its middle, where a policy may, and not otherwise."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from exchange.imported import as_lines, bring_in, faults_in, violations
from scripted_round import Pupil, scripted

from pipeline.errors import BadConfig, BadInput
from pipeline.stages.trees import TreeConfig, write_trees

STEPS = ["3 + 4 = 7", "7 - 2 = 5", "5 + 1 = 6", "#### 6"]


def annotated(*texts: str) -> dict:
    """A line of PRM800K on a sum that the pupil can solve."""
    steps = [{"completions": [{"text": text, "rating": 1}], "chosen_completion": 0} for text in texts]
    question = {"problem": "problem: 3 + 4 - 2 + 1", "ground_truth_answer": "6"}
    return {"question": question, "label": {"steps": steps, "finish_reason": "solution"}}


def test_a_rendered_run_is_grown_from_its_steps(tmp_path: Path):
    with scripted(tmp_path, Pupil()) as work:
        bring_in(work, "prm800k", as_lines(tmp_path / "a.jsonl", annotated(*STEPS)), tokens="render")
        assert not violations(work)
        report = write_trees(work, TreeConfig(attempts=1, branches=1))
        nodes = work.store.read("nodes", work.places("nodes"))
        is_new = pl.col("origin") == "branch"
        imported, grown = nodes.filter(~is_new), nodes.filter(is_new)
        assert imported["text"].to_list() == ["problem: 3 + 4 - 2 + 1", *STEPS]
        assert report.numbers["forks"] == 3
        assert set(grown["parent"]) & {1, 2, 3} == {1, 2, 3}
        assert work.store.read("verdicts", work.places("verdicts", stage="trees")).height == 3
        assert not faults_in(work), "what was asked is, token for token, the imported path"


@pytest.mark.parametrize("tokens", ["source", "policy"])
def test_texts_alone_are_not_grown(tmp_path: Path, tokens: str):
    with scripted(tmp_path, Pupil()) as work:
        file = as_lines(tmp_path / "a.jsonl", annotated(*STEPS))
        if tokens == "policy":
            with pytest.raises(BadInput, match="nothing in it"):
                bring_in(work, "prm800k", file, tokens=tokens)
            assert "no token ids" in violations(work)[0][2]
            return
        bring_in(work, "prm800k", file)
        with pytest.raises(BadConfig, match="not of policy"):
            write_trees(work)

"""What records with labels or verdicts on steps bring into the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from exchange.imported import as_lines, bring_in, faults_in, steps, table, work_at
from exchange.records import PREFERENCE, shepherd


def test_math_shepherd(tmp_path: Path):
    work = work_at(tmp_path)
    report = bring_in(work, "math_shepherd", as_lines(tmp_path / "a.jsonl", shepherd("+", "-")))
    assert steps(work) == [
        (0, None, "prompt", "prompt", "2 + 2?"),
        (1, 0, "step", "sample", "Step 1: It is 2 + 2."),
        (2, 1, "step", "sample", "Step 2: So - of course - 4."),
    ]
    labels = table(work, "step_labels").select("node", "labeller", "hard").rows()
    assert labels == [(1, "math_shepherd", True), (2, "math_shepherd", False)]
    assert report.numbers["violations"] == 0
    assert not faults_in(work)


def test_solutions_of_one_question_share_their_beginning(tmp_path: Path):
    other = {name: text.replace("course - 4", "course - 5") for name, text in shepherd("+", "+").items()}
    work = work_at(tmp_path)
    report = bring_in(work, "math_shepherd", as_lines(tmp_path / "a.jsonl", shepherd("-", "-"), other))
    assert [row[:2] for row in steps(work)] == [(0, None), (1, 0), (2, 1), (3, 1)]
    assert report.numbers["conflicts"] == 1, "the shared step is labelled twice, and differently"
    assert table(work, "step_labels")["hard"].to_list() == [False, False, True]


def test_processbench_says_nothing_after_the_first_error(tmp_path: Path):
    row = {"id": "gsm8k-0", "generator": "m", "problem": "q", "steps": ["a", "b", "c"], "label": 1}
    work = work_at(tmp_path)
    bring_in(work, "processbench", as_lines(tmp_path / "a.jsonl", row | {"final_answer_correct": False}))
    labels = table(work, "step_labels").select("node", "labeller", "hard").rows()
    assert labels == [(1, "human", True), (2, "human", False)]
    assert table(work, "verdicts").select("node", "reward").rows() == [(3, 0.0)]


def test_trl_stepwise(tmp_path: Path):
    rows = (
        {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},
        {"prompt": "q", "completions": ["c"], "labels": [0.25]},
    )
    work = work_at(tmp_path)
    bring_in(work, "trl_stepwise", as_lines(tmp_path / "a.jsonl", *rows))
    labels = table(work, "step_labels").select("node", "hard", "soft").rows()
    assert labels == [(1, True, None), (2, False, None), (3, None, 0.25)]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(PREFERENCE, id="texts"),
        pytest.param(
            {
                "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
                "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
            },
            id="chats with the prompt inside",
        ),
    ],
)
def test_trl_preference(tmp_path: Path, row: dict):
    work = work_at(tmp_path)
    bring_in(work, "trl_preference", as_lines(tmp_path / "a.jsonl", row))
    verdicts = dict(table(work, "verdicts").select("node", "reward").iter_rows())
    assert {text: verdicts[node] for node, _, kind, _, text in steps(work) if kind == "step"} == {
        "4": 1.0,
        "5": 0.0,
    }

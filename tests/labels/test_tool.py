"""The labeller `tool` on steps of text and of Python, and GroundedPRM's fusion with what came of the tree."""

import polars as pl
import pytest

from pipeline.labels import LABELLERS
from pipeline.labels.groundedprm import groundedprm
from pipeline.labels.tool import check_step, tool
from schemas import StepLabels

VERDICTS = {"tree": pl.String, "node": pl.Int32, "reward": pl.Float32}


def chain(*attempts: tuple[str, ...]) -> pl.DataFrame:
    """One tree: a question, and attempts of steps."""
    rows = [(None, 0, "prompt", "prompt", "1 + 2 + 3 =")]
    for attempt in attempts:
        above = 0
        for text in attempt:
            rows.append((above, rows[above][1] + 1, "step", "sample", text))
            above = len(rows) - 1
    columns = {"parent": pl.Int32, "depth": pl.Int32, "kind": pl.String, "origin": pl.String, "text": pl.String}
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_row_index("node").cast({"node": pl.Int32})
    ids = pl.lit([1], dtype=pl.List(pl.Int32))
    return frame.with_columns(task=pl.lit("t"), tree=pl.lit("t@r0"), token_ids=ids)


def verdicts(**rewards: float) -> pl.DataFrame:
    rows = [("t@r0", int(node[1:]), reward) for node, reward in rewards.items()]
    return pl.DataFrame(rows, schema=VERDICTS, orient="row")


def by_node(labels: pl.DataFrame, *columns: str) -> dict[int, tuple]:
    return {row["node"]: tuple(row[name] for name in columns) for row in StepLabels.validate(labels).to_dicts()}


def test_steps_by_their_equations():
    nodes = chain(("1 + 2 = 3", "3 + 3 = 7", "#### 7"))
    assert by_node(tool(nodes, verdicts()), "hard", "soft", "tool_exit") == {1: (True, 1.0, 0), 2: (False, 0.0, 1)}
    assert by_node(tool(nodes, verdicts()), "rationale")[2] == ("3 + 3 = 7 does not hold: the left side is 6",)


@pytest.mark.parametrize(
    ("code", "hard", "exit_code"),
    [
        ("assert sum([1, 2, 3]) == 6", True, 0),
        ("assert sum([1, 2]) == 6", False, 1),
        ("while True:\n    pass", None, 124),
        ("x = [0] * 10**10", None, 137),
        ("import os\nos.system('true')", None, 126),
        ("open('/etc/passwd').read()", None, 126),
        ("import socket\nsocket.socket()", None, 126),
    ],
)
def test_steps_of_python_run_in_the_sandbox(code, hard, exit_code):
    nodes = chain((f"Check it:\n```python\n{code}\n```\n1 + 1 = 3",))
    (row,) = tool(nodes, verdicts()).to_dicts()
    assert (row["hard"], row["tool_exit"]) == (hard, exit_code)
    assert row["soft"] == (None if hard is None else float(hard))


def test_a_step_with_nothing_to_check():
    assert check_step("Let us think.") is None
    assert tool(chain(("Let us think.",)), verdicts()).is_empty()


def test_groundedprm_drops_paths_on_which_tool_and_outcome_contradict_each_other():
    right, wrong = ("1 + 2 = 3", "3 + 3 = 6", "#### 6"), ("1 + 2 = 4", "4 + 3 = 8", "#### 8")
    unlucky = ("1 + 2 = 3", "3 + 3 = 6", "#### 7")
    labels = groundedprm(chain(right, wrong, unlucky), verdicts(n3=1.0, n6=0.0, n9=0.0))
    assert by_node(labels, "hard") == {1: (True,), 2: (True,), 3: (True,), 4: (False,), 5: (False,), 6: (False,)}
    assert all(0.5 < soft <= 1 for node, (soft,) in by_node(labels, "soft").items() if node <= 3 and soft is not None)


def test_no_nodes_no_labels():
    for name in ("tool", "groundedprm"):
        assert LABELLERS[name](chain().clear(), verdicts()).is_empty()

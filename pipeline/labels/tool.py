"""Labels by tools: equations in a step are worked out exactly, Python in a step is run in the sandbox.

Runs model code nowhere but there.
"""

from __future__ import annotations

import re

import polars as pl

from pipeline.labels.equations import equations
from pipeline.labels.rows import label_rows
from pipeline.tools.sandbox import run

VERSION = "1"
HOLDS, FAILS = 0, 1
"""Exit codes of the check of equations, as the sandbox's are."""
_CODE = re.compile(r"```(?:python|py)\s*\n(.*?)```", re.DOTALL)
_TOLD = 500


def tool(nodes: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Label the steps of plain rollouts that a tool can check: by their Python, where they have some, else by their
    equations.

    A step is right whose code ends without an error, or whose equations all hold; wrong, whose code raises one, or one
    of whose equations does not hold. Code that was stopped, or asked for what the sandbox withholds, is undecided. A
    step with nothing to check has no row. A step is checked by itself: one that takes up a wrong number, and goes on
    rightly, is right.

    Args:
        nodes: columns `task`, `tree`, `node`, `kind`, `origin`, `text`.
        verdicts: are not looked at.

    Returns:
        Rows of the step_labels table. `soft` is 1 or 0, `tool_exit` the exit code: 0 right, 1 wrong, else undecided.

    Source: GroundedPRM (2025), where Wolfram Alpha answers and a model compares.
    """
    del verdicts
    steps = nodes.filter((pl.col("origin") == "sample") & (pl.col("kind") == "step"))
    said = {text: check_step(text) for text in steps["text"].unique().to_list()}
    known = [(said[text] or (None, None)) for text in steps["text"].to_list()]
    exits, reasons = zip(*known, strict=True) if known else ((), ())
    rows = steps.select("task", "tree", "node").with_columns(
        tool_exit=pl.Series(exits, dtype=pl.Int32), rationale=pl.Series(reasons, dtype=pl.String)
    )
    right = pl.when(pl.col("tool_exit") <= FAILS).then(pl.col("tool_exit") == HOLDS)
    labelled = rows.filter(pl.col("tool_exit").is_not_null()).with_columns(hard=right, soft=right.cast(pl.Float32))
    return label_rows(labelled, labeller="tool", version=VERSION)


def check_step(text: str) -> tuple[int, str] | None:
    """Exit code of the tool on a step, and what it found; None where there is nothing to check."""
    code = "\n".join(_CODE.findall(text))
    if code:
        ran = run(code)
        return ran.exit_code, ran.told[:_TOLD]
    return check_equations(text)


def check_equations(text: str) -> tuple[int, str] | None:
    """As `check_step`, of the equations alone: a function of the text and nothing else."""
    found = equations(text)
    if not found:
        return None
    wrong = next((equation for equation in found if not equation.holds), None)
    if wrong is None:
        return HOLDS, "; ".join(equation.text for equation in found)[:_TOLD]
    value = "" if wrong.value is None else f": the left side is {wrong.value}"
    return FAILS, f"{wrong.text} does not hold{value}"[:_TOLD]

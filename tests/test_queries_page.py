"""Every query of docs/queries.md gives what it says it gives, on a round of a scripted engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted_round import Pupil, run, scripted

from pipeline.store.query import ask, open_database

PAGE = (Path(__file__).parent.parent / "docs" / "queries.md").read_text()
BLOCKS = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ELSEWHERE, HERE = "chain_sum/8x1/train/000000@r0", "three/sums/train/000000@r0"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory):
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        run(work)
        with open_database(work.store) as connection:
            yield connection


def test_the_page_has_queries():
    assert len(BLOCKS) >= 15


@pytest.mark.parametrize("sql", BLOCKS, ids=[" ".join(block.split())[:40] for block in BLOCKS])
def test_query(connection, sql):
    answers = [(answer.columns, list(answer.rows)) for answer in ask(connection, sql.replace(ELSEWHERE, HERE))]
    ((columns, rows),) = answers
    assert rows or "disagreement(" in sql  # none in so small a round
    assert all(column.isidentifier() for column in columns)
    for column, *values in zip(columns, *rows, strict=True):
        assert not values or column == "such_as" or any(value is not None for value in values), column


def test_names_on_the_page_exist(connection):
    sql = (
        "select view_name from duckdb_views() union select table_name from duckdb_tables() "
        "union select function_name from duckdb_functions() where not internal"
    )
    known = {name for answer in ask(connection, sql) for (name,) in answer.rows}
    table = re.search(r"^\| beside the tables.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)[0]
    named = [name for row in re.findall(r"^\|(.*?)\|", table, re.MULTILINE) for name in re.findall(r"`(\w+)", row)]
    assert len(named) >= 12
    assert {name for name in named if name != "task_"} <= known

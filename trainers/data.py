"""Training tables as TRL wants them: the token columns and nothing else, every id as it is stored.

Loads no torch, knows no model: what a policy can take comes in as two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
from datasets import Dataset

from pipeline.errors import BadInput
from pipeline.store.digest import content_digest

PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
PATCH_COLUMNS = ("input_ids", "labels")
IGNORED = -100

PAIR_LENGTH = pl.col("prompt_ids").list.len() + pl.max_horizontal(
    pl.col("chosen_ids").list.len(), pl.col("rejected_ids").list.len()
)
PATCH_LENGTH = pl.col("input_ids").list.len()


def pair_dataset(pairs: pl.DataFrame) -> Dataset:
    """Rows of `pairs` with `prompt_ids`, `chosen_ids` and `rejected_ids`, in the order given."""
    return Dataset.from_polars(_tokens(pairs, PAIR_COLUMNS))


def patch_dataset(patches: pl.DataFrame) -> Dataset:
    """Rows of `patches` with `input_ids` and `labels`, in the order given.

    Raises:
        BadInput: a row trains no token.
    """
    idle = patches.filter((pl.col("labels").list.max() == IGNORED).fill_null(True))
    if len(idle):
        raise BadInput(
            f"{row_name(idle)}: no token is trained, as are {len(idle)} rows of {len(patches)}",
            remedy="labels must repeat the tokens to learn and be -100 elsewhere",
        )
    return Dataset.from_polars(_tokens(patches, PATCH_COLUMNS))


def token_digest(rows: pl.DataFrame, columns: Sequence[str]) -> str:
    """Hex digest of the token columns: what the trainer saw, in the order it was given."""
    table = _tokens(rows, columns).to_arrow()
    return content_digest(table.cast(pa.schema([(name, pa.list_(pa.int32())) for name in columns])))


def check_rows(rows: pl.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table there is nothing to learn from.

    Raises:
        BadInput: a column is missing or there are no rows.
    """
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise BadInput(f"rows to train on lack {', '.join(missing)}", remedy="give the table a builder wrote")
    if rows.is_empty():
        raise BadInput("there are no rows to train on", remedy="build the table first, from more tasks or attempts")


def check_fit(rows: pl.DataFrame, columns: Sequence[str], *, length: pl.Expr, vocabulary: int, positions: int) -> None:
    """Refuse rows which a policy cannot take, before any step is paid.

    Args:
        rows: the table.
        columns: columns of token ids.
        length: tokens the policy reads at once for a row.
        vocabulary: ids the policy has an embedding for.
        positions: tokens the policy reads at most.

    Raises:
        BadInput: names the row, and the id or length that does not fit.
    """
    highest = pl.max_horizontal(*(pl.col(name).list.max() for name in columns))
    foreign = rows.filter(highest >= vocabulary)
    if len(foreign):
        token = foreign.select(highest).item(0, 0)
        raise BadInput(
            f"{row_name(foreign)}: token {token} is outside the policy's vocabulary of {vocabulary}",
            remedy="train the policy that produced the rows, or build them with this policy's tokenizer",
        )
    long = rows.filter(length > positions)
    if len(long):
        raise BadInput(
            f"{row_name(long)}: {long.select(length).item(0, 0)} tokens, the policy has {positions} positions",
            remedy="leave longer rows out (max_length for pairs) or choose a policy with more positions",
        )


def row_name(rows: pl.DataFrame) -> str:
    """How to call the first of these rows in a message."""
    return f"row {rows['row'][0]}" if "row" in rows.columns else "a row"


def _tokens(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    return rows.select(pl.col(name).cast(pl.List(pl.Int32)) for name in columns).rechunk()

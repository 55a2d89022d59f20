"""Training tables as TRL wants them: the token columns and nothing else, every id as it is stored.

Loads no torch, knows no model: what a policy can take comes in as two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from datasets import Dataset

from pipeline.errors import BadConfig, BadInput
from pipeline.store.digest import content_digest

PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
PATCH_COLUMNS = ("input_ids", "labels")
WEIGHTED_COLUMNS = ("input_ids", "weights")
REWARD_COLUMNS = ("prompt_ids", "answer_ids", "rewards")
IGNORED = -100
TRIED_TEXTS = 32
"""Rows of which the text is compared with what their tokens spell."""

PAIR_LENGTH = pl.col("prompt_ids").list.len() + pl.max_horizontal(
    pl.col("chosen_ids").list.len(), pl.col("rejected_ids").list.len()
)
ROW_LENGTH = pl.col("input_ids").list.len()


def pair_dataset(pairs: pl.DataFrame) -> Dataset:
    """Rows of `pairs` with `prompt_ids`, `chosen_ids` and `rejected_ids`, in the order given."""
    return Dataset.from_polars(_tokens(pairs, PAIR_COLUMNS))


def patch_dataset(patches: pl.DataFrame) -> Dataset:
    """Rows of `patches` with `input_ids` and `labels`, in the order given."""
    return Dataset.from_polars(_tokens(patches, PATCH_COLUMNS))


def label_weights(patches: pl.DataFrame) -> pl.DataFrame:
    """Rows of `patches` with `weights`: 1 where a label stands, 0 where it is -100."""
    kept = pl.col("labels").list.eval((pl.element() != IGNORED).cast(pl.Float32))
    return patches.with_columns(weights=kept)


def check_weights(rows: pl.DataFrame, column: str, *, of: str) -> None:
    """Refuse rows with a weight that is no number, or not one a token.

    Args:
        rows: the table.
        column: of a number a token.
        of: column of those tokens.

    Raises:
        BadInput: names the row.
    """
    values = pl.col(column).list
    uneven = rows.filter((values.len() != pl.col(of).list.len()).fill_null(True))
    if len(uneven):
        raise BadInput(
            f"{row_name(uneven)}: {column} are not one for each of {of}", remedy="give every token its number"
        )
    bad = rows.filter(~values.eval(pl.element().is_not_null() & pl.element().is_finite()).list.all())
    if len(bad):
        raise BadInput(
            f"{row_name(bad)}: {column} hold what is no number, as in {len(bad)} rows of {len(rows)}",
            remedy="leave out rows of unknown weight, or give those tokens 0",
        )


def check_trained(rows: pl.DataFrame, column: str, *, idle: float, remedy: str) -> None:
    """Refuse rows that train no token; the first, which nothing comes before, never is one.

    Args:
        rows: the table.
        column: of a label or weight a token.
        idle: what says that a token is not trained.
        remedy: for print.

    Raises:
        BadInput: names the row.
    """
    trained = pl.col(column).list.slice(1).list.eval(pl.element() != idle).list.any()
    found = rows.filter(~trained.fill_null(False))
    if len(found):
        raise BadInput(
            f"{row_name(found)}: no token is trained, as are {len(found)} rows of {len(rows)}", remedy=remedy
        )


def check_spelling(rows: pl.DataFrame, ids: Sequence[str], *, text: str, decode: Callable[[list[int]], str]) -> None:
    """Refuse rows whose tokens spell something else under a policy's tokenizer than their own text.

    The first rows that have a text are looked at, blanks aside; a few may differ, as where a character was cut in two.
    A row may spell more: a prompt before its text, and InT's suffix behind it.

    Args:
        rows: the table.
        ids: columns of token ids, one after the other.
        text: column of what they spell, for people.
        decode: of the policy's tokenizer.

    Raises:
        BadInput: names the first row that differs, where most do.
    """
    if text not in rows.columns:
        return
    tried = rows.filter(pl.col(text).str.strip_chars().str.len_chars() > 0)[:TRIED_TEXTS]
    spelt = tried.select(pl.concat_list(ids)).to_series().to_list()
    differ = [
        place
        for place, (said, tokens) in enumerate(zip(tried[text], spelt, strict=True))
        if "".join(said.split()) not in "".join(decode(tokens).split())
    ]
    if 2 * len(differ) > len(tried):
        row = tried[differ[0]]
        raise BadInput(
            f"{row_name(row)}: its tokens spell {decode(spelt[differ[0]])[-40:]!r}, its text {row[text][0][-40:]!r}",
            remedy="train the policy that produced the rows, or build them with this policy's tokenizer",
        )


def held_out_split(rows: pl.DataFrame, *, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Rows to train on and rows to evaluate on, no task in both; all and None where the share is 0.

    Raises:
        BadConfig: one of them would be empty.
    """
    if not share:
        return rows, None
    numbers = group_numbers(rows, seed=seed)
    count = int(numbers.max()) + 1
    kept = round(share * count)
    if not 0 < kept < count:
        raise BadConfig(
            f"held_out {share} of {count} tasks leaves none on one side", remedy="build rows of more tasks, or set it 0"
        )
    held = numbers < kept
    return rows.filter(~held), rows.filter(held)


def group_numbers(rows: pl.DataFrame, *, seed: int) -> np.ndarray:
    """`[R]` int64: the task of each row as a number; the numbers are drawn, so that their order is. Rows without a
    task are each their own."""
    if "task" not in rows.columns:
        return np.random.default_rng(seed).permutation(len(rows))
    codes = rows["task"].rank("dense").to_numpy().astype(np.int64) - 1
    return np.random.default_rng(seed).permutation(codes.max() + 1)[codes]


def token_digest(rows: pl.DataFrame, columns: Sequence[str]) -> str:
    """Hex digest of the columns of tokens, labels and weights: what the trainer saw, in the order it was given."""
    floats = {name for name in columns if rows.schema[name].inner.is_float()}
    table = rows.select(
        pl.col(name).cast(pl.List(pl.Float32 if name in floats else pl.Int32)) for name in columns
    ).to_arrow()
    kinds = [(name, pa.list_(pa.float32() if name in floats else pa.int32())) for name in columns]
    return content_digest(table.cast(pa.schema(kinds)))


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


def short_rows(rows: pl.DataFrame, *, length: pl.Expr, most: int | None) -> pl.DataFrame:
    """Rows of no more tokens than `most`; all where it is None.

    Raises:
        BadInput: all are longer.
    """
    kept = rows if most is None else rows.filter(length <= most)
    if len(rows) and kept.is_empty():
        raise BadInput(f"all {len(rows)} rows have more than max_length {most} tokens", remedy="raise max_length")
    return kept


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

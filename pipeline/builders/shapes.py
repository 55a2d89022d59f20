"""Tables of training rows in the columns that trainers read: TRL, verl, Math-Shepherd. Pure: rows in, rows out.

What a shape leaves out is stated in its words; token ids are never made from text here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from pipeline.builders.prm_rows import marked_text, stored_row


class Shape(NamedTuple):
    """A form of the rows of a table. about: whose it is and what it leaves out, for print."""

    table: str
    shape: Callable[[pl.DataFrame], pl.DataFrame]
    about: str


IGNORED = -100
_OWN = ("task", "row")
"""Where a row came from; trainers pass over columns they do not know."""


def _dpo(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(*_OWN, "source", "margin", "prompt", "chosen", "rejected")


def _kto(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(*_OWN, "label", "prompt", "completion")


def _sft(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(*_OWN, "prompt", completion="answer")


def _sft_tokens(rows: pl.DataFrame) -> pl.DataFrame:
    # A mask of the completion is heeded by TRL on request alone; labels always are.
    label = pl.when(pl.col("weights") > 0).then("input_ids").otherwise(IGNORED)
    tokens = rows.select(*_OWN, "input_ids", "weights").explode("input_ids", "weights")
    return tokens.group_by(*_OWN, maintain_order=True).agg("input_ids", labels=label)


def _prm(rows: pl.DataFrame) -> pl.DataFrame:
    known = pl.col("hard").list.eval(pl.element().is_not_null().cast(pl.Int32).cum_min()).list.sum()
    return (
        rows.with_columns(known=known)
        .filter(pl.col("known") > 0)
        .select(
            *_OWN,
            "prompt",
            completions=pl.col("steps").list.head(pl.col("known")),
            labels=pl.col("hard").list.head(pl.col("known")),
        )
    )


def _math_shepherd(rows: pl.DataFrame) -> pl.DataFrame:
    texts = [marked_text(stored_row(row)) for row in rows.iter_rows(named=True)]
    plain, labelled = zip(*texts, strict=True) if texts else ((), ())
    return rows.select(*_OWN).with_columns(
        pl.Series("input", plain, pl.String), pl.Series("label", labelled, pl.String)
    )


def _grpo(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("task", "difficulty", "pass_rate", "verifier", "info", "answer", "prompt")


def _verl_prompts(rows: pl.DataFrame) -> pl.DataFrame:
    message = pl.struct(role=pl.lit("user"), content="prompt")
    return rows.select(
        "task",
        data_source="suite",
        prompt=pl.concat_list(message),
        ability="band",
        reward_model=pl.struct(style=pl.lit("rule"), ground_truth="answer"),
        extra_info=pl.struct(split=pl.lit("train"), index="task", verifier="verifier", info="info"),
    )


def _numbers(column: str) -> pl.Expr:
    """Floats of a list with 0 for what is unknown, where nothing is trained."""
    return pl.col(column).list.eval(pl.element().fill_null(0.0))


def _figures() -> dict[str, pl.Expr]:
    mask = pl.col("loss_mask").list.eval(pl.element().cast(pl.Int32))
    return {"mask": mask, "logprobs": _numbers("logprobs"), "advantages": _numbers("advantages")}


def _grpo_batch(rows: pl.DataFrame) -> pl.DataFrame:
    own = _figures()
    return rows.select(
        *_OWN,
        "prompt_ids",
        completion_ids="answer_ids",
        tool_mask=own["mask"],
        sampling_per_token_logps=own["logprobs"],
        advantages=own["advantages"],
    )


def _verl(rows: pl.DataFrame) -> pl.DataFrame:
    own = _figures()
    return rows.select(
        *_OWN,
        "prompt_ids",
        response_ids="answer_ids",
        response_mask=own["mask"],
        response_logprobs=own["logprobs"],
        advantages=own["advantages"],
        reward_score="reward",
        uid=pl.col("group").fill_null(pl.col("tree")),
    )


SHAPES: dict[str, Shape] = {
    "dpo": Shape("pairs", _dpo, "TRL's preference rows, also OpenRLHF's; text, no token ids"),
    "kto": Shape("unpaired", _kto, "TRL's unpaired preferences; text, no token ids"),
    "sft": Shape("sft", _sft, "TRL's prompt and completion; text, no token ids"),
    "sft_tokens": Shape(
        "sft", _sft_tokens, "TRL's rows that are tokens already; labels are -100 where nothing is trained"
    ),
    "prm": Shape("prm_steps", _prm, "TRL's stepwise supervision; an attempt ends before its first undecided step"),
    "math_shepherd": Shape("prm_steps", _math_shepherd, "Math-Shepherd's text; an undecided step keeps its mark"),
    "grpo": Shape("rl_prompts", _grpo, "TRL's prompts; what else a row has goes to the reward function"),
    "grpo_batch": Shape("rl_samples", _grpo_batch, "the columns of a batch of TRL's GRPO, advantages a token"),
    "verl_prompts": Shape("rl_prompts", _verl_prompts, "verl's prompts"),
    "verl": Shape("rl_samples", _verl, "verl's output of an agent loop, advantages a token"),
}
"""Where a token is not trained its log-probability and advantage are 0 in the shapes of samples, and masked."""

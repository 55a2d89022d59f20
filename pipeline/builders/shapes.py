"""Tables of training rows in the columns that trainers read: TRL, verl, PRMs. Pure: rows in, rows out.

What a shape leaves out is stated in its words; token ids are never made from text here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import polars as pl

from pipeline.builders.malt import ROLES
from pipeline.builders.prm_rows import marked_text, stored_row

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


class Told(NamedTuple):
    """What shapes take beside rows.

    separator: closes a step, in text.
    tasks: `task`, `question`, `answer`, `reference_solution`, `tools`, `index` (int64, place in the suite) and `asked`
        (MESSAGES as the policy is sent them; null: it is not asked by the question alone).
    split: that the rows go into.
    """

    separator: str
    tasks: pl.DataFrame
    split: str = "train"


class Shape(NamedTuple):
    """A form of the rows of a table.

    about: whose it is and what it leaves out, for print.
    fits:  which rows it has room for, `[N]` bool; None: all. unfit: under which name the others are counted.
    apart: columns beside the tokens in which rows differ that are not the same row twice.
    """

    table: str
    shape: Callable[[pl.DataFrame, Told], pl.DataFrame]
    about: str
    fits: Callable[[pl.DataFrame, Told], pl.Series] | None = None
    unfit: str = ""
    apart: tuple[str, ...] = ()


IGNORED = -100
_OWN = ("task", "row")
"""Where a row came from; trainers pass over columns they do not know."""


def _dpo(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return rows.select(*_OWN, "source", "margin", _before(told), "chosen", "rejected")


def _kto(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return rows.select(*_OWN, "label", _before(told), "completion")


def _sft(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return rows.select(*_OWN, _before(told), completion="answer")


def _before(told: Told) -> pl.Expr:
    """The text that an answer goes on from: a separator stands between the two, as between steps."""
    return pl.col("prompt") + pl.lit(told.separator)


def _dpo_chat(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return _chat(rows, told, "chosen", "rejected").select(*_OWN, "source", "margin", "prompt", "chosen", "rejected")


def _kto_chat(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return _chat(rows, told, "completion").select(*_OWN, "label", "prompt", "completion")


def _sft_chat(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return _chat(rows, told, "answer").select(*_OWN, "prompt", completion="answer")


def _chat(rows: pl.DataFrame, told: Told, *answers: str) -> pl.DataFrame:
    said = {name: _messages("assistant", pl.col(name)) for name in answers}
    return _with_tasks(rows, told, "asked").with_columns(prompt="asked", **said)


def _messages(role: str, content: pl.Expr) -> pl.Expr:
    """One message."""
    return pl.concat_list(pl.struct(role=pl.lit(role), content=content))


def _with_tasks(rows: pl.DataFrame, told: Told, *columns: str) -> pl.DataFrame:
    return rows.join(told.tasks.select("task", *columns), on="task", how="left", maintain_order="left")


_PLAIN = {"source": ~pl.col("source").is_in(ROLES), "role": pl.col("role").is_null()}
"""By column that says so, which rows answer the task itself and not in a role."""


def _whole(rows: pl.DataFrame, told: Told) -> pl.Series:
    """Whether answers are whole ones, to the task itself as the policy is asked it."""
    own = [test for name, test in _PLAIN.items() if name in rows.columns]
    known = _with_tasks(rows, told, "question", "asked")
    whole = known.select(
        pl.all_horizontal(pl.col("prompt") == pl.col("question"), pl.col("asked").is_not_null(), *own)
    ).to_series()
    return whole & _one_turn(rows, told) if "weights" in rows.columns else whole


def _one_turn(rows: pl.DataFrame, told: Told) -> pl.Series:
    """Whether all that follows the first trained token is trained: nothing was shown in between."""
    trained = pl.element() > 0
    return rows["weights"].list.eval((trained == trained.cum_max()).all()).list.first()


def _sft_tokens(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    # A mask of the completion is heeded by TRL on request alone; labels always are.
    label = pl.when(pl.col("weights") > 0).then("input_ids").otherwise(IGNORED)
    tokens = rows.select(*_OWN, "input_ids", "weights").explode("input_ids", "weights")
    return tokens.group_by(*_OWN, maintain_order=True).agg("input_ids", labels=label)


def _first_known(rows: pl.DataFrame, told: Told, *, labels: str) -> pl.Series:
    return rows[labels].list.first().is_not_null()


def _stepwise(rows: pl.DataFrame, told: Told, *, labels: str) -> pl.DataFrame:
    """Labels of one column, as far as they are known."""
    known = pl.col(labels).list.eval(pl.element().is_not_null().cast(pl.Int32).cum_min()).list.sum()
    return rows.with_columns(known=known).select(
        *_OWN,
        "prompt",
        completions=pl.col("steps").list.head(pl.col("known")),
        labels=pl.col(labels).list.head(pl.col("known")),
    )


def _prm800k(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    rating = (
        pl.when("hard").then(1).when(~pl.col("hard")).then(-1).when(pl.col("soft").is_not_null()).then(0).cast(pl.Int32)
    )
    completion = pl.struct(text="steps", rating=rating, flagged=pl.lit(None, pl.Boolean))
    step = pl.struct(
        completions=pl.concat_list(completion),
        human_completion=pl.lit(None, pl.Struct({"text": pl.String})),
        chosen_completion=pl.lit(0, pl.Int32),
    )
    said = rows.select("row", "steps", "hard", "soft").explode("steps", "hard", "soft")
    steps = said.group_by("row", maintain_order=True).agg(steps=step)
    known = _with_tasks(rows, told, "answer", "reference_solution")
    return known.join(steps.rename({"steps": "rated"}), on="row", how="left", maintain_order="left").select(
        *_OWN,
        labeler="labeller",
        question=pl.struct(
            problem="prompt",
            ground_truth_solution="reference_solution",
            ground_truth_answer=pl.col("answer").replace("", None),
        ),
        label=pl.struct(steps="rated", finish_reason=pl.lit(None, pl.String)),
    )


def _math_shepherd(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    texts = [marked_text(stored_row(row)) for row in rows.iter_rows(named=True)]
    plain, labelled = zip(*texts, strict=True) if texts else ((), ())
    return rows.select(*_OWN).with_columns(
        pl.Series("input", plain, pl.String), pl.Series("label", labelled, pl.String)
    )


def _asked(rows: pl.DataFrame, told: Told) -> pl.Series:
    return _with_tasks(rows, told, "asked")["asked"].is_not_null()


def _grpo(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    known = _with_tasks(rows, told, "asked")
    return known.select("task", "difficulty", "pass_rate", "verifier", "info", "answer", prompt="asked")


def _verl_prompts(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    return _with_tasks(rows, told, "asked", "index", "tools").select(
        "task",
        data_source="suite",
        prompt=pl.coalesce("asked", _messages("user", pl.col("prompt"))),
        ability="band",
        reward_model=pl.struct(style=pl.lit("rule"), ground_truth="answer"),
        extra_info=pl.struct("index", "verifier", "info", "tools", split=pl.lit(told.split)),
    )


def _numbers(column: str) -> pl.Expr:
    """Floats of a list with 0 for what is unknown, where nothing is trained."""
    return pl.col(column).list.eval(pl.element().fill_null(0.0))


def _figures() -> dict[str, pl.Expr]:
    mask = pl.col("loss_mask").list.eval(pl.element().cast(pl.Int32))
    return {"mask": mask, "logprobs": _numbers("logprobs"), "advantages": _numbers("advantages")}


def _grpo_batch(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
    own = _figures()
    return rows.select(
        *_OWN,
        "prompt_ids",
        completion_ids="answer_ids",
        tool_mask=own["mask"],
        sampling_per_token_logps=own["logprobs"],
        advantages=own["advantages"],
    )


def _verl(rows: pl.DataFrame, told: Told) -> pl.DataFrame:
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
    "sft": Shape(
        "sft", _sft, "TRL's prompt and completion; text, no token ids; answers in one turn", _one_turn, "several_turns"
    ),
    "dpo_chat": Shape("pairs", _dpo_chat, "as dpo, in messages; whole answers alone", _whole, "partial"),
    "kto_chat": Shape("unpaired", _kto_chat, "as kto, in messages; whole answers alone", _whole, "partial"),
    "sft_chat": Shape("sft", _sft_chat, "as sft, in messages; whole answers alone", _whole, "partial"),
    "sft_tokens": Shape(
        "sft", _sft_tokens, "TRL's rows that are tokens already; labels are -100 where nothing is trained"
    ),
    "prm": Shape(
        "prm_steps",
        partial(_stepwise, labels="hard"),
        "TRL's stepwise supervision; an attempt ends before its first undecided step",
        partial(_first_known, labels="hard"),
        "undecided",
        ("hard",),
    ),
    "prm_soft": Shape(
        "prm_steps",
        partial(_stepwise, labels="soft"),
        "as prm, each label a chance from 0 to 1; an attempt ends before its first step without",
        partial(_first_known, labels="soft"),
        "undecided",
        ("soft",),
    ),
    "prm800k": Shape(
        "prm_steps",
        _prm800k,
        "PRM800K's annotations, a completion a step, rated 1, -1 or, undecided, 0; unlabelled steps have no rating",
        apart=("labeller", "hard", "soft"),
    ),
    "math_shepherd": Shape(
        "prm_steps", _math_shepherd, "Math-Shepherd's text; an undecided step keeps its mark", apart=("hard",)
    ),
    "grpo": Shape(
        "rl_prompts",
        _grpo,
        "TRL's prompts, in messages as the policy is sent them; what else a row has goes to the reward function",
        _asked,
        "in_environment",
    ),
    "grpo_batch": Shape("rl_samples", _grpo_batch, "the columns of a batch of TRL's GRPO, advantages a token"),
    "verl_prompts": Shape("rl_prompts", _verl_prompts, "verl's prompts; tools as JSON text in extra_info"),
    "verl": Shape("rl_samples", _verl, "verl's output of an agent loop, advantages a token"),
}
"""Where a token is not trained its log-probability and advantage are 0 in the shapes of samples, and masked."""

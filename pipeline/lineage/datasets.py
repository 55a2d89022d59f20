"""How each table of training rows names the nodes it came from, and with which weight its tokens are trained.

Knows no store and no trainer; what a trainer makes of a column is stated here, beside the column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Row = dict[str, Any]
Weights = list[float | None]

MASKED = -100


class Answer(NamedTuple):
    """Tokens of a row that are the path to one of its nodes.

    node:    column with the node.
    ids:     columns of token ids; one after the other they are the path from the node's context down to it.
    weights: of those tokens, in the order of `ids`. 0: not trained; None: unknown, and left out of the loss.
    labels:  column of what is to be predicted, MASKED where nothing is; empty where the tokens themselves are.
    """

    name: str
    node: str
    ids: tuple[str, ...]
    weights: Callable[[Row], Weights]
    labels: str = ""


class Dataset(NamedTuple):
    """A table of training rows. meaning: what a weight is, for print."""

    meaning: str
    answers: tuple[Answer, ...]


def _after_prompt(answer: Callable[[Row], Weights]) -> Callable[[Row], Weights]:
    """0 on the prompt, then the answer's weights."""
    return lambda row: [*([0.0] * len(row["prompt_ids"])), *answer(row)]


def _scored_steps(row: Row) -> Weights:
    """1 where a step is scored and its label is known."""
    weights: Weights = [0.0] * len(row["input_ids"])
    for end, hard, soft in zip(row["step_ends"], row["hard"], row["soft"], strict=True):
        if end < len(weights):
            weights[end] = None if hard is None and soft is None else 1.0
    return weights


def _credited(row: Row) -> Weights:
    """The advantage of what was sampled."""
    return [
        advantage if trained else 0.0 for advantage, trained in zip(row["advantages"], row["loss_mask"], strict=True)
    ]


DATASETS: dict[str, Dataset] = {
    "pairs": Dataset(
        "sign with which DPO's preference takes the token's log-probability, policy less reference",
        (
            Answer(
                "chosen",
                "chosen_node",
                ("prompt_ids", "chosen_ids"),
                _after_prompt(lambda row: [1.0] * len(row["chosen_ids"])),
            ),
            Answer(
                "rejected",
                "rejected_node",
                ("prompt_ids", "rejected_ids"),
                _after_prompt(lambda row: [-1.0] * len(row["rejected_ids"])),
            ),
        ),
    ),
    "token_rewards": Dataset(
        "reward of the token (T-REG)",
        (Answer("answer", "node", ("prompt_ids", "answer_ids"), _after_prompt(lambda row: list(row["rewards"]))),),
    ),
    "unpaired": Dataset(
        "sign of the token in KTO",
        (
            Answer(
                "answer",
                "node",
                ("prompt_ids", "answer_ids"),
                _after_prompt(lambda row: [1.0 if row["label"] else -1.0] * len(row["answer_ids"])),
            ),
        ),
    ),
    "patches": Dataset(
        "weight in the mean log-likelihood (InT); 0 where the label is -100",
        (
            Answer(
                "patch",
                "node",
                ("input_ids",),
                lambda row: [float(label != MASKED) for label in row["labels"]],
                labels="labels",
            ),
        ),
    ),
    "prm_steps": Dataset(
        "1 at the last token of a step, where the step is scored",
        (Answer("attempt", "node", ("input_ids",), _scored_steps),),
    ),
    "rl_samples": Dataset(
        "advantage of the token",
        (Answer("sample", "node", ("prompt_ids", "answer_ids"), _after_prompt(_credited)),),
    ),
    "sft": Dataset(
        "weight of the token's log-likelihood",
        (Answer("answer", "node", ("input_ids",), lambda row: list(row["weights"])),),
    ),
}
"""Tables that `branchpoint why` can walk, by name. A new one is one entry."""

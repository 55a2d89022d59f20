"""What a method costs beyond the plain attempts, by what it looks at and who made that."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.comparison.lines import Figure
from pipeline.credit import labelled
from pipeline.credit.columns import Method

GROWN_BY = {
    "branch": "trees",
    "retry": "retries",
    "guided_retry": "retries",
    **dict.fromkeys(("generate", "verify", "refine"), "roles"),
    "summary": "summaries",
}
"""The stage that must have run for a round to have nodes of an origin; all that it decoded is needed for them. Where
rollouts are trees themselves, theirs count as that stage's."""

PASSES: dict[str, str] = {
    "reference_logprobs": "reference",
    "tuned_logprobs": "tuned",
    "prm_logprobs": "prm",
    "better_logprobs": "better",
    "worse_logprobs": "worse",
    "critic_values": "critic",
    "critic_q": "archer",
    "critic_v": "archer",
    "waad": "attention",
    "fai": "attention",
    "planning": "",
}
"""Scores that `branchpoint-train score` gives, and the forward pass over every token that each comes from: those of one
pass are paid once. Empty: tokens are marked without a model. Not counted are what is done once a round (a critic
trained, heads told apart, phrases mined) and the requests of T-REG that a response is read after."""

READING = ("prm",)
"""Labellers that take passes of a model: over each path anew, how many a token is not kept."""


def decoded_by(name: str, made_from: Mapping[str, str], asking: Collection[str]) -> str | None:
    """The stage that decoded what scores were read from.

    Args:
        name: of an input in the table of scores.
        made_from: what their file says that it was made from.
        asking: stages of the round that have requests.

    Returns:
        Empty: nothing, beside the nodes themselves: a model or a rule read them. None: not known, as of scores from a
        file.
    """
    if judge := made_from.get("judge"):
        return next((stage for stage in (judge, name) if stage in asking), None)  # LaRe asks under its score's name
    if grown := made_from.keys() & {"rollouts", *GROWN_BY.values()}:
        return next(iter(grown - {"rollouts"}), "")
    return "" if name in PASSES and made_from.keys() & {"policy", "critic"} else None


def extra_tokens(
    method: Method, decoded: Mapping[str, float], *, labels: int, scored: Mapping[str, str | None]
) -> float | None:
    """Tokens decoded that a method needs beyond the plain attempts; None: not known.

    Args:
        decoded: tokens that a stage decoded, by stage.
        labels: tokens that were decoded for the labels it is given.
        scored: its inputs in the table of scores, each with `decoded_by`.
    """
    if None in scored.values():
        return None
    stages = {GROWN_BY[origin] for origin in method.origins if origin in GROWN_BY} | set(scored.values())
    return sum(decoded.get(stage, 0) for stage in stages) + (labels if labelled(method) else 0)


def passes_a_token(scored: Mapping[str, str | None], labeller: str) -> int | None:
    """Forward passes over each token that inputs of a method take beyond decoding; None: not known.

    Args:
        scored: as of `extra_tokens`.
        labeller: whose labels the method reads, or who is looked at; empty: none.
    """
    if None in scored.values() or labeller in READING:
        return None
    return len({PASSES.get(name, "") for name, stage in scored.items() if stage == ""} - {""})


def per_thousand(total: float | None, steps: int) -> Figure:
    """A total for each thousand of some steps; null where it is not known."""
    return Figure(1000 * total / steps if steps and total is not None else None, steps)

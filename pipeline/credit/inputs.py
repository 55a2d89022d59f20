"""What a method may be given beside trees, verdicts and tokens: each by name, and where in the store it stands."""

from __future__ import annotations

from typing import NamedTuple

NODE, TOKEN = "node", "token"


class Input(NamedTuple):
    """A column for methods. per: an entry a node, or one a token. source: where it is read; for print.
    remedy: what fills it."""

    per: str
    description: str
    source: str
    remedy: str


_NODES = "run the stage that made the nodes again; what they were imported from lacks it"
_LABELS = "run `branchpoint step-labels` with the labeller that the method's parameters name"

INPUTS: dict[str, Input] = {
    "turn": Input(NODE, "int32, message of the dialogue, from 0", "nodes.turn", _NODES),
    "agent": Input(NODE, "int32, place in schemas.words.AGENTS of who wrote the step", "nodes.agent", _NODES),
    "kind": Input(NODE, "int32, place in schemas.words.KINDS of what the step holds", "nodes.kind", _NODES),
    "state": Input(
        NODE,
        "int64, code of the environment's state before the step; equal states of a task share one; -1: none is known",
        "nodes.state_key",
        "gather rollouts from an environment that says its state",
    ),
    "step_reward": Input(
        NODE,
        "float64, what the environment paid for the step; 0 where it paid nothing",
        "nodes.step_reward",
        "gather rollouts from an environment that pays by step",
    ),
    "text": Input(NODE, "polars strings, the step as text", "nodes.text", _NODES),
    "tool_calls": Input(NODE, "polars strings, JSON list of calls; null: none", "nodes.tool_calls", _NODES),
    "step_soft": Input(NODE, "float64, a labeller's chance of success; NaN: none", "step_labels.soft", _LABELS),
    "step_hard": Input(NODE, "float64, 1 right, 0 wrong by a labeller; NaN: undecided", "step_labels.hard", _LABELS),
    "tokens": Input(TOKEN, "int32, the token ids, as `Trees.tokens`", "nodes.token_ids", _NODES),
    "logprobs": Input(
        TOKEN,
        "float64, natural log-probability under the policy that sampled; NaN: not sampled",
        "nodes.logprobs",
        "gather rollouts with an engine that gives log-probabilities",
    ),
}

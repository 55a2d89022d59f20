"""What a method may be given beside trees, verdicts and tokens: each by name, and where in the store it stands."""

from __future__ import annotations

from typing import NamedTuple

NODE, TOKEN = "node", "token"
SCORES = "scores"


class Input(NamedTuple):
    """A column for methods. per: an entry a node, or one a token. source: where it is read; for print. In the table
    of scores it stands under its own name. remedy: what fills it."""

    per: str
    description: str
    source: str
    remedy: str

    @property
    def table(self) -> str:
        """Where it is read."""
        return self.source.split(".")[0]

    @property
    def column(self) -> str:
        """Of that table."""
        return self.source.split(".")[1]


_NODES = "run the stage that made the nodes again; what they were imported from lacks it"
_LABELS = "run `branchpoint step-labels` with the labeller that the method's parameters name"


def _number(description: str) -> Input:
    """A number a node, of the table of scores."""
    return Input(NODE, f"float64, {description}; NaN: none", "scores.value", _SCORES)


def _numbers(description: str) -> Input:
    """A number a token, of the table of scores."""
    return Input(TOKEN, f"float64, {description}; NaN: none", "scores.token_values", _SCORES)


def _json(description: str) -> Input:
    """Text a node, of the table of scores."""
    return Input(NODE, f"polars strings, JSON, {description}; null: none", "scores.text", _SCORES)


_SCORES = (
    "make them with `branchpoint-train score` or `branchpoint judge`, or write them with `branchpoint scores --name "
    "NAME --file FILE`"
)

INPUTS: dict[str, Input] = {
    "turn": Input(NODE, "int32, message of the dialogue, from 0", "nodes.turn", _NODES),
    "agent": Input(NODE, "int32, place in schemas.words.AGENTS of who wrote the step", "nodes.agent", _NODES),
    "kind": Input(NODE, "int32, place in schemas.words.KINDS of what the step holds", "nodes.kind", _NODES),
    "origin": Input(NODE, "int32, place in schemas.words.ORIGINS of why the step exists", "nodes.origin", _NODES),
    "finish": Input(NODE, "int32, place in schemas.words.FINISHES; -1: not an end", "nodes.finish", _NODES),
    "sampled": Input(
        NODE, "bool, a policy wrote the step; else a player that is none, or it was imported", "nodes.sampled", _NODES
    ),
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
    "reference_logprobs": _numbers("natural log-probability under the reference policy"),
    "prm_logprobs": _numbers("natural log-probability under a language model that is trained as a reward model"),
    "tuned_logprobs": _numbers("natural log-probability under a policy that was tuned by preferences"),
    "better_logprobs": _numbers("natural log-probability where a better response was asked for"),
    "worse_logprobs": _numbers("natural log-probability where a worse response was asked for"),
    "critic_values": _numbers("a critic's value before the token, in reward units"),
    "critic_q": _number("a critic's value of saying the step where it was said; of twins the lower"),
    "critic_v": _number("a critic's value of the state before the step; of twins the lower"),
    "waad": _numbers("how far back local heads look from the token, in tokens, at most the window"),
    "fai": _numbers("how much attention far heads give the token from later ones, in [0, 1]"),
    "planning": _numbers("1 for a token of a planning phrase, 0 for any other"),
    "useful": _json("a 0 or 1 for each passage that the step retrieved"),
    "searched": _number(
        "on a leaf: 1 where the run decided to search, 0 where it answered from memory, -1 where that cannot be read"
    ),
    "closed_book": _number(
        "on a leaf: 1 where the run had no search to decide on, 0 or none for any other; on the root: mean reward of "
        "such runs of another round"
    ),
    "key_turn": _number("1 for a turn that a judge holds for decisive, 0 for any other"),
    "attribution_goal": _number(
        "what an annotator gave the utterance for its part in the score for the goal, -1 where it failed"
    ),
    "attribution_relationship": _number("the same for relationship"),
    "attribution_knowledge": _number("the same for knowledge"),
    "score_goal": _number("on a leaf: the dialogue's score for its goal, in the range of the dimension"),
    "score_relationship": _number("the same for relationship"),
    "score_knowledge": _number("the same for knowledge"),
    "subgoals": _json("on the root: the names of the task's subgoals, in order; on a step: those it achieved"),
    "latent_reward": _number("what a decoder makes of the step's latent factors, in reward units"),
    "reference_calls": _json("on the root: the calls of a reference solution, as `tool_calls`"),
    "long_thinking": _number("on a leaf: 1 where the run was made to think at length, 0 where briefly"),
    "budget": _number(
        "on the last step of a stretch of thinking: the place of its budget, from 0; on a summary's leaf: of its own"
    )._replace(
        remedy="run `branchpoint rollouts --strategy brpo` in a round of its own, or `summaries`, or write them with "
        "`branchpoint scores --name NAME --file FILE`"
    ),
}

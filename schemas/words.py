"""The closed vocabularies of the tables. A word is added here and nowhere else."""

from __future__ import annotations

SPLITS = ("train", "held_out")

KINDS = ("prompt", "step", "reflection", "critique")
"""What a node holds: rendered prompt tokens, a reasoning step, a report on an attempt, a check of one."""

ORIGINS = (
    "prompt",
    "sample",
    "branch",
    "reflection",
    "guided_retry",
    "retry",
    "critique",
    "intervention",
    "continuation",
    "regenerate",
    "generate",
    "verify",
    "refine",
    "summary",
    "gap",
)
"""Why a node exists.

prompt        tokens of a rendered prompt
sample        a plain rollout from the task
branch        a fresh continuation from an inner step
reflection    the policy's report on a failed attempt
guided_retry  a new attempt that had the report in its prompt
retry         the same attempt put under the plain prompt (distilled; see copied_from)
critique      the policy's check of an attempt against the reference
intervention  one step written to replace a wrong one
continuation  a fresh continuation after an intervention, or after the step it replaced
regenerate    what was drawn anew after an attempt was cut before its first flawed step
generate      a first answer to be checked by another role
verify        a role's check of such an answer
refine        a role's new answer, in view of the first one and its check
summary       words that ask for an answer after a part of an attempt (not sampled), and the answer
gap           what a source left out between its parent and what follows; a prompt, at which a new context begins
"""

FINISHES = ("stop", "length", "turns", "loop", "invalid", "failed")
"""How a leaf ended: with the end token, or at the token limit. An episode also because it had no turns left, did the
same again and again, gave nothing that could be done, or could not go on for no fault of the policy."""

SEATS = ("player_0", "player_1", "player_2", "player_3")
"""Who takes turns in a game or a dialogue of several."""

AGENTS = (
    "solver",
    "reflector",
    "editor",
    "discriminator",
    "trimmer",
    "generator",
    "verifier",
    "refiner",
    "summariser",
    *SEATS,
)

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
"""

FINISHES = ("stop", "length")
"""How a leaf ended: with the end token, or at the token limit."""

AGENTS = ("solver", "reflector", "editor")

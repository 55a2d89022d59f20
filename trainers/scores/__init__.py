"""Scores that models give to the nodes of a round, each unique token seen once. The registry of passes; no torch."""

from __future__ import annotations

PASSES: dict[str, tuple[str, ...]] = {
    "reference_logprobs": ("reference_logprobs",),
    "tuned_logprobs": ("tuned_logprobs",),
    "prm_logprobs": ("prm_logprobs",),
    "entropy": ("entropy",),
    "t_reg": ("better_logprobs", "worse_logprobs"),
    "attention": ("waad", "fai"),
    "planning": ("planning",),
    "critic": ("critic_values",),
    "archer": ("critic_q", "critic_v"),
}
"""What can be asked for, and the names under which the table of scores then holds it."""

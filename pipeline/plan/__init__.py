"""What a plan and its round are measured by."""

FIGURES: dict[str, str] = {
    "requests": "asked for",
    "reused_requests": "of those, paid by another stage or round; what follows leaves them out",
    "prompt_tokens": "sent",
    "computed_tokens": "of those, not found in the prefix cache; planned for one that keeps all",
    "decoded_tokens": "returned",
    "unique_tokens": "of those, the tokens of a common prefix counted once",
    "request_seconds": "from sending each request to its end, summed; more where more run at once, so not planned",
    "seconds": "on the clock with the engine at work; planned at the pace of the pilot, which fills it less",
    "cost": "of prompt and decoded tokens, and of hours of the engine, at the prices given",
    "judged_leaves": "with a verdict",
    "mixed_tasks": "with both a right leaf and a wrong one",
    "step_labels": "of steps with so many continuations",
    "pairs": "of preference",
}
"""Figures of a plan, in the order of print. Each is a sum over tasks."""

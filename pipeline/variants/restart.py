"""What a retry in an environment is told, and where: the guidance stands in its guided transcript alone.

Source: R^3L (Shi et al., 2026), step 5 of its generation.
"""

from __future__ import annotations

from string import Template

from pipeline.prompts import Messages

HEADING = "# Lessons from an earlier attempt"
GUIDANCE = Template("The earlier attempt had issues.\n$report\nApply the lessons and do not mention them.")
"""The words that the embedded policy was taught."""


def guided_messages(messages: Messages, report: str) -> Messages:
    """Put a report into the messages before a turn.

    Args:
        messages: up to the observation that the turn answers, the system message first where there is one.

    Returns:
        Before the first turn the guidance joins the system message, under HEADING; else it is a system message of its
        own at the end.
    """
    guidance = GUIDANCE.substitute(report=report)
    if any(message["role"] == "assistant" for message in messages):
        return [*messages, {"role": "system", "content": guidance}]
    lessons = f"{HEADING}\n{guidance}"
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{lessons}"}, *messages[1:]]
    return [{"role": "system", "content": lessons}, *messages]

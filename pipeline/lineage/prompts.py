"""The messages that a stored prompt was rendered from, put together again from its task, its tree and a prompt pack.

Knows no tokenizer. What cannot be put together is told apart by a reason, in the words of a report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.prompts import Messages, PromptPack

Row = dict[str, Any]
Outline = dict[int, Row]
"""Nodes of one tree by number: parent, context, kind, text."""

UNKNOWN = "prompts of a kind that is not rendered again here"
NO_TASK = "prompts of tasks that are no longer in the store"
NO_REFERENCE = "prompts with a reference solution that the task no longer has"
MORE_THAN_A_QUESTION = "prompts of tasks with messages or tools beside the question"
NO_ATTEMPT = "prompts about an attempt that is not whole in the store"


class Asked(NamedTuple):
    """A prompt's role in the pack and its messages; `missing` says why there are none."""

    role: str
    messages: Messages
    missing: str | None = None


def role_of(prompt: Row, tree: Outline) -> str | None:
    """The role of the pack that a prompt node was rendered for; None where it cannot be told."""
    if prompt["parent"] is None:
        return ROLES.get((prompt["agent"], None))
    return ROLES.get((prompt["agent"], tree[prompt["parent"]]["kind"])) if prompt["parent"] in tree else None


def ask_again(prompt: Row, tree: Outline, task: Row | None, pack: PromptPack) -> Asked:
    """The messages of a prompt node as the pack words them now."""
    role = role_of(prompt, tree)
    if role is None:
        return Asked("", [], UNKNOWN)
    if task is None:
        return Asked(role, [], NO_TASK)
    if task.get("messages") is not None or task.get("tools") is not None:
        return Asked(role, [], MORE_THAN_A_QUESTION)
    found = HOLES[role](prompt, tree, task, pack)
    return Asked(role, [], found) if isinstance(found, str) else Asked(role, pack.messages(role, **found))


def _transcript(prompt: Row, tree: Outline, pack: PromptPack) -> str | None:
    """The attempt that a prompt hangs below; None where its path does not reach its context."""
    node, steps = tree.get(prompt["parent"]), []
    context = node["context"] if node else None
    while node and node["node"] != context:
        steps.append(node["text"])
        node = tree.get(node["parent"])
    return pack.transcript(steps[::-1]) if node else None


Holes = dict[str, str] | str


def _solve(prompt: Row, tree: Outline, task: Row, pack: PromptPack) -> Holes:
    return {"question": task["question"]}


def _reflect(prompt: Row, tree: Outline, task: Row, pack: PromptPack) -> Holes:
    steps = _transcript(prompt, tree, pack)
    return NO_ATTEMPT if steps is None else {"question": task["question"], "steps": steps, "outcome": "failure"}


def _retry(prompt: Row, tree: Outline, task: Row, pack: PromptPack) -> Holes:
    return {"question": task["question"], "report": prompt["text"]}


def _intervene(prompt: Row, tree: Outline, task: Row, pack: PromptPack) -> Holes:
    steps = _transcript(prompt, tree, pack)
    if steps is None:
        return NO_ATTEMPT
    if task["reference_solution"] is None:
        return NO_REFERENCE
    return {"question": task["question"], "reference": pack.reference(task["reference_solution"]), "steps": steps}


ROLES: dict[tuple[str, str | None], str] = {
    ("solver", None): "solve",
    ("reflector", "step"): "reflect",
    ("solver", "reflection"): "retry",
    ("editor", "step"): "intervene",
}
"""Roles of the pack by whom a prompt addresses and the kind of node it hangs below; None: a root."""

HOLES: dict[str, Callable[[Row, Outline, Row, PromptPack], Holes]] = {
    "solve": _solve,
    "reflect": _reflect,
    "retry": _retry,
    "intervene": _intervene,
}
"""What fills the messages of a role: the holes by name, or why they cannot be filled."""

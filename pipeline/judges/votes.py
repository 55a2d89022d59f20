"""What attempts say of the nodes they share, put together: one label a node."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.judges.talk import Said


@dataclass(slots=True)
class Votes:
    """Answers on one step.

    valid: that could be read and speak of it; right: that find it right. chance: mean over them that it is.
    unread: answers that could not be read, each counted at one of the steps it is about.
    """

    valid: int = 0
    right: int = 0
    chance: float = 0.0
    tokens: int = 0
    unread: int = 0
    reasons: str | None = None

    def add(self, right: bool | None, *, chance: float | None = None, reasons: str | None = None) -> None:
        """One answer; right None: it could not be read. chance: how sure it is that the step is right."""
        if right is not None:
            share = float(right) if chance is None else chance
            self.chance = (self.chance * self.valid + share) / (self.valid + 1)
            self.valid += 1
            self.right += right
        if reasons and (self.reasons is None or (right is not None and self.valid == 1)):
            self.reasons = reasons

    def said(self, node: int, *, hard: bool | None) -> Said:
        """The label; nothing but the text where no answer could be read."""
        told = self.valid > 0
        return Said(
            node=node,
            value=self.chance if told else None,
            text=self.reasons,
            hard=hard if told else None,
            k=self.valid,
            successes=self.right,
            tokens=self.tokens,
            unread=self.unread,
        )


def by_majority(votes: dict[int, Votes]) -> list[Said]:
    """Labels of nodes, right where more than half of the answers say so, or the mean chance is above a half."""
    return [one.said(node, hard=one.chance > 0.5) for node, one in sorted(votes.items())]

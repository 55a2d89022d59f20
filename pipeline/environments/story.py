"""What was said in episodes and becomes one tree. Knows no environment and no engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.tasks.verifiers import Verdict
from pipeline.trees.draft import Draft, Reading, Spot, new_draft


class Ending(NamedTuple):
    """How a seat's part ended.

    piece:  its last turn; 0 where it had none.
    finish: word of FINISHES.
    verdict: None where nobody judges it here.
    """

    piece: int
    finish: str
    verdict: Verdict | None


@dataclass(slots=True, eq=False)
class Story:
    """What becomes one tree: a draft, what its nodes say beside tokens, and how its episodes ended.

    task, tree, episode: their names. agent: whose it is. text: of the task, or what its seat was told of its part.
    draft:  None before the first turn. unopened: the root where none comes, since no episode could begin.
    marks:  by piece, columns of its node.
    begins: pieces at which a new context begins, since the template wrote the history anew.
    shown:  pieces with what was shown after a turn, by its end: episodes that parted there share them.
    """

    task: str
    tree: str
    episode: str
    agent: str
    text: str
    reading: Reading
    draft: Draft | None = None
    unopened: np.ndarray | None = None
    marks: dict[int, dict[str, Any]] = field(default_factory=dict)
    begins: set[int] = field(default_factory=set)
    shown: dict[Spot, int] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)

    def begin(self, prompt: np.ndarray) -> None:
        """Put the prompt at its root."""
        self.draft = new_draft(self.task, self.tree, prompt, text=self.text, max_tokens=0, reading=self.reading)
        self.marks[0] = {"agent": self.agent}

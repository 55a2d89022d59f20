"""Environments by name: each has its own options and refuses others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.environments import dialogue, games, gym, tools
from pipeline.environments.protocol import Opened

ENVIRONMENTS = {"tools": tools, "open_spiel": games, "gymnasium": gym, "dialogue": dialogue}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The environment that a suite's tasks are played in. name: key of ENVIRONMENTS. options: its own."""

    name: str
    options: Any

    def open(self) -> Opened:
        """The environment, ready to be made for each episode.

        Raises:
            BadConfig: what it needs is not installed or does not exist.
        """
        return ENVIRONMENTS[self.name].opened(self.options)

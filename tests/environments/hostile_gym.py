"""A Gymnasium environment that misbehaves at the action that is named; registered where it is imported by its id."""

from __future__ import annotations

import os
import time

import gymnasium
from gymnasium.envs.registration import register


class Hostile(gymnasium.Env):
    """Counts its actions, ends at the fourth."""

    def __init__(self):
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._count = 0
        return "begin", {}

    def step(self, action: str):
        self._count += 1
        if action == "raise":
            raise RuntimeError("out of cheese")
        if action == "hang":
            time.sleep(600)
        if action == "die":
            os._exit(3)
        seen = {"flood": "x" * 100_000_000, "object": {"not": "text"}}.get(action, f"{self._count} done")
        return seen, float("nan") if action == "nan" else 0.25, self._count >= 4, False, {}


register("Hostile-v0", entry_point=Hostile)

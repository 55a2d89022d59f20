"""What strategies look at beyond the answers: a tool's word on a step, a process reward model's score of a path."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from pipeline.labels.prm import Prm, find_prm
from pipeline.labels.tool import HOLDS, check_equations
from pipeline.stages.work import Work
from pipeline.trees.draft import Draft, Spot
from pipeline.trees.growth.guided import Guided, Paths, ScoresOf
from pipeline.trees.growth.mcts import Mcts
from pipeline.trees.strategy import Informed, Strategy

_checked = lru_cache(maxsize=100_000)(check_equations)


def informed(work: Work, strategy: Strategy) -> tuple[Strategy, Strategy]:
    """A strategy with what its parameters name, and the parameters that shards are made from.

    Raises:
        BadModel: there is no such process reward model.
    """
    if isinstance(strategy, Mcts) and strategy.judge == "tool":
        return Informed(strategy, equations_verdict), strategy
    if isinstance(strategy, Guided) and strategy.prm:
        prm = find_prm(strategy.prm, policies=work.settings.policies)
        return Informed(strategy, scores_of(prm)), replace(strategy, prm=f"{prm.name}-{prm.fingerprint}")
    return strategy, strategy


def equations_verdict(draft: Draft, spot: Spot, text: str) -> int | None:
    """1 where all equations of a step hold, -1 where one does not; None where it has none. Looked at by itself."""
    said = _checked(text)
    return None if said is None else 1 if said[0] == HOLDS else -1


def scores_of(prm: Prm) -> ScoresOf:
    """The model's chance that the last step of each path is right."""

    def score(trees: list[Paths]) -> list[np.ndarray]:
        from pipeline.labels.prm_model import score_steps

        paths = [draft.prefix(spot) for draft, spots in trees for spot in spots]
        scores = score_steps(prm, paths, [[len(path) - 1] for path in paths])
        return np.split(scores, np.cumsum([len(spots) for _, spots in trees])[:-1])

    return score

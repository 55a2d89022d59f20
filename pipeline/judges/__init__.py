"""Judges, by name: models that are asked what a step is worth. Each is a talk about a tree; none knows an engine."""

from __future__ import annotations

from typing import Protocol

from pipeline.judges.adasearch import AdaSearchJudge
from pipeline.judges.calm import CalmJudge
from pipeline.judges.capo import CapoJudge
from pipeline.judges.cases import Case
from pipeline.judges.epo import EpoJudge
from pipeline.judges.genprm import GenPrmJudge
from pipeline.judges.lare import LaReJudge
from pipeline.judges.search_r2 import SearchR2Judge
from pipeline.judges.sophiavl import SophiaVlJudge
from pipeline.judges.sotopia_rl import SotopiaJudge
from pipeline.judges.talk import Talk
from pipeline.judges.thinkprm import ThinkPrmJudge
from pipeline.judges.tp_grpo import TpGrpoJudge
from pipeline.judges.wording import Wording


class Judge(Protocol):
    """A frozen dataclass of parameters.

    version: changes whenever the same answers may be read otherwise.
    names:   of the scores it gives; none: it gives step labels, under its own name.

    One that is shown other judges' scores in place of verdicts names them, as `reads_scores`.
    """

    version: str
    names: tuple[str, ...]

    def talk(self, case: Case, words: Wording) -> Talk:
        """Ask about a tree, and say what was answered."""
        ...


JUDGES: dict[str, type[Judge]] = {
    "genprm": GenPrmJudge,
    "thinkprm": ThinkPrmJudge,
    "capo": CapoJudge,
    "tp_grpo": TpGrpoJudge,
    "sophiavl": SophiaVlJudge,
    "sotopia_rl": SotopiaJudge,
    "calm": CalmJudge,
    "lare": LaReJudge,
    "epo": EpoJudge,
    "search_r2": SearchR2Judge,
    "adasearch": AdaSearchJudge,
}

"""AdaSearch's reading of runs: whether each decided to search. Asks nobody, the run itself tells."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.credit.adasearch import DECISIONS, UNPARSED
from pipeline.credit.tool_calls import read_calls
from pipeline.errors import BadConfig
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Said, Talk
from pipeline.judges.wording import Wording


@dataclass(frozen=True, slots=True)
class AdaSearchJudge:
    """Scores `searched` on the leaf of each attempt.

    tool: whose call is a search, be it a failed one.
    decision: tag between which a run states search or no_search; the first is read, -1 where there is none or it holds
        anything else. Empty: runs state nothing, and what they did is their decision.

    What was right without searching, no run tells: `closed_book` comes from a file.

    Source: AdaSearch (2025); a decision that cannot be read is the product's -1.
    """

    tool: str = "search"
    decision: str = ""

    version = "1"
    names = ("searched",)

    def __post_init__(self) -> None:
        if not self.tool or not re.fullmatch(r"\w*", self.decision):
            raise BadConfig(
                f"adasearch tool {self.tool!r} or decision {self.decision!r} cannot be",
                remedy="give the name of a tool, and of a tag without its brackets",
            )

    def talk(self, case: Case, words: Wording) -> Talk:
        """Read every attempt."""
        del words
        yield []
        return [Said(one.nodes[-1], value=float(self._decided(one)), name="searched") for one in case.attempts]

    def _decided(self, attempt: Attempt) -> int:
        """Place in DECISIONS."""
        if not self.decision:
            calls = [call for text in attempt.calls if text is not None for call in read_calls(text) or ()]
            return int(any(call.name == self.tool for call in calls))
        stated = re.search(f"<{self.decision}>(.*?)</{self.decision}>", "\n".join(attempt.own_texts), re.DOTALL)
        word = stated[1].strip().lower() if stated else ""
        return DECISIONS.index(word) if word in DECISIONS else UNPARSED

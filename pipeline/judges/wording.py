"""How judges are asked: `judges.toml` beside the packs, a table a judge with a table a prompt.

Apart from the packs, whose digest is that of the whole file: a judge's wording changes no rollout. A pack of its own
says how a policy that was trained to judge steps is asked.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from string import Template

from pipeline.prompts import Messages, PromptPack

TINY = "tiny"


@dataclass(frozen=True, slots=True)
class Wording:
    """The prompts of one judge.

    version: digest of their texts.
    pack:    of the suite; where it is that of the embedded policy, `own_judge` is True and its role `judge` is asked.
    """

    judge: str
    version: str
    prompts: dict[str, dict[str, str]]
    pack: PromptPack

    @property
    def own_judge(self) -> bool:
        """Whether the policy was trained to judge in the words of its pack."""
        return self.pack.name == TINY

    def messages(self, prompt: str, **holes: str) -> Messages:
        """The messages of a prompt; filling is one pass, so texts of models are never read as templates."""
        return [
            {"role": speaker, "content": Template(text).substitute(holes)}
            for speaker, text in self.prompts[prompt].items()
        ]


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads(resources.files("pipeline.prompts").joinpath("judges.toml").read_text())


def wording(judge: str, pack: PromptPack) -> Wording:
    """The prompts of a judge, key of JUDGES."""
    prompts = _tables()[judge]
    said = json.dumps([prompts, pack.templates["judge"], pack.step_line, pack.name == TINY], sort_keys=True)
    return Wording(judge, hashlib.sha256(said.encode()).hexdigest()[:16], prompts, pack)


def tagged(texts: Sequence[str]) -> str:
    """Steps between tags with their numbers, from 0."""
    return "\n".join(f"<step {number}>\n{text}\n</step {number}>" for number, text in enumerate(texts))

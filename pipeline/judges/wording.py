"""How judges are asked: `judges.toml` beside the packs, a table a judge with a table a prompt.

A prompt whose answer is JSON says the properties of its schema.

Apart from the packs, whose digest is that of the whole file: a judge's wording changes no rollout. A pack of its own
says how a policy that was trained to judge steps is asked.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from string import Template
from typing import Any

from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt
from pipeline.judges.talk import Ask
from pipeline.prompts import Messages, PromptPack, object_schema

TINY = "tiny"
_SPEAKERS = ("system", "user")


@dataclass(frozen=True, slots=True)
class Wording:
    """The prompts of one judge.

    version: digest of their texts.
    guided:  the engine holds answers in JSON to their schema.
    pack:    of the suite; where it is that of the embedded policy, `own_judge` is True and its role `judge` is asked.
    """

    judge: str
    version: str
    prompts: dict[str, dict[str, str]]
    pack: PromptPack
    guided: bool = True

    @property
    def own_judge(self) -> bool:
        """Whether the policy was trained to judge in the words of its pack."""
        return self.pack.name == TINY

    def messages(self, prompt: str, **holes: str) -> Messages:
        """The messages of a prompt; filling is one pass, so texts of models are never read as templates."""
        texts = self.prompts[prompt]
        return [{"role": speaker, "content": Template(texts[speaker]).substitute(holes)} for speaker in _SPEAKERS]

    def ask(
        self,
        prompt: str,
        sampling: Sampling,
        sample: int = 0,
        *,
        properties: Mapping[str, Any] | None = None,
        **holes: str,
    ) -> Ask:
        """Ask by a prompt; an answer in JSON is held to its schema.

        Args:
            properties: of that schema, where they differ from case to case; None: those that the prompt has, if any.
        """
        said = self.prompts[prompt].get("schema")
        known = json.loads(said) if properties is None and said else properties
        if self.guided and known:
            sampling = replace(sampling, schema=object_schema(known))
        return Ask(self.messages(prompt, **holes), sampling, sample)


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads(resources.files("pipeline.prompts").joinpath("judges.toml").read_text())


def wording(judge: str, pack: PromptPack, *, guided: bool = True) -> Wording:
    """The prompts of a judge, key of JUDGES; none for one that asks nothing."""
    prompts = _tables().get(judge, {})
    said = json.dumps([prompts, pack.templates["judge"], pack.step_line, pack.name == TINY, guided], sort_keys=True)
    return Wording(judge, hashlib.sha256(said.encode()).hexdigest()[:16], prompts, pack, guided)


def tagged(texts: Sequence[str]) -> str:
    """Steps between tags with their numbers, from 0."""
    return "\n".join(f"<step {number}>\n{text}\n</step {number}>" for number, text in enumerate(texts))


def dialogue(attempt: Attempt) -> str:
    """All that was said in turn, the speaker's utterances numbered in tags, from 0."""
    lines, number = [_other(text) for text in attempt.before], 0
    for text, own in zip(attempt.texts, attempt.said, strict=True):
        lines.append(f"<Utterance {number}>\n{text}\n</Utterance {number}>" if own else _other(text))
        number += own
    return "\n".join((*lines, *(_other(text) for text in attempt.after)))


def _other(text: str) -> str:
    return f"<other>\n{text}\n</other>"

"""Prompt packs: how each request of the pipeline is worded.

A pack is a TOML file beside this module: for each role the texts of the messages, with
`$name` where something is filled in. Filling is one pass, so text that a model or a user
wrote is never read as a template. Knows nothing of tokens or engines.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from pipeline.errors import BadConfig

ROLES = (
    "solve",
    "reflect",
    "retry",
    "intervene",
    "judge",
    "discriminate",
    "trim",
    "generate",
    "verify",
    "refine",
)
PACKS = ("tiny", "instruct")

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class PromptPack:
    """The wording of every role.

    digest:     of the file's text; a change makes what was asked with it stale.
    templates:  role to message role (`system`, `user`) to text with `$name` holes.
    step_line:  one line of a numbered transcript; holes `$index` (0-based) and `$step`.
    right, wrong: the two answers a judge or a discriminator may give.
    schemas:    role to the JSON schema of its answer, as text, its properties in the order they are asked for; for the
        roles that answer in JSON.
    cut, header: what an attempt is given where it is cut and made to answer at once.
    unshown:    expression of what is left out at the start of each line of a reference solution; None shows it whole.
    """

    name: str
    digest: str
    templates: dict[str, dict[str, str]]
    step_line: str
    right: str
    wrong: str
    schemas: dict[str, str]
    cut: str
    header: str
    unshown: str | None = None

    def messages(self, role: str, **holes: str) -> Messages:
        """The chat messages of one request; system first where the role has one."""
        return [
            {"role": speaker, "content": Template(text).substitute(holes)}
            for speaker, text in self.templates[role].items()
        ]

    def transcript(self, steps: Sequence[str]) -> str:
        """Steps numbered from 0, a line each."""
        line = Template(self.step_line)
        return "".join(line.substitute(index=index, step=step) for index, step in enumerate(steps))

    def reference(self, solution: str) -> str:
        """A reference solution as an editor is shown it, a newline at its end."""
        lines = solution.rstrip().split("\n")
        return "".join(f"{re.sub(f'^(?:{self.unshown})', '', line) if self.unshown else line}\n" for line in lines)


def load_pack(name: str) -> PromptPack:
    """Read a pack by name.

    Raises:
        BadConfig: there is no such pack.
    """
    if name not in PACKS:
        raise BadConfig(f"prompt pack {name!r} does not exist", remedy=f"choose one of {', '.join(PACKS)}")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text()
    fields = tomllib.loads(text)
    return PromptPack(
        name=name,
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        templates={role: {k: fields[role][k] for k in ("system", "user") if k in fields[role]} for role in ROLES},
        step_line=fields["step_line"],
        right=fields["judge"]["right"],
        wrong=fields["judge"]["wrong"],
        schemas={role: object_schema(json.loads(fields[role]["schema"])) for role in ROLES if "schema" in fields[role]},
        cut=fields["summarise"]["cut"],
        header=fields["summarise"]["header"],
        unshown=fields["intervene"].get("unshown"),
    )


def object_schema(properties: Mapping[str, Any]) -> str:
    """The schema, as text, of an object that has just these properties, all of them, in their order."""
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False},
        separators=(",", ":"),
    )

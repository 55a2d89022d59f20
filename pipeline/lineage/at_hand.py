"""What of this workplace explains a store: policies, their tokenizers, prompt packs. Each is opened on use.

A store names them by fingerprint and digest; what is no longer here is None, never an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.policies import EMBEDDED, Policy, find_policy
from pipeline.prompts import PromptPack, load_pack
from pipeline.settings import Settings
from pipeline.tasks.suites import load_suite

LARGEST = 4 << 30
"""Bytes of weights up to which a folder is looked into: a fingerprint is of every byte. Larger ones must be named."""


class AtHand:
    """Policies, tokenizers and prompt packs.

    Args:
        settings: where they lie.
        policy: name or folder of the policy whose tokenizer to use; that which sampled where it is empty.

    Raises:
        BadModel: there is no such policy.
    """

    def __init__(self, settings: Settings, *, policy: str = ""):
        self._settings = settings
        self._given = find_policy(policy, policies=settings.policies) if policy else None
        self._found: dict[str, Policy | None] = {}
        self._packs: dict[str, PromptPack | None] = {}

    def policy(self, fingerprint: str) -> Policy | None:
        """The policy that an engine of this fingerprint ran."""
        if fingerprint not in self._found:
            own = fingerprint.split(".")[0]
            self._found[fingerprint] = next((one for one in self._known() if one.fingerprint == own), None)
        return self._found[fingerprint]

    def reader(self, fingerprint: str | None) -> Policy | None:
        """The policy whose tokenizer reads what an engine of this fingerprint wrote."""
        return self._given or (self.policy(fingerprint) if fingerprint else None)

    def pieces(self, fingerprint: str | None, ids: Sequence[int]) -> list[str] | None:
        """The text of each token, read by `reader`; None also where no library is installed to read it."""
        policy = self.reader(fingerprint)
        try:
            from pipeline.lineage.pieces import token_pieces

            return None if policy is None else token_pieces(policy.path, ids)
        except (ImportError, BadModel):
            return None

    def pack(self, suite: str) -> PromptPack | None:
        """The prompt pack that a suite of this name now asks with."""
        if suite not in self._packs:
            try:
                self._packs[suite] = load_pack(load_suite(suite, folder=self._settings.suites).prompts)
            except BadConfig:
                self._packs[suite] = None
        return self._packs[suite]

    def _known(self) -> Iterator[Policy]:
        if self._given:
            yield self._given
        for name in (*EMBEDDED, *_trained(self._settings.policies)):
            try:
                yield find_policy(name, policies=self._settings.policies)
            except BadModel:
                continue


def _trained(policies: Path) -> list[str]:
    """Folders of trained policies, those with the smallest weights first."""
    sizes = {
        file.parent.name: sum(weights.stat().st_size for weights in file.parent.glob("*.safetensors"))
        for file in policies.glob("[!.]*/config.json")
    }
    return sorted((name for name, size in sizes.items() if size <= LARGEST), key=lambda name: (sizes[name], name))

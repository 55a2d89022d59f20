"""Token ids for documents that are to be grown: those of the source, or the text as a policy's tokenizer encodes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pipeline.errors import BranchpointError
from pipeline.exchange.document import Document, Refused, packed_ids

if TYPE_CHECKING:
    from pipeline.generation.tokens import Tokens


class Encoder:
    """Fills in token ids of the first answer; what comes after another message begins a context of its own, since a
    chat template cannot be continued from text.

    render: whether texts are encoded; if not, documents without token ids are refused.
    """

    def __init__(self, tokens: Tokens, separator: str, *, render: bool):
        self._tokens, self._separator, self._render = tokens, separator, render

    def encode(self, document: Document) -> None:
        """Give a document token ids.

        Raises:
            Refused: it has none and none shall be made, or those it has do not read as its text.
        """
        lacking = document.prompt_ids is None or any(step.token_ids is None for step in document.steps)
        if not lacking:
            self._check(document)
        elif not self._render:
            raise Refused("a step has no token ids")
        else:
            self._encode(document)

    def _check(self, document: Document) -> None:
        for step in document.steps:
            if step.kind != "prompt" and step.text and not step.tool_calls:
                try:
                    read = self._tokens.decode(np.frombuffer(step.token_ids, np.int32).tolist())
                except (OverflowError, ValueError, TypeError):
                    read = ""
                if step.text.strip() not in read:
                    raise Refused("its token ids are not of the policy's tokenizer")
                return

    def _encode(self, document: Document) -> None:
        before = msgspec.json.decode(document.messages or "[]")  # texts alone: templates differ in how they take calls
        asked = [{"role": said["role"], "content": said["content"]} for said in before]
        asked.append({"role": "user", "content": document.question})
        try:
            document.prompt_ids = packed_ids(self._tokens.render(asked))
        except BranchpointError as error:
            raise Refused(error.culprit) from error
        parents = {step.parent for step in document.steps}
        for place, step in enumerate(document.steps):
            step.logprobs = None
            if step.kind == "prompt":
                step.token_ids, step.begins = None, True
                continue
            closing = self._separator if place in parents else ""
            step.token_ids = packed_ids(self._tokens.encode(step.text + closing))

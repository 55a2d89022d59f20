"""Heavy: transformers. Text to tokens for what is written here, tokens to text for people and verifiers.

Sampled tokens are never encoded again from their text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import AutoTokenizer

from pipeline.errors import BadInput, BadModel
from pipeline.generation.policies import Policy
from pipeline.prompts import Messages

QUOTED = 60


def open_tokenizer(policy: Policy) -> Any:
    """The tokenizer in a policy's folder; what is too long for the policy it encodes without a word.

    Raises:
        BadModel: there is none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(
            policy.path,
            local_files_only=True,
            model_max_length=sys.maxsize,  # what is too long fails as a request, and says so itself
        )
    except Exception as error:  # whatever foreign parsers raise at foreign files, a bare Exception among it
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BadModel(
            f"{policy.path} has no readable tokenizer: {said}", remedy="save the tokenizer into the folder again"
        ) from error


class Tokens:
    """The tokenizer of a policy.

    Raises:
        BadModel: the policy has none that can be read, or one without a chat template.
    """

    def __init__(self, policy: Policy):
        self._path = policy.path
        self._tokenizer = open_tokenizer(policy)
        if self._tokenizer.chat_template is None:
            raise BadModel(
                f"{policy.path} has no chat template", remedy="use an instruct model, or add a chat template"
            )
        added = self._tokenizer.added_tokens_decoder.values()
        control = {*self._tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        self._specials = tuple(sorted(control - {""}))
        self._pieces: np.ndarray | None = None
        self._separator = ""

    def render(self, messages: Messages) -> np.ndarray:
        """Token ids of a prompt, up to where the answer begins: `[P]` int32.

        Raises:
            BadInput: a message spells one of the model's control tokens; quotes how it begins.
            BadModel: the chat template refuses the messages.
        """
        for message in messages:
            spelt = next((token for token in self._specials if token in message["content"]), None)
            if spelt is not None:
                begins = " ".join(message["content"].split())[:QUOTED]
                raise BadInput(
                    f"a message spells the control token {spelt!r}; it begins {begins!r}",
                    remedy="remove the token from the task",
                )
        return np.asarray(self._templated(messages), dtype=np.int32)

    def _templated(self, messages: Messages | Sequence[Messages]) -> list:
        """Token ids of one prompt, or a list of them for each of several, whatever they spell."""
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise BadModel(
                f"the chat template of {self._path} refuses the messages: {error}",
                remedy="choose a model whose template takes a system message, or mend the template",
            ) from error

    def safe(self, text: str) -> bool:
        """Whether text may stand in a prompt: it spells no control token."""
        return not any(token in text for token in self._specials)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of text written by hand or by a program: `[T]` int32, no control tokens."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, control tokens left out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def closers(self, separator: str) -> np.ndarray:
        """For every id of the vocabulary, whether it may complete the separator: `[V]` bool."""
        if self._pieces is None or self._separator != separator:
            last = separator[-1]
            texts = self._tokenizer.batch_decode([[index] for index in range(len(self._tokenizer))])
            self._pieces = np.fromiter((last in text for text in texts), dtype=bool, count=len(texts))
            self._separator = separator
        return self._pieces


@lru_cache(maxsize=4)
def tokens_of(policy: Policy) -> Tokens:
    """The tokenizer of a policy, loaded once."""
    return Tokens(policy)

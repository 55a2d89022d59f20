"""Heavy: transformers. A policy's tokenizer over many texts at a time, control tokens kept as they are.

For comparing and for print alone: nothing that is encoded here goes into a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

from pipeline.generation.policies import Policy
from pipeline.generation.tokens import Tokens
from pipeline.prompts import Messages

_AT_ONCE = 1024


class Codec(Tokens):
    """The tokenizer and the chat template of a policy, for lists of texts.

    Raises:
        BadModel: the policy has none that can be read, or one without a chat template.
    """

    @cached_property
    def specials(self) -> frozenset[int]:
        """Ids of control tokens."""
        added = self._tokenizer.added_tokens_decoder.items()
        return frozenset([*self._tokenizer.all_special_ids, *(index for index, token in added if token.special)])

    def without_specials(self, text: str) -> str:
        """A text without the names of control tokens."""
        for token in self._tokenizer.convert_ids_to_tokens(sorted(self.specials)):
            text = text.replace(token, "")
        return text

    def render_all(self, prompts: Sequence[Messages]) -> Iterator[list[int]]:
        """Token ids of each prompt, up to where the answer begins. What a message spells, it spells.

        Raises:
            BadModel: the chat template refuses the messages.
        """
        for some in _batches(prompts):
            yield from self._templated(some)

    def encode_all(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Token ids of each text; where it spells a control token, that token."""
        for some in _batches(texts):
            yield from self._tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]

    def decode_all(self, ids: Sequence[Sequence[int]]) -> Iterator[str]:
        """The text of each list of ids, control tokens spelt out. An id that is none of the vocabulary's is nothing."""
        for some in _batches(ids):
            yield from self._tokenizer.batch_decode(
                [list(one) for one in some], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )


def _batches(items: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _AT_ONCE):
        yield list(items[start : start + _AT_ONCE])


@lru_cache(maxsize=4)
def open_codec(policy: Policy) -> Codec:
    """The tokenizer of a policy, loaded once."""
    return Codec(policy)

"""Heavy: transformers. Dialogues in tokens, turn by turn: what was sent and said is never encoded again.

What follows a turn is the difference between two renderings of the chat template. Texts are encoded as text, whatever
they spell: control tokens come of the template alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jinja2 import TemplateError

from pipeline.errors import BadModel
from pipeline.generation.policies import Policy
from pipeline.generation.tokens import open_tokenizer
from pipeline.prompts import Messages

_MARK = "\ue000{}\ue001"
"""Stands for a message while the template is rendered; of characters that no text uses."""


class Following(NamedTuple):
    """What follows a turn.

    token_ids: `[T]` int32, up to where the next turn begins.
    rewritten: the template changed what was sent or said, so these are all tokens of a new context.
    """

    token_ids: np.ndarray
    rewritten: bool


class Chat:
    """The chat template of a policy."""

    def __init__(self, policy: Policy):
        self._path, self._ends = policy.path, policy.end_ids
        self._tokenizer = open_tokenizer(policy)
        added = self._tokenizer.added_tokens_decoder.values()
        self._control = {token.content for token in added if token.special} | {*self._tokenizer.all_special_tokens}

    def opening(self, messages: Messages) -> np.ndarray:
        """Token ids of a prompt, up to where the first turn begins: `[P]` int32.

        Raises:
            BadModel: the template refuses the messages.
        """
        texts = [message["content"] for message in messages]
        if all(self._plain(text) for text in texts):
            return self._encoded([self._rendered(messages)], [])
        return self._encoded(self._between(messages), texts)

    def following(self, before: Messages, said: Sequence[int], *messages: dict[str, str]) -> Following:
        """What follows a turn of the policy, when messages answer it.

        Args:
            before: the messages that the turn answered.
            said: its token ids, end token included where there is one.
            messages: the next ones.

        Raises:
            BadModel: the template refuses the messages.
        """
        text = self.text(said)
        after = [*before, {"role": "assistant", "content": text}, *messages]
        whole, kept = self._rendered(after), self._rendered(before) + text
        between = self._between(after)
        if not whole.startswith(kept) or len(between) != len(after) + 1:
            return Following(self.opening(after), rewritten=True)
        closing, *rest = between[len(before) + 1 :]
        if len(said) and said[-1] in self._ends:
            closing = closing.removeprefix(self._tokenizer.decode([said[-1]]))
        contents = [message["content"] for message in messages]
        if all(self._plain(content) for content in contents):
            told = "".join(content + piece for content, piece in zip(contents, rest, strict=True))
            return Following(self._encoded([closing + told], []), rewritten=False)
        return Following(self._encoded([closing, *rest], contents), rewritten=False)

    def saying(self, text: str) -> np.ndarray:
        """Token ids of a turn that says a text, and ends as the policy's own would: `[T]` int32."""
        return np.append(self._encoded(["", ""], [text]), np.int32(self._end))

    @cached_property
    def _end(self) -> int:
        """The token that ends a turn: that which the template puts there, else the policy's first."""
        turns = [{"role": role, "content": "."} for role in ("user", "assistant", "user")]
        closing = self._encoded([self._between(turns)[-2]], [])
        return int(closing[0]) if len(closing) and closing[0] in self._ends else self._ends[0]

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a turn, control tokens and blanks around it left out."""
        decoded = self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded.strip()

    def _plain(self, text: str) -> bool:
        return not any(token in text for token in self._control)

    def _between(self, messages: Messages) -> list[str]:
        """What the template puts before, between and after the messages' texts; fewer where it leaves some out."""
        marked = [{**message, "content": _MARK.format(place)} for place, message in enumerate(messages)]
        rest, found = self._rendered(marked), []
        for place in range(len(messages)):
            before, mark, after = rest.partition(_MARK.format(place))
            if mark:
                found.append(before)
                rest = after
        return [*found, rest]

    def _encoded(self, templated: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Pieces of the template and texts in turn, the former with their control tokens, the latter without any."""
        ids: list[int] = []
        for place, piece in enumerate(templated):
            ids += self._tokenizer.encode(piece, add_special_tokens=False)
            if place < len(texts):
                ids += self._tokenizer.encode(texts[place], add_special_tokens=False, split_special_tokens=True)
        return np.asarray(ids, dtype=np.int32)

    def _rendered(self, messages: Messages) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise BadModel(
                f"the chat template of {self._path} refuses the messages of a dialogue: {error}",
                remedy="choose a model whose template takes several turns, or mend the template",
            ) from error


@lru_cache(maxsize=4)
def chat_of(policy: Policy) -> Chat:
    """The chat template of a policy, loaded once."""
    return Chat(policy)

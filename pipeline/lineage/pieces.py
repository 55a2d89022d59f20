"""Heavy: tokenizers. The text of single tokens, for print.

Reads a tokenizer's file alone and loads no transformers, so that it answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from pipeline.errors import BadModel


def token_pieces(policy: Path, ids: Sequence[int]) -> list[str]:
    """The text of each token by itself, control tokens spelt out; a part of a character is U+FFFD.

    Raises:
        BadModel: the policy's tokenizer.json cannot be read.
    """
    tokenizer = _read(policy / "tokenizer.json")
    texts = {token: tokenizer.decode([token], skip_special_tokens=False) for token in set(ids)}
    return [texts[token] for token in ids]


@lru_cache(maxsize=4)
def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BadModel(f"{path} cannot be read: {error}", remedy="save the tokenizer into the folder again") from error

"""Compares stored tokens with those that their text would have now, and says how they differ. Reads no file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pipeline.lineage.codec import Codec

KINDS = {
    "template": "a prompt whose text is another: chat template, prompt pack or task changed",
    "tokens": "the same text in other tokens: vocabulary or merges changed, or the policy spelt it its own way",
    "special": "a control token where its name stood as text, or the reverse",
    "text": "tokens that do not decode to text that gives them back, such as part of a character",
}
"""How a row may differ."""

AROUND = 4
"""Tokens shown before the first difference, and after it."""
_BROKEN = "\ufffd"


class Compared(NamedTuple):
    """A row that differs.

    kind:        key of KINDS.
    position:    of the first difference, in the tokens of the node.
    stored, now: token ids around it, and those that the text would have now.
    stored_text, now_text: what these ids read, control tokens spelt out.
    """

    kind: str
    task: str
    tree: str
    node: int
    position: int
    stored: list[int]
    now: list[int]
    stored_text: str
    now_text: str


def compare_prompts(
    codec: Codec, prompts: Sequence[dict[str, Any]], rendered: Sequence[list[int]]
) -> list[Compared | None]:
    """Nodes of prompts with what they are rendered to now; None for each that is the same.

    Args:
        prompts: rows of the nodes table.
        rendered: token ids, one list a prompt.
    """
    found: list[Compared | None] = [None] * len(prompts)
    others = [at for at, now in enumerate(rendered) if now != prompts[at]["token_ids"]]
    stored_texts = list(codec.decode_all([prompts[at]["token_ids"] for at in others]))
    now_texts = list(codec.decode_all([rendered[at] for at in others]))
    for at, stored_text, now_text in zip(others, stored_texts, now_texts, strict=True):
        prompt, now = prompts[at], rendered[at]
        if prompt["text"].strip() not in stored_text:  # these ids no longer read what they read when they were stored
            kind = "tokens"
        elif stored_text != now_text:
            kind = "template"
        else:
            kind = _of_same_text(codec, prompt["token_ids"], now)
        found[at] = _compared(codec, kind, prompt, [(prompt["node"], prompt["token_ids"])], now)
    return found


def compare_answers(codec: Codec, answers: Sequence[dict[str, Any]]) -> list[Compared | None]:
    """Answers with what their text is encoded to now; None for each that is the same.

    Args:
        answers: `task` and `tree`; `node`, `text` and `steps`, the token ids, are lists with an item a node.
    """
    ids = [list(chain.from_iterable(answer["steps"])) for answer in answers]
    texts = list(codec.decode_all(ids))
    again = list(codec.encode_all(texts))
    found: list[Compared | None] = []
    changed = [at for at, now in enumerate(again) if now != ids[at]]
    read_back = dict(zip(changed, codec.decode_all([again[at] for at in changed]), strict=True))
    for at, (answer, text) in enumerate(zip(answers, texts, strict=True)):
        nodes = list(zip(answer["node"], answer["steps"], strict=True))
        if at in read_back:
            kind = _of_text(codec, ids[at], again[at], text, read_back[at])
            found.append(_compared(codec, kind, answer, nodes, again[at]))
        else:
            other = _misread(codec, answer["text"], text)
            found.append(None if other is None else _reworded(codec, answer, other))
    return found


def _of_text(codec: Codec, stored: list[int], now: list[int], text: str, read_back: str) -> str:
    if _BROKEN in text or read_back != text:
        return "text"
    return _of_same_text(codec, stored, now)


def _of_same_text(codec: Codec, stored: Sequence[int], now: Sequence[int]) -> str:
    of_stored, of_now = ([token for token in ids if token in codec.specials] for ids in (stored, now))
    return "tokens" if of_stored == of_now else "special"


def _misread(codec: Codec, steps: Sequence[str], text: str) -> int | None:
    """The first step whose text, as it was stored, is not what its tokens now read; None where all are."""
    return None if _missing(steps, text) is None else _missing(steps, codec.without_specials(text))


def _missing(steps: Sequence[str], text: str) -> int | None:
    """The first step that a text does not have after those before it."""
    at = 0
    for index, step in enumerate(steps):
        if _BROKEN not in step:
            place = text.find(step, at)
            if place < 0:
                return index
            at = place + len(step)
    return None


def _reworded(codec: Codec, answer: dict[str, Any], step: int) -> Compared:
    """A step whose ids read something else than they did."""
    now = next(codec.encode_all([answer["text"][step]]))
    return _compared(codec, "tokens", answer, [(answer["node"][step], answer["steps"][step])], now)


def _compared(
    codec: Codec, kind: str, row: dict[str, Any], nodes: Sequence[tuple[int, list[int]]], now: list[int]
) -> Compared:
    stored = list(chain.from_iterable(ids for _, ids in nodes))
    at = next(
        (place for place, (one, other) in enumerate(zip(stored, now)) if one != other), min(len(stored), len(now))
    )
    start, window = 0, slice(max(0, at - AROUND), at + AROUND)
    for node, ids in nodes:
        if at < start + len(ids) or node == nodes[-1][0]:
            break
        start += len(ids)
    texts = codec.decode_all([stored[window], now[window]])
    return Compared(kind, row["task"], row["tree"], node, at - start, stored[window], now[window], *texts)

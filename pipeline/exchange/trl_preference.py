"""TRL's preferences: two answers to one prompt, texts or chats, the prompt apart or within them; unpaired ones too."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pipeline.exchange.conversation import Message, Turn, conversation
from pipeline.exchange.document import Document, Judgement, Refused, chain, licence_of, record_of
from pipeline.exchange.reading import Importer, rows

VERIFIER = "preference"
Said = str | list[Message]


class Row(msgspec.Struct):
    """prompt: None: it is what both answers begin with. completion, label: of an unpaired row."""

    prompt: Said | None = None
    chosen: Said | None = None
    rejected: Said | None = None
    completion: Said | None = None
    label: bool | None = None


def parse(data: bytes) -> Iterator[Document]:
    """A document an answer, judged 1 where it is the preferred one and else 0.

    Raises:
        Refused: an answer is missing, or one is a text and the other a chat, or they share no prompt.
    """
    raw = msgspec.json.decode(data)
    row = msgspec.convert(raw, Row)
    if row.completion is not None and row.label is not None:
        answers = [(row.completion, row.label)]
    elif row.chosen is not None and row.rejected is not None:
        answers = [(row.chosen, True), (row.rejected, False)]
    else:
        raise Refused("neither chosen and rejected nor completion and label")
    parts = [row.prompt, *(answer for answer, _ in answers)]
    if len({type(part) for part in parts if part is not None}) > 1:
        raise Refused("texts and chats in one row")
    prompt, answers = _apart(row.prompt, answers)
    rest = {name: raw[name] for name in raw if name not in Row.__struct_fields__}
    licence = licence_of(raw, raw.get("metadata"))
    for answer, preferred in answers:
        if isinstance(answer, str):
            record = record_of(rest)
            judged = [Judgement(0, float(preferred), VERIFIER)]
            steps = chain([answer], finish="stop")
            yield Document(prompt, steps, judgements=judged, leaf=0, record=record, licence=licence)
            continue
        if not answer:
            raise Refused("an answer without messages")
        turns = [Turn(message=message, said={}) for message in [*prompt, *answer]]
        turns[-1].finish = "stop"
        found = conversation(turns, record=rest, licence=licence)
        found.judgements = [Judgement(found.leaf, float(preferred), VERIFIER)]
        yield found


def _apart(prompt: Said | None, answers: list[tuple[Said, bool]]) -> tuple[Said, list[tuple[Said, bool]]]:
    """The prompt and what follows it."""
    if prompt is not None:
        return prompt, answers
    (one, _), (other, _) = answers if len(answers) == 2 else answers * 2
    if isinstance(one, str):
        raise Refused("no prompt: where a text's prompt ends is not told")
    count = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    if not 0 < count < min(len(one), len(other)):
        raise Refused("the chats share no prompt, or are one")
    return one[:count], [(answer[count:], preferred) for answer, preferred in answers]


IMPORTER = Importer(parse, rows, (".jsonl", ".json", ".parquet"))

"""Made-up names from syllables. No two that are drawn have the same letters, so none can be taken for another."""

from __future__ import annotations

import random

_LISTS = """
start: Ar Bel Bran Cal Dor El Fen Gal Hal Is Jor Kel Lor Mar Nor Or Per Quil Ros Sel Tam Ul Ver Wen Yor Zan
middle: a e i o u an el en il or ar ad em is ov ur
given: a na ric wen do lia mir th ra len
family: ack ard ell iss ock und ister orn ane eth
town: bury dale ford ham mere stow ton wick holt by
river: win ley rill ser dra via mene sk lune bourne
mountain: gar dun horn krag tor pell muir fell nok vath
colour: Amber Ashen Blue Brass Copper Crimson Ebony Gilded Golden Green Grey Iron Ivory Jade Linen Oaken Onyx Scarlet
sign: Anvil Anchor Bell Candle Compass Crown Feather Hammer Key Lantern Loom Quill Shuttle Spindle Thimble Wheel
"""
_PARTS = {name: parts.split() for name, parts in (line.split(": ") for line in _LISTS.strip().splitlines())}


class Names:
    """Draws names, each once."""

    def __init__(self, chance: random.Random):
        self._chance = chance
        self._given: set[str] = set()
        guilds = [f"{colour} {sign} Guild" for colour in _PARTS["colour"] for sign in _PARTS["sign"]]
        chance.shuffle(guilds)
        self._guilds = iter(guilds)

    def draw(self, kind: str) -> str:
        """A new name of a town, river, mountain, guild or person."""
        if kind == "guild":
            return next(self._guilds)
        if kind == "person":
            return f"{self._word('given')} {self._word('family')}"
        return self._word(kind)

    def _word(self, kind: str) -> str:
        while True:
            word = "".join(self._chance.choice(_PARTS[part]) for part in ("start", "middle", kind))
            letters = "".join(sorted(word.lower()))
            if letters not in self._given:
                self._given.add(letters)
                return word

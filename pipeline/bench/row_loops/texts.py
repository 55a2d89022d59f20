"""Loops of the methods that read what a response says."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence

from pipeline.bench.row_loops.rows import Row, RowCredit, alike, along_paths, deviation, judged_leaves, mean, path

BUDGET = 256
CELLS = {"DQ_AQ", "DQ_CQ", "DQ_DA", "VQ_AQ", "VQ_CQ", "VQ_DA"}
FORMAT = re.compile(
    r"<thinking>.*?</thinking>\s*<payoff>.*?</payoff>\s*<analyze>.*?</analyze>\s*<response>.*?</response>$",
    re.DOTALL | re.MULTILINE,
)
STRAIGHT = str.maketrans("\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b", "\"\"\"\"''''")


def curriculum_length_rows(rows: Sequence[Row]) -> RowCredit:
    """Verdict, closeness of the length to the budget and tags, weighted and compared within the group."""
    said = []
    for leaves in judged_leaves(rows).values():
        rewards = []
        for leaf in leaves:
            steps = path(rows, leaf)
            share = sum(len(rows[step].tokens) for step in steps) / BUDGET
            length = share if share <= 1 else max(0.0, 2.0 - share)
            tags = _well_formed_spans("".join(rows[step].text or "" for step in steps))
            rewards.append(0.6 * rows[leaf].reward + 0.3 * length + 0.1 * 0.5 * tags)
        if alike(rewards):
            said += [(leaf, 0.0) for leaf in leaves]
            continue
        middle, spread = mean(rewards), math.sqrt(deviation(rewards, ddof=0) ** 2 + 1e-8)
        said += [(leaf, (reward - middle) / spread) for leaf, reward in zip(leaves, rewards, strict=True)]
    return RowCredit(None, along_paths(rows, said))


def _well_formed_spans(text: str) -> int:
    """How many of a think and an answer span there are, each tag once and the opening one first; 0 if they overlap."""
    spans = []
    for name in ("think", "answer"):
        opening, closing = f"<{name}>", f"</{name}>"
        if text.count(opening) == 1 and text.count(closing) == 1 and text.index(opening) < text.index(closing):
            spans.append((text.index(opening), text.index(closing)))
    if len(spans) == 2:
        first, second = sorted(spans)
        if second[0] < first[1]:
            return 0
    return len(spans)


def gtalign_rows(rows: Sequence[Row]) -> RowCredit:
    """The geometric mean of what user and model get from a reply; its z-score over all replies."""
    replies = []
    for leaves in judged_leaves(rows).values():
        for leaf in leaves:
            text = "".join(rows[step].text or "" for step in path(rows, leaf))
            replies.append((leaf, _mutual_reward(text, min(max(rows[leaf].reward, 0.0), 1.0))))
    value = along_paths(rows, replies)
    for node, row in enumerate(rows):
        if row.parent < 0:
            value[node] = None
    rewards = [reward for _, reward in replies]
    if not rewards or alike(rewards):
        return RowCredit(value, along_paths(rows, [(leaf, 0.0) for leaf, _ in replies]))
    middle, spread = mean(rewards), deviation(rewards, ddof=0)
    scale = (1.0 if spread <= 1e-6 else spread) + 1e-6
    return RowCredit(value, along_paths(rows, [(leaf, (reward - middle) / scale) for leaf, reward in replies]))


def _mutual_reward(text: str, accuracy: float) -> float:
    """0 without a response or a matrix that can be read."""
    response, said = _block(text, "response"), _block(text, "payoff")
    payoff = None if said is None else _read_payoff(said)
    if response is None or payoff is None:
        return 0.0
    spread = 0
    for cell in payoff.values():
        apart = abs(cell["user"] - cell["LLM"])
        spread += (apart > 0) + (apart / max(abs(cell["user"]), abs(cell["LLM"]), 1e-8) > 0.1)
    brief = math.exp(-text.index("<response>") / 500.0)
    user = 1e-4 + 0.5 * accuracy + 0.2 * _in_range(len(response.split()), 20, 500) + 0.3 * brief
    formed = 1.0 if FORMAT.match(text) else 0.0
    model = 1e-4 + 0.2 * formed + 0.2 * spread / 12 + 0.4 * accuracy + 0.2 * _in_range(len(text.split()), 500, 1000)
    return math.sqrt(user * model)


def _block(text: str, tag: str) -> str | None:
    """What stands between the first opening tag and the next closing one."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[1].strip() if found else None


def _read_payoff(said: str) -> dict[str, dict[str, float]] | None:
    """The matrix, as JSON or as a Python literal; None: it is none."""
    said = said.translate(STRAIGHT)
    try:
        payoff = json.loads(said)
    except ValueError:
        try:
            payoff = ast.literal_eval(said)
        except (ValueError, SyntaxError):
            return None
    if not isinstance(payoff, dict) or set(payoff) != CELLS:
        return None
    for cell in payoff.values():
        if not isinstance(cell, dict) or set(cell) != {"LLM", "user"}:
            return None
        if any(type(number) not in (int, float) or not math.isfinite(number) for number in cell.values()):
            return None
    return payoff


def _in_range(words: int, least: float, most: float) -> float:
    return 1.0 / (1.0 + math.exp(-0.005 * (words - least))) / (1.0 + math.exp(-0.005 * (most - words)))

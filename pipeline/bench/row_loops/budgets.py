"""The loop of BRPO: thinking that is cut at budgets, and the summaries that are drawn there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.bench.row_loops.rows import RENDERED, Row, RowCredit, alike, at_said, is_said, mean, path

SAMPLE, BRANCH, SUMMARY = 1, 2, 13
"""Codes of origins."""
BUDGETS, SUMMARIES = 4, 4


class _Layout(NamedTuple):
    """Where thinking ends, and by such a place, or by the root before the first: the summaries that hang on it, in the
    order they were drawn, and the verdicts on what else was said after it. traces: last ends, by tree."""

    ends: list[bool]
    summaries: dict[int, list[int]]
    answers: dict[int, list[float]]
    traces: dict[int, list[int]]


def brpo_rows(rows: Sequence[Row]) -> RowCredit:
    """Thinking earns the scores expected at its budget and later ones, less what its past and the group led to expect;
    a summary its score less the mean of those drawn from the same thinking."""
    layout = _layout(rows)
    expected, moved = [], []
    for traces in layout.traces.values():
        scored = [_scores(rows, trace, layout) for trace in traces]
        returns = [[_share(scores[stage:]) for stage in range(BUDGETS)] for scores in scored]
        for trace, scores, left in zip(traces, scored, returns, strict=True):
            stage = int(rows[trace].budget)
            for step in reversed(path(rows, trace)):
                stage = int(rows[step].budget) if layout.ends[step] else stage
                usual = _baseline(scores, [other[stage] for other in returns], stage)
                if left[stage] is not None:
                    expected.append((step, left[stage]))
                if None not in (left[stage], usual):
                    moved.append((step, left[stage] - usual))
            moved += _of_summaries(rows, trace, layout)
    advantage = at_said(rows, moved)
    advantage = [0.0 if _is_forced(rows, place) else step for place, step in enumerate(advantage)]
    return RowCredit(at_said(rows, expected, unsaid=None), advantage)


def _layout(rows: Sequence[Row]) -> _Layout:
    ends = [is_said(row) and row.origin == SAMPLE and row.budget is not None for row in rows]
    inner = {row.parent for row in rows}
    layout = _Layout(ends, {}, {}, {})
    on, asked = list(range(len(rows))), [False] * len(rows)
    for place, row in enumerate(rows):
        if row.parent >= 0 and not ends[place]:
            on[place], asked[place] = on[row.parent], asked[row.parent] or _is_forced(rows, place)
        if place in inner or ends[place]:
            continue
        if row.origin in (BRANCH, SUMMARY) and asked[place] and not _is_forced(rows, place):
            layout.summaries.setdefault(on[place], []).append(place)
        if row.origin == SAMPLE and ends[on[place]] and row.reward is not None:
            layout.answers.setdefault(on[place], []).append(row.reward)
    gone_on = {on[row.parent] for place, row in enumerate(rows) if ends[place]}
    for place, row in enumerate(rows):
        if ends[place] and place not in gone_on:
            layout.traces.setdefault(row.tree, []).append(place)
    return layout


def _is_forced(rows: Sequence[Row], place: int) -> bool:
    row = rows[place]
    if row.parent < 0:
        return False
    return row.origin == RENDERED or (row.origin == SUMMARY and rows[row.parent].origin != SUMMARY)


def _scores(rows: Sequence[Row], trace: int, layout: _Layout) -> list[float | None]:
    """The mean score of a trace at each budget."""
    way = path(rows, trace)
    told: list[list[float]] = [[] for _ in range(BUDGETS)]
    for end in way:
        for number, leaf in enumerate(layout.summaries.get(end, [])):
            later = number // SUMMARIES if end == trace else 0  # a finished trace answers for later budgets too
            budget = rows[leaf].budget
            stage = int(min(rows[end].budget + later, BUDGETS - 1) if budget is None else budget)
            if rows[leaf].reward is not None:
                told[stage].append(rows[leaf].reward)
    scores = [mean(rewards) if rewards else None for rewards in told]
    for stage in range(int(rows[trace].budget), BUDGETS):
        if rows[trace].reward is not None:
            scores[stage] = 0.0
        elif scores[stage] is None and trace in layout.answers:
            scores[stage] = mean(layout.answers[trace])
    first = next(int(rows[step].budget) for step in way if layout.ends[step])
    at_once = layout.summaries.get(rows[way[0]].parent, [])
    for stage in range(first):
        of_stage = [rows[leaf].reward for leaf in at_once if rows[leaf].budget == stage]
        rewards = [reward for reward in of_stage if reward is not None]
        scores[stage] = mean(rewards) if rewards else None
    return scores


def _share(scores: Sequence[float | None]) -> float | None:
    return None if None in scores else sum(scores) / BUDGETS


def _baseline(scores: Sequence[float | None], of_group: Sequence[float | None], stage: int) -> float | None:
    """The group's mean at first, and ever more the trace's own past."""
    known = [one for one in of_group if one is not None]
    usual = 0.0 if len(of_group) == 1 else mean(known) if known else None
    if usual is None or None in scores[:stage]:
        return None
    own = 0.0
    if stage:
        weights = [2.0**place for place in range(stage)]
        past = sum(weight * score for weight, score in zip(weights, scores[:stage], strict=True)) / sum(weights)
        own = past * (BUDGETS - stage) / BUDGETS
    return (stage * own + (BUDGETS - stage) * usual) / BUDGETS


def _of_summaries(rows: Sequence[Row], trace: int, layout: _Layout) -> list[tuple[int, float]]:
    """What each summary of a trace has more than those from the same thinking, along what was said for it."""
    moved = []
    for end in path(rows, trace):
        judged = [leaf for leaf in layout.summaries.get(end, []) if rows[leaf].reward is not None]
        rewards = [rows[leaf].reward for leaf in judged]
        for leaf in judged:
            middle = rewards[0] if alike(rewards) else mean(rewards)
            moved += [(step, rows[leaf].reward - middle) for step in path(rows, leaf)[len(path(rows, end)) :]]
    return moved

"""Loops of the methods for agents: states of an environment, seats of a game, calls of a tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    alike,
    all_leaves,
    along_said,
    at_said,
    deviation,
    judged_leaves,
    judged_runs,
    mean,
    spoken_path,
    verl_scale,
)
from schemas.words import FINISHES

INVALID = FINISHES.index("invalid")


def gigpo_rows(rows: Sequence[Row]) -> RowCredit:
    """What the episode paid among all steps of the task, plus what is still to come among steps from the same state;
    both less a tenth for a step that could not be read."""
    said: list[tuple[int, float]] = []
    for leaves in all_leaves(rows).values():
        steps: list[tuple[int, float, float]] = []
        for leaf in leaves:
            episode, later = 0.0, 0.0
            returns = []
            for step in reversed(spoken_path(rows, leaf)):
                episode += rows[step].step_reward
                later = rows[step].step_reward + 0.95 * later
                returns.append((step, later))
            fines = {step: 0.1 if _unread(rows[step]) else 0.0 for step, _ in returns}
            steps += [(step, episode - fines[step], still - fines[step]) for step, still in returns]
        if not steps:
            continue
        middle, spread = verl_scale([episode for _, episode, _ in steps])
        same_state: dict[int, list[float]] = {}
        for step, _, still in steps:
            if rows[step].state is not None:
                same_state.setdefault(rows[step].state, []).append(still)
        compared = {state: _centre_and_spread(returns) for state, returns in same_state.items()}
        for step, episode, still in steps:
            advantage = (episode - middle) / spread
            if rows[step].state is not None:
                centre, scale = compared[rows[step].state]
                advantage += (still - centre) / scale
            said.append((step, advantage))
    return RowCredit(None, at_said(rows, said))


def _unread(row: Row) -> bool:
    calls = json.loads(row.tool_calls) if row.tool_calls is not None else []
    return row.finish == INVALID or (len(calls) > 0 and all("error" in call for call in calls))


def _centre_and_spread(returns: Sequence[float]) -> tuple[float, float]:
    if alike(returns):
        return returns[0], 1.0
    return mean(returns), deviation(returns, ddof=1) + 1e-6


def mars_rows(rows: Sequence[Row]) -> RowCredit:
    """What a seat still earns along a path, less the mean over all turns of the seat, sampled or not."""
    turns: list[tuple[int, float]] = []

    def pool(step: int) -> tuple[int, bool]:
        return rows[step].agent, rows[step].sampled

    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            later: dict[int, float] = {}
            for step in reversed(spoken_path(rows, leaf)):
                seat = rows[step].agent
                later[seat] = later.get(seat, 0.0) + rows[step].step_reward
                turns.append((step, later[seat]))
    pools: dict[tuple[int, bool], list[float]] = {}
    for step, still in turns:
        pools.setdefault(pool(step), []).append(still)
    middles = {seat: mean(returns) for seat, returns in pools.items()}
    return RowCredit(None, at_said(rows, [(step, still - middles[pool(step)]) for step, still in turns]))


def san_rows(rows: Sequence[Row]) -> RowCredit:
    """Half a trajectory's place in its task, half that among those of the task that searched as often."""
    said = []
    for leaves in judged_leaves(rows).values():
        overall = _population([rows[leaf].reward for leaf in leaves])
        searches = [sum(_searched(rows[step].tool_calls) for step in spoken_path(rows, leaf)) for leaf in leaves]
        strata: dict[int, list[float]] = {}
        for leaf, often in zip(leaves, searches, strict=True):
            strata.setdefault(often, []).append(rows[leaf].reward)
        within = {often: _population(rewards) for often, rewards in strata.items()}
        for leaf, often in zip(leaves, searches, strict=True):
            scaled = [(rows[leaf].reward - middle) / spread for middle, spread in (overall, within[often])]
            said.append((leaf, mean(scaled)))
    return RowCredit(None, along_said(rows, said))


def _population(rewards: Sequence[float]) -> tuple[float, float]:
    middle = rewards[0] if alike(rewards) else mean(rewards)
    return middle, deviation(rewards, ddof=0) + 1e-6


def _searched(tool_calls: str | None) -> bool:
    return tool_calls is not None and any(call.get("name") == "search" for call in json.loads(tool_calls))


def calm_rows(rows: Sequence[Row]) -> RowCredit:
    """A step is paid by the environment, and 1 for each subgoal of the task that is achieved for the first time."""
    listed = {row.tree: row.subgoals for row in rows if row.parent < 0}
    paid, left = [], []
    for tree, leaves in all_leaves(rows).items():
        if listed[tree] is None:
            continue
        for leaf in leaves:
            open_goals, rewards = set(json.loads(listed[tree])), []
            for step in spoken_path(rows, leaf):
                new = open_goals.intersection(json.loads(rows[step].subgoals or "[]"))
                open_goals -= new
                rewards.append((step, rows[step].step_reward + len(new)))
            paid += rewards
            later = 0.0
            for step, reward in reversed(rewards):
                later = reward + 0.99 * later
                left.append((step, later))
    return RowCredit(at_said(rows, left, unsaid=None), at_said(rows, paid))


def matchtir_rows(rows: Sequence[Row]) -> RowCredit:
    """Half a trajectory's place among those of its task, half that of what a turn still earns among those that have one
    at its position."""
    wanted = {row.tree: row.reference_calls for row in rows if row.parent < 0}
    said = []
    for tree, leaves in judged_runs(rows).items():
        if wanted[tree] is None:
            continue
        references = json.loads(wanted[tree])
        ways = [spoken_path(rows, leaf) for leaf in leaves]
        rewards = [_turn_rewards(rows, leaf, way, references) for leaf, way in zip(leaves, ways, strict=True)]
        middle, spread = verl_scale([sum(turns) for turns in rewards])
        returns = [
            [sum(0.9 ** (k - t) * turns[k] for k in range(t, len(turns))) for t in range(len(turns))]
            for turns in rewards
        ]
        scales: list[tuple[float, float]] = []
        for turn in count():
            there = [turns[turn] for turns in returns if len(turns) > turn]
            if not there:
                break
            scales.append(verl_scale(there))
        for way, turns, left in zip(ways, rewards, returns, strict=True):
            whole = (sum(turns) - middle) / spread
            for step, still, (centre, scale) in zip(way, left, scales, strict=False):
                said.append((step, mean([whole, (still - centre) / scale])))
    return RowCredit(None, at_said(rows, said))


def _turn_rewards(rows: Sequence[Row], leaf: int, way: Sequence[int], references: Sequence[dict]) -> list[float]:
    """The mean of what a turn's calls earn; the verdict for a last turn without calls."""
    made = [_calls(rows[step].tool_calls) for step in way]
    earned = iter(_matched([call for calls in made for call in calls], references))
    rewards = [mean([next(earned) for _ in calls]) if calls else 0.0 for calls in made]
    if way and not made[-1]:
        rewards[-1] = rows[leaf].reward
    return rewards


def _calls(text: str | None) -> list[dict]:
    found = json.loads(text or "[]")
    return [call if isinstance(call, dict) else {} for call in found]


def _matched(calls: Sequence[dict], references: Sequence[dict]) -> list[float]:
    """What each call earns one to one at the highest total; of equal totals the earlier calls earn most."""
    scores = [[_likeness(call, reference) for reference in references] for call in calls]

    @cache
    def best(row: int, free: frozenset[int]) -> tuple[float, ...]:
        if row == len(calls):
            return ()
        choices = [(0.0, *best(row + 1, free))]
        choices += [(scores[row][one], *best(row + 1, free - {one})) for one in free if scores[row][one] > 0]
        return max(choices, key=lambda earned: (round(sum(earned), 10), earned))

    return list(best(0, frozenset(range(len(references)))))


def _likeness(call: dict, reference: dict) -> float:
    """1 for the name, the Jaccard index of the parameters' names, 1 for each parameter that is equal; brought to 1."""
    name = call.get("name")
    if not isinstance(name, str) or name.lower() != reference["name"].lower():
        return 0.0
    given, wanted = (one.get("arguments") for one in (call, reference))
    given, wanted = (one if isinstance(one, dict) else {} for one in (given, wanted))
    either = given.keys() | wanted.keys()
    names = len(given.keys() & wanted.keys()) / len(either) if either else 1.0
    equal = sum(key in given and _equal(given[key], wanted[key]) for key in wanted)
    return (1.0 + names + equal) / (2.0 + len(wanted))


def _equal(one: Any, other: Any) -> bool:
    """As JSON has it: a truth value is no number."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other

"""Loops of the methods for agents: states of an environment, seats of a game, calls of a tool."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.bench.row_loops.rows import (
    Row,
    RowCredit,
    alike,
    all_leaves,
    along_said,
    at_said,
    deviation,
    judged_leaves,
    mean,
    spoken_path,
    verl_scale,
)


def gigpo_rows(rows: Sequence[Row]) -> RowCredit:
    """What the episode paid among all steps of the task, plus what is still to come among steps from the same state."""
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
            steps += [(step, episode, still) for step, still in returns]
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


def _centre_and_spread(returns: Sequence[float]) -> tuple[float, float]:
    if alike(returns):
        return returns[0], 1.0
    return mean(returns), deviation(returns, ddof=1) + 1e-6


def mars_rows(rows: Sequence[Row]) -> RowCredit:
    """What a seat still earns along a path, less the mean over all turns of the seat."""
    turns: list[tuple[int, float]] = []
    for leaves in all_leaves(rows).values():
        for leaf in leaves:
            later: dict[int, float] = {}
            for step in reversed(spoken_path(rows, leaf)):
                seat = rows[step].agent
                later[seat] = later.get(seat, 0.0) + rows[step].step_reward
                turns.append((step, later[seat]))
    pools: dict[int, list[float]] = {}
    for step, still in turns:
        pools.setdefault(rows[step].agent, []).append(still)
    middles = {seat: mean(returns) for seat, returns in pools.items()}
    return RowCredit(None, at_said(rows, [(step, still - middles[rows[step].agent]) for step, still in turns]))


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

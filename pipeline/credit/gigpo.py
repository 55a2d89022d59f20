"""GiGPO: group advantages of whole episodes, plus those of the actions that were taken from the same state.

Does not know what a state is: equal ones come as equal codes, or as texts to be held against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.anchors import alike_state, same_state
from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.normalise import lone, normalise
from pipeline.credit.ragged import row_sums, rows_of, suffix_sums
from pipeline.credit.scored import parse
from pipeline.credit.spoken import PROMPT, lay_steps, spoken
from pipeline.errors import BadConfig, check_words
from schemas.words import FINISHES

MODES = ("mean_std_norm", "mean_norm")
"""Less the mean and over the deviation; less the mean alone."""
BASELINES = ("steps", "trajectories")
"""What the mean and deviation of episode rewards are taken over: every step, or the first one of each trajectory."""


@dataclass(frozen=True, slots=True)
class GigpoParams:
    """Parameters of GiGPO.

    gamma: discount a step.
    mode: word of MODES, for episodes and for steps.
    baseline_over: word of BASELINES. `steps`, the official code's, counts long episodes more; the paper has the other.
    step_advantage_w: weight of the step advantage beside the episode's.
    enable_similarity: states are texts, and much alike is as good as equal.
    similarity_thresh: how much, in (0, 1); see `alike_state`.
    invalid_penalty: taken off a step whose action could not be read; 0.01 in the search recipe.
    epsilon, ddof: of the standard deviations.

    Raises:
        BadConfig: a word is not known, or the threshold is not between 0 and 1.
    """

    gamma: float = 0.95
    mode: str = "mean_std_norm"
    baseline_over: str = "steps"
    step_advantage_w: float = 1.0
    enable_similarity: bool = False
    similarity_thresh: float = 0.95
    invalid_penalty: float = 0.1
    epsilon: float = 1e-6
    ddof: int = 1

    def __post_init__(self) -> None:
        check_words(self, of="gigpo", mode=MODES, baseline_over=BASELINES)
        if self.enable_similarity and not 0 < self.similarity_thresh < 1:
            raise BadConfig(
                f"gigpo similarity_thresh {self.similarity_thresh} is not between 0 and 1",
                remedy="leave enable_similarity off to ask for equal states",
            )


DEFAULTS = GigpoParams()


class GigpoSteps(NamedTuple):
    """What GiGPO says of `P` steps, in reward units, or in standard deviations where `mode` divides by one.

    discounted_return: `[P]`, rewards from the step on, before any penalty.
    step_reward: `[P]`, the same less the step's own penalty.
    group, group_size: `[P]` int64, steps from the same state, numbered in the order of their first; how many.
    episode_advantage, step_advantage: `[P]`.
    advantage: `[P]`, of the episode plus the weighted one of the step.
    degenerate: `[P]` bool, the episode statistics are of a single entry, so that its reward stands as it is.
    """

    discounted_return: np.ndarray
    step_reward: np.ndarray
    group: np.ndarray
    group_size: np.ndarray
    episode_advantage: np.ndarray
    step_advantage: np.ndarray
    advantage: np.ndarray
    degenerate: np.ndarray


def gigpo(
    rewards: np.ndarray,
    offsets: np.ndarray,
    *,
    tasks: np.ndarray,
    states: np.ndarray | Sequence[str | None],
    valid: np.ndarray | None = None,
    params: GigpoParams = DEFAULTS,
) -> GigpoSteps:
    """Credit every step of `M` trajectories.

    Args:
        rewards: `[P]` float64, paid for each step, trajectory after trajectory, no NaN.
        offsets: `[M + 1]` int64, where each trajectory begins; one without steps takes no part.
        tasks: `[M]` int, code of each trajectory's task from 0: its group.
        states: `[P]`, before the step: int64 codes, -1 where none is known; texts or None if `enable_similarity`.
        valid: `[P]` bool, the action could be read. None: all could.
        params: see there.

    Returns:
        A step without a state, or the only one from it, has step advantage 0. An episode that is the single entry of
        its group's statistics keeps its raw reward.

    Source: GiGPO (Feng et al., 2025) as the official code computes it; the paper's episode statistics are
        `baseline_over="trajectories"`. Deviations: a step without a state is a group of its own, and equal rewards
        give exactly 0.
    """
    group_count = int(tasks.max()) + 1 if len(tasks) else 0
    task_P = np.repeat(tasks, np.diff(offsets))
    penalty = np.zeros(len(rewards)) if valid is None else np.where(valid, 0.0, params.invalid_penalty)
    returns = suffix_sums(rewards, offsets, discount=params.gamma)
    episode = row_sums(rewards, offsets)[rows_of(offsets)] - penalty
    members = None if params.baseline_over == "steps" else offsets[:-1][np.diff(offsets) > 0]
    forms = {"form": params.mode, "eps": params.epsilon, "ddof": params.ddof}
    episode_advantage = normalise(episode, task_P, count=group_count, members=members, **forms)

    if params.enable_similarity:
        anchors = alike_state(states, task_P, threshold=params.similarity_thresh)
    else:
        anchors = same_state(np.asarray(states), task_P)
    size = np.bincount(anchors)
    step_reward = returns - penalty
    step_advantage = normalise(step_reward, anchors, count=len(size), keep_lone=False, **forms)
    return GigpoSteps(
        discounted_return=returns,
        step_reward=step_reward,
        group=anchors,
        group_size=size[anchors],
        episode_advantage=episode_advantage,
        step_advantage=step_advantage,
        advantage=episode_advantage + params.step_advantage_w * step_advantage,
        degenerate=lone(task_P, count=group_count, members=members),
    )


def gigpo_needs(params: GigpoParams) -> tuple[str, ...]:
    """The INPUTS that `gigpo_credit` needs: of a state its text, or the code."""
    return ("text" if params.enable_similarity else "state", "step_reward", "kind", "finish", "tool_calls")


def gigpo_credit(trees: Trees, params: GigpoParams = DEFAULTS) -> CreditColumns:
    """Credit the steps of trees, every path to a leaf being a trajectory of the tree's group.

    Needs what `gigpo_needs` says. What the environment showed is no step. Rewards are what it paid; verdicts are not
    looked at, so that a path without one takes part with what it was paid.

    With `enable_similarity` a step's state is the text that it was shown: of the rendered node right above, which at
    the first turn is the task's question; a step below another has none.

    An action could not be read where none of its tool calls could, or where it ended the episode as invalid. The store
    does not tell of other actions that could not be taken: they count as readable.

    Args:
        trees: `N` nodes.
        params: see there.

    Returns:
        advantage: `[N]` float64, mean over the paths through the node; 0 at roots.

    Source: as `gigpo`. Deviation: the paper samples trajectories that share no step.
    """
    found = spoken(trees)
    nodes = found.paths.nodes
    steps = gigpo(
        trees.given["step_reward"][nodes],
        found.paths.offsets,
        tasks=found.tasks,
        states=_shown_before(trees, nodes) if params.enable_similarity else trees.given["state"][nodes],
        valid=_readable(trees)[nodes],
        params=params,
    )
    return CreditColumns(advantage=lay_steps(trees, nodes, steps.advantage))


def _shown_before(trees: Trees, steps: np.ndarray) -> list[str | None]:
    """What was shown right above each of some steps; None where nothing was."""
    above = trees.parent[steps]
    texts = pl.Series(trees.given["text"]).gather(above)
    return texts.set(pl.Series(trees.given["kind"][above] != PROMPT) | (texts == ""), None).to_list()


def _readable(trees: Trees) -> np.ndarray:
    """`[N]` bool: no sign that the step's action could not be read."""
    calls = pl.Series(trees.given["tool_calls"])
    told = calls.unique().drop_nulls()
    unread = [text for text in told.filter(told.str.contains('"error"', literal=True)).to_list() if _all_unread(text)]
    return (trees.given["finish"] != FINISHES.index("invalid")) & ~calls.is_in(unread).fill_null(False).to_numpy()


def _all_unread(calls: str) -> bool:
    """Whether a JSON list of tool calls says of each why it could not be made."""
    found = parse(calls)
    return isinstance(found, list) and all(isinstance(call, dict) and call.get("error") for call in found)

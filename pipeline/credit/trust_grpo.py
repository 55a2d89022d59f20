"""Trust-GRPO: a judge's score of the thinking counts beside the outcome, as far as the group shows it can be trusted.

Does not know the judge; reads its answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, mean_by
from pipeline.credit.group import GroupParams, group_advantages
from pipeline.errors import BadConfig, check_words

VARIANTS = ("paper", "code")
"""Every answer has its thinking score; or as the authors' code does: none for a bad answer, none for anyone where all
are good or all bad."""
_SCORE = re.compile(r"<answer>\s{0,9}([+-]?\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s{0,9}</answer>")
_CORRECT, _JUDGED, _ALL_RIGHT, _ALL_WRONG, _UNJUDGED_TRUST = 0.5, 0.2, 0.9, 0.1, 0.5


@dataclass(frozen=True, slots=True)
class TrustParams:
    """Parameters of Trust-GRPO.

    variant: word of VARIANTS.
    alpha: weight of the thinking reward at the first step of training.
    step: of training, from 0.
    total_steps: after as many the weight has fallen to 1 / e of alpha.
    std_ddof, eps: of the group's standard deviation.

    Raises:
        BadConfig: no such variant, or no steps.
    """

    variant: str = "paper"
    alpha: float = 0.3
    step: int = 0
    total_steps: int = 1500
    std_ddof: int = 1
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_words(self, of="trust_grpo", variant=VARIANTS)
        if not self.total_steps > 0:
            raise BadConfig(f"trust_grpo total_steps {self.total_steps} is not above 0", remedy="give those of the run")


DEFAULTS = TrustParams()


class TrustCredit(NamedTuple):
    """What Trust-GRPO says of `M` trajectories in `G` groups.

    mu_correct, mu_wrong: `[G]`, mean thinking reward of right and of wrong answers; 0 where there are none.
    trust: `[G]` in (0, 1], or 0 where the variant `code` asks no judge; what the thinking rewards are multiplied by.
    logged_trust: `[G]`, what the authors' code writes down in its place; under `paper` the same.
    anneal: how much of alpha is left.
    thinking: `[M]` in [0, 1], the thinking rewards used.
    rewards: `[M]`, outcome plus weighted thinking.
    advantages: `[M]`, standard deviations.
    """

    mu_correct: np.ndarray
    mu_wrong: np.ndarray
    trust: np.ndarray
    logged_trust: np.ndarray
    anneal: float
    thinking: np.ndarray
    rewards: np.ndarray
    advantages: np.ndarray


def parse_thinking_score(text: str | None) -> float:
    """The score between `answer` tags of a judge, cut to [0, 1]; 0 where there is none."""
    found = _SCORE.search(text or "")
    return min(max(float(found[1]), 0.0), 1.0) if found else 0.0


def trust_grpo(
    outcomes: np.ndarray, thinking: np.ndarray, groups: np.ndarray, params: TrustParams = DEFAULTS
) -> TrustCredit:
    """Combine outcome and thinking rewards and compare them within the group.

    The reward is `outcome + trust * alpha * exp(-step / total_steps) * thinking`. An answer is right from an outcome of
    0.5 on. Trust is 1, or `exp(mu_correct - mu_wrong)` where wrong answers have the better thinking.

    Args:
        outcomes: `[M]` float64, no NaN.
        thinking: `[M]` float64, a judge's scores, cut to [0, 1]; NaN: could not be read, which counts as 0.
        groups: `[M]` int, code of each trajectory's group, from 0.
        params: variant and weights.

    Source: SophiaVL-R1 (Fan et al., 2025). Trust where all answers are right, or all wrong, is 1, which the paper
        leaves open.
    """
    count = int(groups.max(initial=-1)) + 1
    scores, weight = np.clip(np.nan_to_num(thinking), 0.0, 1.0), np.ones(count)
    if params.variant == "code":
        scores = np.where(outcomes >= _JUDGED, scores, 0.0)
        weight[_none(groups, outcomes < _ALL_RIGHT, count) | _none(groups, outcomes > _ALL_WRONG, count)] = 0.0
        scores = scores * weight[groups]
    right = outcomes >= _CORRECT
    mu_correct, mu_wrong = (mean_by(groups[some], scores[some], count) for some in (right, ~right))
    both = ~np.isnan(mu_correct) & ~np.isnan(mu_wrong)
    mu_correct, mu_wrong = np.nan_to_num(mu_correct), np.nan_to_num(mu_wrong)
    gap = np.minimum(mu_correct - mu_wrong, 0.0)
    trust = np.where(both, np.exp(gap), 1.0) * weight
    logged = trust
    if params.variant == "code":
        logged = np.where(weight > 0, np.exp(2.0 * gap), _UNJUDGED_TRUST)
    anneal = float(np.exp(-params.step / params.total_steps))
    rewards = outcomes + trust[groups] * params.alpha * anneal * scores
    base = GroupParams("grpo_verl", verl_eps=params.eps, ddof=params.std_ddof)
    advantages = group_advantages(rewards, groups, lengths=np.ones(len(groups)), params=base)
    return TrustCredit(mu_correct, mu_wrong, trust, logged, anneal, scores, rewards, advantages)


def trust_grpo_credit(trees: Trees, params: TrustParams = DEFAULTS) -> CreditColumns:
    """Credit every node of a path with its trajectory's advantage, the step labels standing for the judge.

    The thinking reward of a judged trajectory is the mean label of its labelled steps, 0 without one. Where several
    trajectories pass through a node, it has the mean of their advantages.

    Args:
        trees: `N` nodes, given `step_soft`.
        params: variant and weights.

    Returns:
        advantage: `[N]` float64; 0 at roots, NaN where no judged leaf is below.

    Source: as `trust_grpo`. Deviation: there a judge reads the whole thinking at once.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    soft = trees.given["step_soft"][paths.nodes]
    labelled = ~np.isnan(soft)
    thinking = mean_by(paths.members()[labelled], soft[labelled], len(ends))
    found = trust_grpo(trees.reward[ends], thinking, trees.tree[ends], params)
    advantage = paths.mean_by_node(found.advantages)
    return CreditColumns(advantage=np.where(trees.parent < 0, 0.0, drop_rounding(advantage)))


def _none(groups: np.ndarray, some: np.ndarray, count: int) -> np.ndarray:
    """`[count]` bool: no member of the group is one of some."""
    return np.bincount(groups[some], minlength=count) == 0

"""REINFORCE++: the discounted reward from a token on, beside that of every token of the batch. No group, no critic.

Does not know what a token is paid: rewards come in, a divergence from the reference among them or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.normalise import whiten
from pipeline.credit.ragged import last_places, suffix_sums
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows


@dataclass(frozen=True, slots=True)
class ReinforcePPParams:
    """Parameters of REINFORCE++.

    gamma: discount a token.
    eps: added to the variance of the batch.
    ddof: of it.
    """

    gamma: float = 1.0
    eps: float = 1e-8
    ddof: int = 1


DEFAULTS = ReinforcePPParams()


def reinforce_pp(rewards: np.ndarray, offsets: np.ndarray, params: ReinforcePPParams = DEFAULTS) -> np.ndarray:
    """Whiten the returns of the tokens of a batch of responses: `(x - mean) / sqrt(variance + eps)` over all tokens.

    Args:
        rewards: `[T]` float64, what each token is paid, response after response, no NaN.
        offsets: `[M + 1]` int64, where each response begins.
        params: discount, and the variance.

    Returns:
        `[T]` float64, standard deviations. 0 for all where the returns are equal or there are no more than `ddof`.

    Source: REINFORCE++ (Hu, 2025) as verl computes it. Deviation: equal returns give exactly 0 however their mean
        rounds.
    """
    returns = suffix_sums(rewards, offsets, discount=params.gamma)
    return whiten(returns, np.ones(len(returns), np.int64), eps=params.eps, ddof=params.ddof)


def reinforce_pp_credit(trees: Trees, params: ReinforcePPParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of the judged trajectories of trees, each paid its verdict with its last token.

    The batch is all of `trees`; a token that trajectories share is in it once for each.

    Args:
        trees: `N` nodes, given `kind` and `origin`.
        params: discount, and the variance.

    Returns:
        advantage: `[N]` float64, mean over the node's tokens; 0 where the policy said nothing, NaN without a token or
            a judged leaf below.
        token_advantages: `[T]` float64, mean over the judged trajectories through the token; 0 where the policy said
            nothing, NaN where no judged leaf is below.

    Source: as `reinforce_pp`. Deviation: verl's return stops at whatever the policy did not say; here it goes on to
        what was said before, one token a discount.
    """
    found = spoken(trees, judged=True)
    rows = token_rows(trees, found)
    rewards = np.zeros(len(rows.places))
    paid, last = last_places(rows.offsets)
    rewards[last] = trees.reward[found.ends[paid]]
    return credit_of_tokens(trees, rows, reinforce_pp(rewards, rows.offsets, params))

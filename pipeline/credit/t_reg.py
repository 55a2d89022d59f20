"""T-REG: a reward a token, from what the reference model would keep of a response when asked to better or worsen it.

Does not score tokens: log-probabilities under both requests are given. The loss is in `pipeline.metrics.preference`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows

WORDING = {
    "better": "more helpful, correct, coherent and concise",
    "worse": "unhelpful, incorrect, incoherent and verbose",
}
"""What the response shall become, by request."""


@dataclass(frozen=True, slots=True)
class TRegRewardParams:
    """The token rewards of T-REG have no parameters; those of its loss are `pipeline.metrics.preference.TRegParams`."""


NONE = TRegRewardParams()


def revision_request(instruction: str, response: str, *, aim: str) -> str:
    """What the reference model is asked; the response, token for token, is then scored as its answer.

    Args:
        instruction: the task as the user put it.
        response: the answer to be scored.
        aim: key of WORDING.

    Raises:
        KeyError: no such aim.
    """
    return (
        f"Below are an instruction and a response to it. Rewrite the response so that it is {WORDING[aim]}. Give the "
        f"rewritten response alone.\n\nInstruction:\n{instruction}\n\nResponse:\n{response}"
    )


def token_rewards(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """How much more the reference model says a token when asked for a better response than for a worse one.

    Args:
        better: `[T]` float64, natural log-probability of each token of the responses after the request for better
            ones, given the tokens before it. NaN: unknown.
        worse: of the same tokens, after the request for worse ones.

    Returns:
        `[T]` float64 in [-0.5, 0.5]: `sigma(better - worse) - 0.5`; exactly 0 where both are equal, NaN where one
        is unknown.

    Raises:
        ValueError: not one number a token in both.

    Source: T-REG (Zhou et al., 2024). The wording of the requests, which the paper does not give, is ours.
    """
    if np.shape(better) != np.shape(worse):
        raise ValueError(f"better has {np.shape(better)} numbers, worse {np.shape(worse)}; score the same tokens")
    with np.errstate(invalid="ignore"):
        return 0.5 * np.tanh(0.5 * (np.asarray(better, np.float64) - np.asarray(worse, np.float64)))


def t_reg_credit(trees: Trees, params: TRegRewardParams = NONE) -> CreditColumns:
    """Reward the tokens of trees. Verdicts are not looked at.

    Args:
        trees: `N` nodes, given `kind`, `origin`, `better_logprobs` and `worse_logprobs`.
        params: none.

    Returns:
        advantage: `[N]` float64 in [-0.5, 0.5], mean over the node's known tokens; 0 where the policy said nothing,
            NaN without such a token.
        token_advantages: `[T]` float64 in [-0.5, 0.5]; 0 where the policy said nothing, NaN where unknown.

    Source: as `token_rewards`.
    """
    rows = token_rows(trees, spoken(trees))
    better, worse = (rows.of(trees.given[name]).values for name in ("better_logprobs", "worse_logprobs"))
    return credit_of_tokens(trees, rows, token_rewards(better, worse))

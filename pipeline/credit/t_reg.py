"""T-REG: a reward a token, from what the reference model would keep of a response when asked to better or worsen it.

Does not score tokens: log-probabilities under both requests are given. The loss is in `pipeline.metrics.preference`.
"""

from __future__ import annotations

import numpy as np

WORDING = {
    "better": "more helpful, correct, coherent and concise",
    "worse": "unhelpful, incorrect, incoherent and verbose",
}
"""What the response shall become, by request."""


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

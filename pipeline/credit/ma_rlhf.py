"""MA-RLHF: value, advantage and return of macro actions, which their tokens share.

Does not know how a response is cut into macro actions beyond calling the rule, nor the models behind the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import CreditColumns, Trees
from pipeline.credit.macro_actions import Macros, Spans, at_random, at_rises, at_spans, close, every
from pipeline.credit.ragged import Ragged, last_places, log_ratios, suffix_sums
from pipeline.credit.spoken import spoken
from pipeline.credit.token_rows import credit_of_tokens, token_rows
from pipeline.errors import BadConfig, check_words

TERMINATIONS = ("fixed", "randomized", "ppl", "parsing")
"""A macro action ends after so many tokens; after a random number; where perplexity rises; with a constituent."""
VALUE_FUNCTIONS = ("equal", "unit", "position")
"""Weights of the tokens of a macro action: the same; only the last; the first most, as 1, 1/2, 1/3, ..."""
AGGREGATIONS = ("mean", "sum")
"""Reward of a macro action: mean of its tokens' by those weights, as the code has it; their sum, as in the paper."""


@dataclass(frozen=True, slots=True)
class MaRlhfParams:
    """Parameters of MA-RLHF.

    termination: word of TERMINATIONS.
    ngram: tokens of a macro action under `fixed`.
    repeat_times, seed: under `randomized`, how often each length is in the list, and the seed of the shuffle.
    cutoff: under `parsing`, tokens from which a constituent is taken apart.
    value_function: word of VALUE_FUNCTIONS.
    reward_aggregation: word of AGGREGATIONS.
    gamma, lam: discount and lambda of the generalised advantage, a macro action.
    drop_repeated_boundaries: False gives an empty macro action where a rule ends with the last token, or begins twice
        with the first, as the code does.
    kl_coef: weight of the log-ratio to the reference in a token's reward.
    score_clip: the score of a response is cut to plus or minus this.
    clip: of the policy's ratio, and of the change of a value.

    Raises:
        BadConfig: no such word.
    """

    termination: str = "fixed"
    ngram: int = 5
    repeat_times: int = 3
    seed: int = 0
    cutoff: int = 5
    value_function: str = "equal"
    reward_aggregation: str = "mean"
    gamma: float = 1.0
    lam: float = 0.95
    drop_repeated_boundaries: bool = True
    kl_coef: float = 0.05
    score_clip: float = 2.5
    clip: float = 0.2

    def __post_init__(self) -> None:
        check_words(
            self,
            of="ma_rlhf",
            termination=TERMINATIONS,
            value_function=VALUE_FUNCTIONS,
            reward_aggregation=AGGREGATIONS,
        )


DEFAULTS = MaRlhfParams()
_MULTIPLIER = np.uint64(0x5851F42D4C957F2D)


class MacroCredit(NamedTuple):
    """What MA-RLHF says of `B` macro actions and `T` tokens, in reward units.

    values, rewards: `[B]`, of each macro action; 0 for an empty one.
    advantages: `[B]`, generalised advantage. returns: `[B]`, advantage plus value.
    token_advantages, token_returns: `[T]`, those of the token's macro action.
    """

    values: np.ndarray
    rewards: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    token_advantages: np.ndarray
    token_returns: np.ndarray


def macro_actions(
    lengths: np.ndarray,
    params: MaRlhfParams = DEFAULTS,
    *,
    perplexities: Ragged | None = None,
    spans: Spans | None = None,
    keys: np.ndarray | None = None,
) -> Macros:
    """Cut responses into macro actions.

    Args:
        lengths: `[M]` int, tokens of each response.
        params: the rule.
        perplexities: under `ppl`, of each token under the reference model, a row a response.
        spans: under `parsing`, constituents of all responses.
        keys: under `randomized`, `[M]` int64, a number of each response that does not depend on the batch.

    Raises:
        BadConfig: what the rule needs is not given.
    """
    needed = {"ppl": perplexities, "parsing": spans, "randomized": keys}
    if needed.get(params.termination, lengths) is None:
        what = {"ppl": "perplexities", "parsing": "spans", "randomized": "keys"}[params.termination]
        raise BadConfig(
            f"ma_rlhf termination {params.termination!r} needs {what}", remedy=f"give {what}, or use 'fixed'"
        )
    match params.termination:
        case "fixed":
            openings = every(lengths, params.ngram)
        case "randomized":
            openings = at_random(lengths, keys, repeat_times=params.repeat_times, seed=params.seed)
        case "ppl":
            openings = at_rises(perplexities)
        case "parsing":
            openings = at_spans(spans, lengths, cutoff=params.cutoff)
    return close(openings, lengths, drop_repeated=params.drop_repeated_boundaries)


def token_rewards(old: Ragged, reference: Ragged, scores: np.ndarray, params: MaRlhfParams = DEFAULTS) -> np.ndarray:
    """Reward of each token: less the divergence from the reference, plus the clipped score on the last.

    Args:
        old: natural log-probabilities under the policy that sampled, a row a response.
        reference: of the same tokens.
        scores: `[M]` float64, of the reward model.
        params: weight and clip.

    Returns:
        `[T]` float64.

    Raises:
        BadTable: a response has not the same tokens under both models; names its row.
    """
    rewards = -params.kl_coef * log_ratios(old, reference)
    rows, last = last_places(old.offsets)
    rewards[last] += np.clip(scores[rows], -params.score_clip, params.score_clip)
    return rewards


def ma_rlhf(values: np.ndarray, rewards: np.ndarray, macros: Macros, params: MaRlhfParams = DEFAULTS) -> MacroCredit:
    """Credit the macro actions of a batch of responses by generalised advantage estimation.

    Args:
        values: `[T]` float64, a critic's value of each token, response after response.
        rewards: `[T]` float64, of `token_rewards`.
        macros: of `macro_actions`.
        params: weights of the tokens, discounts.

    Source: MA-RLHF (Chai et al., 2024) as its code computes it. Deviations, both undone by a parameter: a boundary
        occurs once; in the paper a macro action's reward is a sum.
    """
    macro_values = _weigh(values, macros, params.value_function)
    summed = params.reward_aggregation == "sum"
    macro_rewards = _weigh(rewards, macros, "sum" if summed else params.value_function)
    following = np.zeros(len(macro_values))
    following[:-1] = macro_values[1:]
    following[last_places(macros.offsets)[1]] = 0.0
    delta = macro_rewards + params.gamma * following - macro_values
    advantages = suffix_sums(delta, macros.offsets, discount=params.gamma * params.lam)
    returns = advantages + macro_values
    return MacroCredit(
        values=macro_values,
        rewards=macro_rewards,
        advantages=advantages,
        returns=returns,
        token_advantages=np.repeat(advantages, macros.lengths),
        token_returns=np.repeat(returns, macros.lengths),
    )


def policy_loss(new: np.ndarray, old: np.ndarray, advantages: np.ndarray, *, clip: float = 0.2) -> float:
    """Clipped surrogate of a batch, a ratio a token, over its tokens; NaN without one.

    Args:
        new: `[T]` float64, natural log-probabilities under the policy trained.
        old: `[T]` float64, under the one that sampled.
        advantages: `[T]` float64.
        clip: how far a ratio may stand from 1.
    """
    ratio = np.exp(new - old)
    losses = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1.0 - clip, 1.0 + clip))
    return float(losses.mean()) if len(losses) else np.nan


def value_loss(new: np.ndarray, old: np.ndarray, returns: np.ndarray, *, clip: float = 0.2) -> float:
    """Half the clipped squared error of the critic over the tokens of a batch; NaN without one.

    Args:
        new: `[T]` float64, values of the critic trained.
        old: `[T]` float64, of the one before.
        returns: `[T]` float64, of the token's macro action.
        clip: how far a value may move.
    """
    clipped = np.clip(new, old - clip, old + clip)
    errors = np.maximum((new - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * float(errors.mean()) if len(errors) else np.nan


def ma_rlhf_credit(trees: Trees, params: MaRlhfParams = DEFAULTS) -> CreditColumns:
    """Credit the tokens of the judged trajectories of trees, the verdict being the score of the response.

    The response is what the policy sampled along the path. Under `randomized` its tokens alone decide where it is cut,
    under `ppl` their log-probabilities under the reference.

    Args:
        trees: `N` nodes with tokens, given `kind`, `origin`, `critic_values`, `reference_logprobs` and `logprobs`.
        params: any termination but `parsing`.

    Returns:
        advantage: `[N]` float64, mean over the node's known tokens; 0 where the policy said nothing, NaN without such
            a token.
        token_advantages: `[T]` float64, that of the macro action, mean over the paths through the token; 0 where the
            policy sampled nothing, NaN where a number it rests on is unknown or no judged leaf is below.

    Raises:
        BadConfig: the termination is `parsing`: trees have no parses.

    Source: as `ma_rlhf`.
    """
    if params.termination == "parsing":
        raise BadConfig("ma_rlhf cannot cut the steps of trees by parsing", remedy="use fixed, randomized or ppl")
    found, sampled = spoken(trees, judged=True), ~np.isnan(trees.given["logprobs"])
    rows = token_rows(trees, found, counted=sampled)
    old, reference = rows.of(trees.given["logprobs"]), rows.of(trees.given["reference_logprobs"])
    macros = macro_actions(
        np.diff(rows.offsets),
        params,
        perplexities=Ragged(-reference.values, rows.offsets),
        keys=_keys(rows.of(trees.tokens)),
    )
    rewards = token_rewards(old, reference, trees.reward[found.ends], params)
    credit = ma_rlhf(rows.of(trees.given["critic_values"]).values, rewards, macros, params)
    return credit_of_tokens(trees, rows, credit.token_advantages, counted=sampled)


def _keys(tokens: Ragged) -> np.ndarray:
    """`[M]` int64: a number made from the tokens of each response, modulo 2^64."""
    lengths = np.diff(tokens.offsets)
    place = np.arange(len(tokens.values)) - np.repeat(tokens.offsets[:-1], lengths)
    powers = np.multiply.accumulate(np.full(int(lengths.max(initial=0)), _MULTIPLIER))
    terms = (tokens.values.astype(np.uint64) + np.uint64(1)) * powers[place]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
    return np.diff(sums[tokens.offsets]).astype(np.int64)


def _weigh(values: np.ndarray, macros: Macros, weights: str) -> np.ndarray:
    """`[B]`: sum of the weighted values of the tokens of each macro action; 0 for an empty one."""
    count, lengths = len(macros.lengths), macros.lengths
    macro = np.repeat(np.arange(count), lengths)
    place = np.arange(len(macro)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    match weights:
        case "sum":
            weight = np.ones(len(macro))
        case "equal":
            weight = 1.0 / lengths[macro]
        case "unit":
            weight = (place == lengths[macro] - 1).astype(np.float64)
        case _:
            weight = 1.0 / (place + 1)
            weight = weight / np.bincount(macro, weight, minlength=count)[macro]
    return np.bincount(macro, weight * values, minlength=count)

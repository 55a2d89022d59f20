"""GTAlign: a reply that weighs payoffs is worth the geometric mean of what user and model get from it.

Does not judge answers: the verdict is given. What a reply's text says is read by `pipeline.credit.payoff`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.credit.columns import CreditColumns, Trees, drop_rounding, moments
from pipeline.credit.payoff import CELLS, Payoff, block, payoff_array, read_payoff, well_formed
from pipeline.errors import check_words

WELFARES = ("mutual", "linear", "user", "llm")
"""Square root of the product of both rewards; their mean; one of them."""
NORMALISATIONS = ("zscore", "minmax", "robust", "rank")
"""Within a source: less the mean over the deviation; from 0 to 1; less the median over the scaled median deviation;
place among the others from 0 to 1."""

_STEEPNESS, _REASONING = 0.005, 500.0
_SHORT, _LONG = (20.0, 500.0), (500.0, 1000.0)
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class GTAlignParams:
    """Parameters of GTAlign.

    epsilon: added to both rewards.
    welfare: word of WELFARES, the reward.
    normalisation: word of NORMALISATIONS, how rewards of a source are made comparable.

    Raises:
        BadConfig: no such welfare or normalisation.
    """

    epsilon: float = 1e-4
    welfare: str = "mutual"
    normalisation: str = "zscore"

    def __post_init__(self) -> None:
        check_words(self, of="gtalign", welfare=WELFARES, normalisation=NORMALISATIONS)


DEFAULTS = GTAlignParams()


class Replies(NamedTuple):
    """What `R` replies say.

    payoffs: the matrices as written; None: there is none, or it cannot be read.
    payoff: `[R, 6, 2]` float64, the same by CELLS and PLAYERS; NaN where None.
    scored: `[R]` bool, False without a matrix or a response block: such a reply earns 0 throughout.
    well_formed: `[R]` bool, the four blocks are in place and the matrix can be read.
    response_words, words: `[R]` int64, of the response block, and of the whole reply with its tags.
    reasoning: `[R]` int64, characters before the first `<response>`.
    """

    payoffs: list[Payoff | None]
    payoff: np.ndarray
    scored: np.ndarray
    well_formed: np.ndarray
    response_words: np.ndarray
    words: np.ndarray
    reasoning: np.ndarray


class GTAlignCredit(NamedTuple):
    """Of `R` replies, `[R]` float64 each; NaN where the verdict is unknown and matters.

    spread: in [0, 1], how far the payoffs of both players are apart. user, llm: rewards of both.
    reward: what the parameters make of them. linear: their mean. gap: how far they are apart.
    """

    spread: np.ndarray
    user: np.ndarray
    llm: np.ndarray
    reward: np.ndarray
    linear: np.ndarray
    gap: np.ndarray


def read_replies(texts: Sequence[str]) -> Replies:
    """What replies say, whatever they hold, each distinct one read once; time is linear in their length."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    which, replies = np.array([places[text] for text in texts], dtype=np.int64), list(places)
    responses = [block(text, "response") for text in replies]
    written = [block(text, "payoff") for text in replies]
    read = {said: read_payoff(said) for said in set(written) - {None}}
    payoffs = [read.get(said) for said in written]
    readable = np.array([payoff is not None for payoff in payoffs], dtype=bool)
    scored = readable & np.array([response is not None for response in responses], dtype=bool)
    in_form = readable & np.array([well_formed(text) for text in replies], dtype=bool)
    return Replies(
        payoffs=[payoffs[place] for place in which.tolist()],
        payoff=payoff_array(payoffs)[which],
        scored=scored[which],
        well_formed=in_form[which],
        response_words=_count_words(responses)[which],
        words=_count_words(replies)[which],
        reasoning=np.array([len(text.partition("<response>")[0]) for text in replies], dtype=np.int64)[which],
    )


def _count_words(texts: Sequence[str | None]) -> np.ndarray:
    """`[R]` int64, as many as `str.split` gives; 0 for None."""
    found = pl.Series(texts, dtype=pl.String).str.count_matches(r"[^\s\x1c-\x1f]+")
    return found.fill_null(0).to_numpy().astype(np.int64)


def gtalign(
    replies: Replies, verdict: np.ndarray, *, harmful: np.ndarray | None = None, params: GTAlignParams = DEFAULTS
) -> GTAlignCredit:
    """Rewards of replies.

    Args:
        replies: of `read_replies`.
        verdict: `[R]` float64, the judge's; clipped to [0, 1]. NaN: unknown.
        harmful: `[R]` bool, the prompt asks for harm: then the verdict pays the user in full below 1, and the model in
            full above 0. None: none does.
        params: what the reward is.

    Source: GTAlign (2025), weights and lengths as in its code.
    """
    harmful = np.zeros(len(verdict), dtype=bool) if harmful is None else harmful
    unknown, clipped = np.isnan(verdict), np.clip(verdict, 0.0, 1.0)
    for_user = np.where(unknown, np.nan, np.where(harmful, verdict < 1, clipped))
    for_llm = np.where(unknown, np.nan, np.where(harmful, verdict > 0, clipped))
    spread = np.where(replies.scored, _spread(replies.payoff), 0.0)
    user = params.epsilon + 0.5 * for_user + 0.2 * _length(replies.response_words, *_SHORT)
    user = np.where(replies.scored, user + 0.3 * np.exp(-replies.reasoning / _REASONING), 0.0)
    llm = params.epsilon + 0.2 * replies.well_formed + 0.2 * spread + 0.4 * for_llm
    llm = np.where(replies.scored, llm + 0.2 * _length(replies.words, *_LONG), 0.0)
    linear = (user + llm) / 2.0
    reward = {"mutual": np.sqrt(user * llm), "linear": linear, "user": user, "llm": llm}[params.welfare]
    return GTAlignCredit(spread, user, llm, reward, linear, np.abs(user - llm))


def normalised_by_source(rewards: np.ndarray, sources: np.ndarray, params: GTAlignParams = DEFAULTS) -> np.ndarray:
    """Rewards made comparable between sources of data.

    | normalisation | reward                                                                   |
    |---------------|--------------------------------------------------------------------------|
    | zscore        | (r - mean) / (std + 1e-6), std of a population, 1 where no larger than 1e-6 |
    | minmax        | (r - least) / (largest - least), 0 among equals                          |
    | robust        | (r - median) / (1.4826 * median of abs(r - median) + 1e-6), 1 as above   |
    | rank          | (rewards below + half of those equal beside it) / (all - 1), 0 alone     |

    Args:
        rewards: `[R]` float64, those of unreadable replies, which are 0, among them. NaN: takes no part.
        sources: `[R]` int, code of each reply's source, from 0.
        params: which.

    Returns:
        `[R]` float64; NaN where the reward is.

    Source: GTAlign (2025), z-scores as in its code. Deviation: of the others it gives the names alone.
    """
    known = np.flatnonzero(~np.isnan(rewards))
    values, groups = rewards[known], sources[known]
    count = int(groups.max(initial=-1)) + 1
    of = moments(values, groups, count=count, ddof=0)
    match params.normalisation:
        case "zscore":
            scaled = of.centred / (_scale(of.std) + _FLAT)[groups]
        case "robust":
            away = values - _medians(values, groups, count)[groups]
            scaled = away / (_scale(1.4826 * _medians(np.abs(away), groups, count)) + _FLAT)[groups]
        case "minmax":
            low, high = np.full(count, np.inf), np.full(count, -np.inf)
            np.minimum.at(low, groups, values)
            np.maximum.at(high, groups, values)
            scaled = np.where(of.alike[groups], 0.0, values - low[groups]) / np.where(of.alike, 1.0, high - low)[groups]
        case _:
            scaled = _ranks(values, groups, of.count)
    everyone = np.full(len(rewards), np.nan)
    everyone[known] = drop_rounding(scaled)
    return everyone


def gtalign_credit(trees: Trees, params: GTAlignParams = DEFAULTS) -> CreditColumns:
    """Give every node of a path the reward of its reply, and that reward beside all others as advantage.

    Needs `text`. A reply is the text along the path to a judged leaf, the prompt left out, and its verdict is the
    leaf's. A node shared by several paths has the mean of their rewards. All of `trees` is one source of data.

    Args:
        trees: `N` nodes.
        params: what the reward is and how it is normalised.

    Returns:
        value: `[N]` float64, the reward; NaN where no judged leaf is below.
        advantage: `[N]` float64, the normalised reward; 0 at roots, NaN where no judged leaf is below.

    Source: GTAlign (2025). Deviation: there a critic stands between the normalised reward and the advantage.
    """
    ends = trees.judged()
    paths = trees.paths(ends)
    texts = pl.Series(trees.given["text"]).fill_null("").gather(paths.nodes).to_list()
    replies = ["".join(texts[start:end]) for start, end in zip(paths.offsets[:-1], paths.offsets[1:], strict=True)]
    rewards = gtalign(read_replies(replies), trees.reward[ends], params=params).reward
    normalised = normalised_by_source(rewards, np.zeros(len(ends), dtype=np.int64), params)
    return CreditColumns(
        value=paths.mean_by_node(rewards),
        advantage=np.where(trees.parent < 0, 0.0, paths.mean_by_node(normalised)),
    )


def _spread(payoff: np.ndarray) -> np.ndarray:
    """`[R]` float64: share of two marks a cell, one for payoffs that differ, one for more than a tenth."""
    with np.errstate(over="ignore"):
        gap = np.abs(payoff[..., 1] - payoff[..., 0])
    far = gap / np.maximum(np.abs(payoff).max(axis=2), 1e-8) > 0.1
    return ((gap > 0).sum(axis=1) + far.sum(axis=1)) / (2.0 * len(CELLS))


def _length(words: np.ndarray, least: float, most: float) -> np.ndarray:
    """Near 1 well inside the range, near 0 far out of it."""
    return _sigmoid(_STEEPNESS * (words - least)) * _sigmoid(_STEEPNESS * (most - words))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(values / 2.0))  # no overflow, however long a reply


def _scale(spread: np.ndarray) -> np.ndarray:
    return np.where(spread <= _FLAT, 1.0, spread)


def _medians(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """`[G]` float64: median of each group; NaN for an empty one."""
    ordered = values[np.lexsort((values, groups))]
    size = np.bincount(groups, minlength=count)
    start, some = np.cumsum(size) - size, size > 0
    medians = np.full(count, np.nan)
    medians[some] = (ordered[(start + (size - 1) // 2)[some]] + ordered[(start + size // 2)[some]]) / 2.0
    return medians


def _ranks(values: np.ndarray, groups: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`[R]` float64: mean place in the group, from 0 to 1; 0 alone."""
    order = np.lexsort((values, groups))
    place = np.empty(len(values), dtype=np.float64)
    place[order] = np.arange(len(values)) - np.repeat(np.cumsum(size) - size, size)
    _, tie = np.unique(np.stack((groups.astype(np.float64), values)), axis=1, return_inverse=True)
    tie = tie.ravel()
    shared = np.bincount(tie, weights=place) / np.maximum(np.bincount(tie), 1)
    return shared[tie] / np.maximum(size - 1, 1)[groups]

"""VSRM: a step of thinking is paid the accuracy it adds, measured by short completions from where it ends.

Does not know tokenizers nor engines: text is cut by characters, and accuracies come as columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, drop_rounding, mean_by
from pipeline.credit.ragged import Ragged, last_places, rows_of

_ANY_CASE = ("wait", "but", "alternatively", "however", "hmm")
_PHRASES = (
    "Let me double-check",
    "But wait",
    "Hold on",
    "Looking back",
    "Seems solid",
    "Similarly",
    "That's correct, but",
    "That seems right",
    "Wait, but",
)
CUT_WORDS = (
    *(form for word in _ANY_CASE for form in (word, word.capitalize(), word.upper())),
    *(form for phrase in _PHRASES for form in (phrase, phrase[0].lower() + phrase[1:])),
    "So",
)
"""Words at which a new step of thinking begins; they may stand inside longer ones."""

_HITS = re.compile("|".join(re.escape(word) for word in sorted(CUT_WORDS, key=len, reverse=True)))
_SENTENCE_ENDS = ".!?\n"


@dataclass(frozen=True, slots=True)
class VsrmParams:
    """Parameters of the verifiable stepwise reward.

    gamma: by which a borrowed change counts less, a step.
    max_lookahead: steps without a change after which nothing is borrowed.
    zero_tol: a smaller change of accuracy is none.
    n_answers: completions drawn at a cut.
    first_after, spacing: characters of thinking before the first word that may cut, and from one cut to the next.
    correct, wrong, unclosed, unboxed: outcome of a right and a wrong answer, of thinking that was not closed, and of
        a closed one without a boxed answer.
    opening, closing: markers of the thinking span.
    """

    gamma: float = 0.7
    max_lookahead: int = 4
    zero_tol: float = 1e-5
    n_answers: int = 5
    first_after: int = 1000
    spacing: int = 400
    correct: float = 1.0
    wrong: float = 0.0
    unclosed: float = -10.0
    unboxed: float = -9.5
    opening: str = "<think>"
    closing: str = "</think>"


DEFAULTS = VsrmParams()


def find_cuts(text: str, params: VsrmParams = DEFAULTS) -> np.ndarray:
    """Where the thinking of one response is cut: after the sentence that stands before a word of CUT_WORDS.

    Args:
        text: the response. Without an opening marker thinking begins with it, the marker being the prompt's;
            without a closing one it goes on to the end.
        params: markers and distances.

    Returns:
        `[m]` int64, rising characters, each the first of a step; `spacing` apart or more.

    Source: VSRM (2025) as its code cuts. Deviation: a cut that moving back would bring within `spacing` of the one
        before is left out.
    """
    start, end = _thinking(text, params)
    cuts: list[int] = []
    for hit in _HITS.finditer(text, start, end):
        earliest = cuts[-1] + params.spacing if cuts else start
        if hit.start() < max(earliest, start + params.first_after):
            continue
        begins = _sentence_start(text, start, hit.start())
        if begins >= earliest:
            cuts.append(begins)
    return np.array(cuts, np.int64)


def completion_prefixes(text: str, cuts: np.ndarray, params: VsrmParams = DEFAULTS) -> list[str]:
    """What answers are asked from: the text up to each cut, then the whole thinking, each with thinking closed."""
    _, end = _thinking(text, params)
    return [text[:cut] + params.closing for cut in (*cuts, end)]


def cut_tokens(cuts: np.ndarray, token_starts: np.ndarray) -> np.ndarray:
    """`[m]` int64: the token that holds each character, tokens beginning at `token_starts`, `[T]`, which rises."""
    return np.searchsorted(token_starts, cuts, side="right") - 1


def step_rewards(accuracies: Ragged, cuts: np.ndarray, params: VsrmParams = DEFAULTS) -> np.ndarray:
    """Reward of each cut: by how much the step behind it changes accuracy, or a part of the next change there is.

    With a_0..a_m the accuracies and d_j = a_{j+1} - a_j: d_j if it is a change; else the next change at k > j times
    gamma^(k - j), if fewer than `max_lookahead` steps without one lie between; else a_m - a_j times
    gamma^(m - j - 1) if the end is that near; else 0.

    Args:
        accuracies: of each of `M` responses at its cuts and at the end of thinking, in [0, 1]; NaN: unknown.
        cuts: `[M + 1]` int64, offsets of the `C` cuts of each response.
        params: what is a change, how far to look, and by how much to discount.

    Returns:
        `[C]` float64, in [-1, 1]; 0 for the cuts of a response that has not one accuracy more than cuts. NaN where an
        accuracy is unknown that would decide.

    Source: VSRM (2025) as its code computes it, there in single precision.
    """
    rewards = np.zeros(int(cuts[-1]))
    response = rows_of(cuts)
    fits = np.flatnonzero((np.diff(accuracies.offsets) == np.diff(cuts) + 1)[response])
    if not len(fits):
        return rewards
    response = response[fits]
    here = accuracies.offsets[response] + fits - cuts[response]
    last = accuracies.offsets[response + 1] - 1
    place, end = np.arange(len(fits)), np.arange(len(fits)) + last - here
    change = accuracies.values[here + 1] - accuracies.values[here]
    moved = ~(np.abs(change) < params.zero_tol - ZERO)
    coming = np.where(moved, place, len(fits))
    later = np.append(np.minimum.accumulate(coming[::-1])[::-1][1:], len(fits))
    following = np.minimum(later, end)
    tail = (accuracies.values[last] - accuracies.values[here]) * params.gamma ** (end - place - 1)
    inside = following < end
    borrowed = change[np.where(inside, following, place)] * params.gamma ** (following - place)
    near = following - place - 1 < params.max_lookahead
    rewards[fits] = np.where(moved, change, np.where(near, np.where(inside, borrowed, tail), 0.0))
    return drop_rounding(rewards)


def token_rewards(
    rewards: np.ndarray, cuts: np.ndarray, *, positions: np.ndarray, offsets: np.ndarray, outcomes: np.ndarray
) -> np.ndarray:
    """The rewards of steps on the tokens where they begin, and the outcome on the last token, where it stands alone.

    Args:
        rewards: `[C]` float64, of `step_rewards`.
        cuts: `[M + 1]` int64, offsets of the cuts of each response.
        positions: `[C]` int, token of each cut in its response; one that is not there places nothing. Of two
            cuts in a token the later one counts.
        offsets: `[M + 1]` int64, where the tokens of each response begin.
        outcomes: `[M]` float64, of `outcome_rewards`.

    Returns:
        `[T]` float64, 0 where nothing stands.
    """
    response = rows_of(cuts)
    placed = np.zeros(int(offsets[-1]))
    there = (positions >= 0) & (positions < np.diff(offsets)[response])
    placed[offsets[response[there]] + positions[there]] = rewards[there]
    rows, ends = last_places(offsets)
    placed[ends] = outcomes[rows]
    return placed


def outcome_rewards(
    correct: np.ndarray, *, closed: np.ndarray, boxed: np.ndarray, params: VsrmParams = DEFAULTS
) -> np.ndarray:
    """`[M]` float64, outcome of each response: by whether thinking was closed, an answer boxed, and right."""
    answered = np.where(correct, params.correct, params.wrong)
    return np.where(closed, np.where(boxed, answered, params.unboxed), params.unclosed)


def vsrm_credit(trees: Trees, params: VsrmParams = DEFAULTS) -> CreditColumns:
    """VSRM of stored trees: accuracies are the chances of success that a labeller gave the steps.

    Needs the INPUT `step_soft`. A trajectory is the way to a judged leaf; the reward of the cut between two steps is
    that of the later one. The outcome is left to whoever sums rewards over tokens.

    Args:
        trees: `N` nodes.
        params: what is a change, how far to look, and by how much to discount.

    Returns:
        value: `[N]` float64, accuracy at the end of the step.
        advantage: `[N]` float64, reward of the step, the mean over the trajectories through it for which it is
            known; 0 at roots and in first steps, NaN where it is unknown for all or no judged leaf is below.

    Source: as `step_rewards`. Deviations: a final step without a label has its verdict for accuracy, and steps are
        those of the tree.
    """
    count, ends = len(trees.parent), trees.judged()
    accuracy = np.where(np.isnan(trees.given["step_soft"]), trees.reward, trees.given["step_soft"])
    paths = trees.paths(ends[trees.depth[ends] > 0])
    members = paths.members()
    first = np.diff(members, prepend=-1) != 0
    cuts = paths.offsets - np.arange(len(paths.offsets))
    rewards = np.zeros(len(paths.nodes))
    rewards[~first] = step_rewards(Ragged(accuracy[paths.nodes], paths.offsets), cuts, params)
    known = ~np.isnan(rewards)
    advantage = drop_rounding(mean_by(paths.nodes[known], rewards[known], count))
    return CreditColumns(
        value=np.where(trees.parent < 0, np.nan, accuracy), advantage=np.where(trees.parent < 0, 0.0, advantage)
    )


def _thinking(text: str, params: VsrmParams) -> tuple[int, int]:
    """First character of the thinking, and the one after its last."""
    opened = text.find(params.opening)
    start = 0 if opened < 0 else opened + len(params.opening)
    closed = text.find(params.closing, start)
    return start, len(text) if closed < 0 else closed


def _sentence_start(text: str, start: int, word: int) -> int:
    """Where the sentence begins that the word stands in; the word itself if none ended before it."""
    before = max(text.rfind(mark, start, word) for mark in _SENTENCE_ENDS)
    return word if before < 0 else before + 1

"""LaRe: a model writes a function that gives factors of a step; it runs in the sandbox alone, after it was tried there.

One function a family of tasks, here a suite; a linear decoder makes rewards of the factors that sum to the returns.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.credit.lare import LaReParams, rejection, standardised_returns
from pipeline.credit.ragged import row_sums
from pipeline.errors import check_counts
from pipeline.generation.engine import Sampling
from pipeline.judges.cases import Attempt, Case
from pipeline.judges.talk import Ask, Reply, Said, Talk
from pipeline.judges.wording import Wording
from pipeline.labels.equations import equations
from pipeline.tools.sandbox import Limits, Sandbox
from pipeline.variants.answers import read_object

FUNCTION = "evaluation_func"
LIMITS = Limits(seconds=5.0, megabytes=64, output=1_000_000)
LARGEST = 1e100
"""Of a factor; squares of larger ones are no numbers."""
COLUMNS = {
    "place": "number of the step, from 0",
    "of": "steps of the attempt",
    "words": "words in it",
    "numbers": "numbers in it",
    "repeated": "1 if an earlier step reads the same, else 0",
    "equations": "equations in it that can be checked",
    "holding": "of those, how many hold",
    "answer": "1 if it ends the attempt, else 0",
}
"""What a function may know of a step beside its text."""
_BATCH = 256
_RIDGE = 1e-6


class Trial(NamedTuple):
    """A function that was tried.

    source: empty where the answer has none. error: why it is sent back; None: it may be used. tokens: of the answer.
    """

    source: str
    error: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class LaReJudge:
    """Scores `latent_reward`; the root's text has the function, its trials and the decoder.

    candidates: functions asked for; merged into one where they are several. retries: times a function is mended.
    temperature: of candidates; merge_temperature: of what follows.

    Source: LaRe (AAAI 2025). Deviations: the decoder is linear, fitted in closed form to the same loss (RD), and
        observations are columns of a text step, in place of a state.
    """

    candidates: int = 5
    retries: int = 5
    temperature: float = 1.0
    merge_temperature: float = 0.3
    max_tokens: int = 2048

    version = "2"
    names = ("latent_reward",)

    def __post_init__(self) -> None:
        check_counts(self, of="lare", candidates=1, retries=0, max_tokens=1)

    def talk(self, case: Case, words: Wording) -> Talk:
        """Have a function written for the family that a tree is an example of.

        Returns:
            One row on the root: its text is JSON with `source`, null where no function passed, and all `trials`.
        """
        example, question = recorded(case.attempts[:1]), case.question
        shown = {name: values[0] for name, values in example[0].items()} | {"text": example[1][0]}
        columns = "; ".join(f"{name}: {what}" for name, what in COLUMNS.items())
        holes = {"question": question, "columns": columns, "example": json.dumps(shown)}
        sampling = Sampling(self.temperature, 1.0, self.max_tokens)
        replies = yield [words.ask("write", sampling, sample, **holes) for sample in range(self.candidates)]
        trials: list[Trial] = []
        later = Sampling(self.merge_temperature, 1.0, self.max_tokens)
        with Sandbox(LIMITS, workers=1) as sandbox:
            first = _two(example)
            passed = yield from self._passed(replies, first, sandbox, words=words, trials=trials)
            if len(passed) > 1:
                functions = "\n\n".join(one.source for one in passed)
                replies = yield [words.ask("merge", later, question=question, functions=functions)]
                merged = yield from self._passed(replies, first, sandbox, words=words, trials=trials)
                passed = merged or passed
        source = passed[0].source if passed else None
        told = {"source": source, "trials": [one._asdict() for one in trials]}
        tokens, unread = sum(one.tokens for one in trials), sum(not one.source for one in trials)
        return [Said(case.root, text=json.dumps(told), name="latent_reward", tokens=tokens, unread=unread)]

    def _passed(
        self,
        replies: list[Reply],
        example: tuple[dict[str, list], list[str]],
        sandbox: Sandbox,
        *,
        words: Wording,
        trials: list[Trial],
    ) -> Generator[Sequence[Ask], list[Reply], list[Trial]]:
        """Try the functions of answers, and have those mended that fail, as often as allowed.

        Args:
            trials: gets every trial.

        Returns:
            Of each function that passed the last trial.
        """
        sampling = Sampling(self.merge_temperature, 1.0, self.max_tokens)
        last = [try_answer(reply, example, sandbox) for reply in replies]
        trials += last
        for sample in range(self.retries):
            failed = [place for place, one in enumerate(last) if one.error is not None and one.source]
            if not failed:
                break
            replies = yield [
                words.ask("mend", sampling, sample, function=last[at].source, error=last[at].error) for at in failed
            ]
            for at, reply in zip(failed, replies, strict=True):
                again = try_answer(reply, example, sandbox)
                trials.append(again)
                last[at] = again if again.source else last[at]
        return [one for one in last if one.error is None]


class Decoder(NamedTuple):
    """weight: `[K]`, of factors as they are. bias: of every step."""

    weight: np.ndarray
    bias: float


def recorded(attempts: Sequence[Attempt]) -> tuple[dict[str, list], list[str]]:
    """Observation and action of every step of some attempts, one attempt after the other: columns, and texts."""
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    texts: list[str] = []
    for attempt in attempts:
        own = attempt.own_texts
        for place, text in enumerate(own):
            found = equations(text)
            row = {
                "place": place,
                "of": len(own),
                "words": len(text.split()),
                "numbers": sum(any(sign.isdigit() for sign in word) for word in text.split()),
                "repeated": int(text in own[:place]),
                "equations": len(found),
                "holding": sum(bool(one.holds) for one in found),
                "answer": int(place == len(own) - 1),
            }
            for name, values in columns.items():
                values.append(row[name])
            texts.append(text)
    return columns, texts


def try_answer(reply: Reply, example: tuple[dict[str, list], list[str]], sandbox: Sandbox) -> Trial:
    """Run the function of an answer on two recorded steps."""
    source = _source(reply)
    if not source:
        return Trial(source, reply.error or "the answer has no function", len(reply.tokens))
    found = run_function(source, example, sandbox)
    return Trial(source, rejection(found, LaReParams(verified_rows=len(example[1]))), len(reply.tokens))


def run_function(source: str, steps: tuple[dict[str, list], list[str]], sandbox: Sandbox) -> list[np.ndarray] | str:
    """The factors that a function gives of some steps, each an array; or why there are none."""
    ran = sandbox.call(source, FUNCTION, list(steps))
    if ran.failure is not None or ran.value is None:
        return ran.failure or "it gave nothing"
    try:
        found = json.loads(ran.value)
        factors = [np.asarray(one, dtype=np.float64) for one in found] if isinstance(found, list) else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return "a factor is no list of lists of a number"
    if factors is None:
        return "it gave no list of factors"
    small = all((np.abs(one) <= LARGEST).all() for one in factors)  # so a NaN is not
    return factors if small else f"a factor is not finite, or beyond {LARGEST:g}"


def latent_factors(source: str, attempts: Sequence[Attempt], sandbox: Sandbox) -> tuple[np.ndarray, list[str]]:
    """Factors of every step of some attempts.

    Returns:
        factors: `[P, K]` float64; NaN for steps of a batch on which the function failed; `[P, 0]` where it did on all.
        errors: of the batches.
    """
    columns, texts = recorded(attempts)
    parts: list[np.ndarray | int] = []
    errors = []
    for start in range(0, len(texts), _BATCH):
        some = {name: values[start : start + _BATCH] for name, values in columns.items()}, texts[start : start + _BATCH]
        count = len(some[1])
        found = run_function(source, some, sandbox)
        error = rejection(found, LaReParams(verified_rows=count))
        errors += [error] if error else []
        parts.append(count if error or isinstance(found, str) else np.hstack(found))
    width = max((part.shape[1] for part in parts if isinstance(part, np.ndarray)), default=0)
    whole = [
        part if isinstance(part, np.ndarray) and part.shape[1] == width else np.full((_rows(part), width), np.nan)
        for part in parts
    ]
    return np.vstack(whole) if whole else np.empty((0, width)), errors


def fit_decoder(latent: np.ndarray, offsets: np.ndarray, returns: np.ndarray) -> Decoder:
    """The linear decoder of least RD loss: mean over episodes of (mean step reward - return / length)^2.

    Args:
        latent: `[P, K]` float64; an episode with a NaN is left out, and so is one without a return or a step.
        offsets: `[M + 1]` int64, where each episode begins.
        returns: `[M]` float64, NaN: unknown. They are standardised first.

    Returns:
        A factor that is the same in all steps has no weight. Without an episode all is 0.
    """
    lengths = np.diff(offsets)
    whole = row_sums(np.isnan(latent).any(axis=1).astype(np.float64), offsets) == 0
    used = whole & ~np.isnan(returns) & (lengths > 0)
    width = latent.shape[1]
    if not used.any() or not width:
        return Decoder(np.zeros(width), 0.0)
    kept = np.repeat(used, lengths)
    centre, scale = latent[kept].mean(axis=0), latent[kept].std(axis=0)
    varies = (np.ptp(latent[kept], axis=0) > 0) & (scale > 0)  # equal numbers may have a deviation by rounding
    scaled = np.where(varies, (latent[kept] - centre) / np.where(varies, scale, 1.0), 0.0)
    starts = np.concatenate(([0], np.cumsum(lengths[used])))
    means = np.stack([row_sums(column, starts) for column in scaled.T], axis=1) / lengths[used][:, None]
    target = standardised_returns(returns[used], np.zeros(int(used.sum()), np.int64)) / lengths[used]
    design = np.hstack((means, np.ones((len(means), 1))))
    penalty = np.diag([*[_RIDGE] * width, 0.0])
    solved = np.linalg.lstsq(design.T @ design + penalty, design.T @ target, rcond=None)[0]
    weight = np.where(varies, solved[:-1] / np.where(varies, scale, 1.0), 0.0)
    return Decoder(weight, float(solved[-1] - weight @ centre))


def episodes(cases: Sequence[Case]) -> tuple[list[Attempt], np.ndarray, np.ndarray]:
    """The attempts of some trees, where the steps of each begin, and what each earned: 1, 0, or NaN."""
    attempts = [attempt for case in cases for attempt in case.attempts]
    returns = np.array([np.nan if one.right is None else float(one.right) for one in attempts])
    return attempts, np.concatenate(([0], np.cumsum([len(one.steps) for one in attempts]))).astype(np.int64), returns


def step_means(values: np.ndarray, attempts: Sequence[Attempt]) -> dict[int, float | None]:
    """What the steps of one tree's attempts earn, by node; a node of several attempts has the mean, None: unknown."""
    nodes = np.array([one.nodes[step] for one in attempts for step in one.steps], np.int64)
    found: dict[int, float | None] = {}
    for node in np.unique(nodes).tolist():
        mean = float(values[nodes == node].mean())
        found[node] = None if np.isnan(mean) else mean
    return found


def _rows(part: np.ndarray | int) -> int:
    return part if isinstance(part, int) else len(part)


def _two(steps: tuple[dict[str, list], list[str]]) -> tuple[dict[str, list], list[str]]:
    """The first two recorded steps; of an attempt with one step, that."""
    return {name: values[:2] for name, values in steps[0].items()}, steps[1][:2]


def _source(reply: Reply) -> str:
    found: dict[str, Any] = read_object(reply.text) or {}
    source = found.get("function")
    return source if isinstance(source, str) else ""

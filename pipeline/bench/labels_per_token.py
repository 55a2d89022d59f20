"""Bench `labels`: labels of steps per million decoded tokens against their error, strategy by strategy.

The policy is simulated: its steps are right or wrong by known chances, so that the true value of every prefix is
known, which 128 rollouts a prefix would only estimate. All else is real: strategies, scheduler, sampler, ledger.

A label's tokens are those decoded to have it. Attempts that were there before are not among them; a tree of SPO has no
attempts before it, so all of its tokens count, and it also leaves its leaves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, Params, ratio
from pipeline.credit.omegaprm import locate
from pipeline.generation.engine import Request
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.generation.scripted import ScriptedEngine
from pipeline.labels.monte_carlo import first_error
from pipeline.store.ledger import Ledger
from pipeline.trees.draft import Draft, Reading, Spot, new_draft
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.monte_carlo import MonteCarlo
from pipeline.trees.growth.omegaprm import OmegaPrm
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.segment import cut_steps
from pipeline.trees.strategy import Strategy

END, RIGHT, WRONG, WORD, SEPARATOR = range(5)
FIRST_PROMPT = 5
"""Token that is the whole prompt of task 0; the next ones those of the next tasks."""
TEXTS = ("", "+", "-", ".", "\n")
STEP_TOKENS = 12
"""Of a step, on average, its mark and its end included; at least 2, geometric."""
MAX_TOKENS = 4096
"""Of an answer: none reaches it."""
DRAWS = (1, 2, 4, 8, 16, 32)
TASKS = 32


@dataclass(frozen=True, slots=True)
class Policy:
    """How one task is answered: a mark, right or wrong, words, an end, `steps` times; right if the last mark is.

    stays: chance that a step after a right one is right. recovers: after a wrong one.
    """

    steps: int
    stays: float
    recovers: float

    def value(self, path: np.ndarray) -> float:
        """Chance that an answer that begins so comes out right. path: `[T]` token ids, without the prompt."""
        marks = path[(path == RIGHT) | (path == WRONG)]
        chance = float(not len(marks) or marks[-1] == RIGHT)
        for _ in range(self.steps - len(marks)):
            chance = chance * self.stays + (1 - chance) * self.recovers
        return chance

    def go_on(self, path: np.ndarray, seed: int) -> list[int]:
        """Draw the rest of an answer. How long a step is does not tell how it goes on."""
        draw = np.random.default_rng(seed)
        words, luck = draw.geometric(1 / (STEP_TOKENS - 1), self.steps + 1) - 1, draw.random(self.steps)
        marks = path[(path == RIGHT) | (path == WRONG)]
        begun, right = len(marks), bool(not len(marks) or marks[-1] == RIGHT)
        ends = [SEPARATOR] * (self.steps - 1) + [END]
        ids: list[int] = []
        if len(path) and path[-1] != SEPARATOR:
            ids += [WORD] * int(words[-1]) + [ends[begun - 1]]
        for step in range(begun, self.steps):
            right = bool(luck[step] < (self.stays if right else self.recovers))
            ids += [RIGHT if right else WRONG, *[WORD] * int(words[step]), ends[step]]
        return ids


def policies(tasks: int, *, seed: int) -> list[Policy]:
    """A policy a task, some easy and some hard."""
    draw = np.random.default_rng(seed)
    return [
        Policy(int(draw.integers(5, 13)), float(draw.uniform(0.75, 0.98)), float(draw.uniform(0.0, 0.02)))
        for _ in range(tasks)
    ]


def answer_of(suite: Sequence[Policy]) -> Callable[[Request], list[int]]:
    """What a scripted engine says."""
    return lambda request: suite[request.prompt[0] - FIRST_PROMPT].go_on(request.prompt[1:], request.seed)


def prompts(suite: Sequence[Policy]) -> Iterator[Draft]:
    """A draft a task with no more than the prompt."""
    for task in range(len(suite)):
        prompt, name = np.array([FIRST_PROMPT + task]), f"task{task}"
        yield new_draft(name, f"{name}@bench", prompt, text=name, max_tokens=MAX_TOKENS, reading=READING)


def reward_of(draft: Draft, piece: int) -> float:
    """1 where the last mark is right, else 0."""
    path = draft.prefix(draft.end_of(piece))[1:]
    return float(path[(path == RIGHT) | (path == WRONG)][-1] == RIGHT)


def _decode(ids: Iterable[int]) -> str:
    return "".join(TEXTS[token] if token < FIRST_PROMPT else "" for token in ids)


_CLOSERS = np.arange(FIRST_PROMPT) == SEPARATOR
READING = Reading(_decode, lambda ids: cut_steps(ids, "\n", closers=_CLOSERS, decode=_decode))


class Labels(NamedTuple):
    """`[L]` each. value: as estimated. truth: as it is. tokens: decoded for all of them."""

    value: np.ndarray
    truth: np.ndarray
    tokens: int

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return float(np.mean((self.value - self.truth) ** 2))

    @property
    def rate(self) -> float:
        """Labels per million tokens."""
        return len(self.value) / self.tokens * 1e6


def measure(forest: StoredForest, *, group: int = 8, attempts: int = 2) -> Iterator[Metric]:
    """Grow a drawn suite by every strategy.

    gen.labels_per_mtoken: the curve; mse, and the share of labels on the wrong side of 0.5, against k.
    gen.labels_at_equal_mse: of every-step Monte Carlo error and rate go as 1/k, so that rate / mse is a constant; how
        much larger it is for another strategy.
    gen.labels_at_equal_side: rate of adaptive stopping over that of the full draw; `agreed` is the share of labels that
        are on the same side of 0.5.
    gen.first_errors_per_mtoken: with the share of first errors that were found exactly.

    Args:
        forest: not looked at but for its seed, which is the suite's.
        group: attempts a task to begin with. attempts: of them labelled.
    """
    suite = policies(TASKS, seed=forest.shape.seed)
    started = _grow(Flat(group), prompts(suite), suite)[0]
    for draft in started:
        for attempt in draft.attempts():
            draft.pieces[attempt].reward = reward_of(draft, attempt)
    every = _grow(MonteCarlo(attempts, DRAWS[-1], DRAWS[-1]), _copies(started), suite)[0]
    plain = {k: step_labels(every, suite, k) for k in DRAWS}
    constant = float(np.mean([labels.rate / labels.mse for labels in plain.values()]))
    for k, labels in plain.items():
        yield _curve("every_step", k, labels)
    for most in DRAWS[-2:]:
        grown = _grow(MonteCarlo(attempts, most), _copies(started), suite)[0]
        labels = step_labels(grown, suite, most)
        yield _curve("adaptive", most, labels)
        yield _gain("adaptive", most, labels, constant)
        agreed = float(np.mean((labels.value > 0.5) == (plain[most].value > 0.5)))
        params: Params = {"strategy": "adaptive", "k": most, "agreed": agreed}
        yield ratio("gen.labels_at_equal_side", labels.rate, plain[most].rate, unit="x", params=params)
    for branching in (2, 3, 4, 6):
        grown, decoded = _grow(SpoTree((branching,) * 3, 2 * STEP_TOKENS, 1.0), prompts(suite), suite)
        labels = tree_labels(grown, suite, decoded)
        yield _curve("spo_tree", branching, labels)
        yield _gain("spo_tree", branching, labels, constant)
    for k in DRAWS:
        found = [error for draft in every for error in scanned_errors(draft, k)]
        yield from _errors("every_step", k, found)
    for k in DRAWS[1:]:
        grown = _grow(OmegaPrm(searches=1, rollouts=k), _copies(started), suite)[0]
        yield from _errors("omegaprm", k, [error for draft in grown for error in halved_errors(draft)])


def _copies(drafts: Iterable[Draft]) -> Iterator[Draft]:
    return (replace(draft, pieces=list(draft.pieces)) for draft in drafts)


def _grow(strategy: Strategy, drafts: Iterable[Draft], suite: Sequence[Policy]) -> tuple[list[Draft], int]:
    """Trees by task, and the tokens decoded."""
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        engine = ScriptedEngine(answer_of(suite), fingerprint="simulated")
        sampler = Sampler(ledger, engine.name, engine.fingerprint, lambda: engine)
        grown = [done.draft for done in Scheduler(sampler, strategy, reward_of=reward_of).grow(iter(drafts))]
        return sorted(grown, key=lambda draft: draft.pieces[0].token_ids[0]), sampler.spent.decoded


def _branches(draft: Draft, k: int) -> dict[Spot, list[int]]:
    """The first `k` branches from every place that has any, in the order of the places."""
    found: dict[Spot, list[int]] = defaultdict(list)
    for number, piece in enumerate(draft.pieces):
        if piece.origin == "branch" and piece.sample < k:
            found[piece.at].append(number)
    return dict(sorted(found.items()))


def _tokens(draft: Draft, pieces: Iterable[int]) -> int:
    """Decoded for some pieces; those of one request once."""
    requests = {draft.pieces[piece].entry.completion.key: len(draft.pieces[piece].token_ids) for piece in pieces}
    return sum(requests.values())


def _mean(draft: Draft, pieces: Sequence[int]) -> float:
    return float(np.mean([draft.pieces[piece].reward for piece in pieces]))


def step_labels(grown: Sequence[Draft], suite: Sequence[Policy], k: int) -> Labels:
    """Values of steps as the first `k` branches from each have it."""
    value, truth, tokens = [], [], 0
    for draft, policy in zip(grown, suite, strict=True):
        branches = _branches(draft, k)
        tokens += _tokens(draft, [piece for pieces in branches.values() for piece in pieces])
        value += [_mean(draft, pieces) for pieces in branches.values()]
        truth += [policy.value(draft.prefix(spot)[1:]) for spot in branches]
    return Labels(np.array(value), np.array(truth), tokens)


def tree_labels(grown: Sequence[Draft], suite: Sequence[Policy], tokens: int) -> Labels:
    """Values of inner places, each the mean of those below it, as SPO has it."""
    value, truth = [], []
    for draft, policy in zip(grown, suite, strict=True):
        below: dict[int, list[float]] = defaultdict(list)
        for number in range(len(draft.pieces) - 1, 0, -1):
            if number in below:
                value.append(float(np.mean(below[number])))
                truth.append(policy.value(draft.prefix(draft.end_of(number))[1:]))
            worth = value[-1] if number in below else reward_of(draft, number)
            below[draft.pieces[number].at.piece].append(worth)
    return Labels(np.array(value), np.array(truth), tokens)


class FirstError(NamedTuple):
    """Of a wrong attempt: step at which it goes wrong, from 0, as found and as it is; tokens decoded to find it."""

    found: int
    truth: int
    tokens: int


def scanned_errors(draft: Draft, k: int) -> Iterator[FirstError]:
    """By every step's first `k` branches: the first step from which none comes out right, or else the last."""
    branches = _branches(draft, k)
    for attempt in {spot.piece: None for spot in branches}:
        if draft.pieces[attempt].reward < 1:
            spots = draft.inner_ends(attempt)
            tokens = _tokens(draft, [piece for spot in spots for piece in branches[spot]])
            hard = [_mean(draft, branches[spot]) > 0 for spot in spots]
            yield FirstError(first_error([*hard, False]), _true_error(draft, attempt), tokens)


def halved_errors(draft: Draft) -> Iterator[FirstError]:
    """By OmegaPRM's search of one attempt; none where a task was not searched."""
    branches = _branches(draft, DRAWS[-1])
    for attempt in {spot.piece: None for spot in branches}:
        ends = draft.inner_ends(attempt)
        found = locate(
            np.array([len(ends) + 1]),
            lambda _, lengths, ends=ends: np.array([_mean(draft, branches[ends[length - 1]]) for length in lengths]),
        )
        tokens = _tokens(draft, [piece for pieces in branches.values() for piece in pieces])
        yield FirstError(int(found.first_error[0]) - 1, _true_error(draft, attempt), tokens)


def _true_error(draft: Draft, attempt: int) -> int:
    ids = draft.pieces[attempt].token_ids
    return int(np.argmax(ids[(ids == RIGHT) | (ids == WRONG)] == WRONG))


def _curve(strategy: str, k: int, labels: Labels) -> Metric:
    wrong = float(np.mean((labels.value > 0.5) != (labels.truth > 0.5)))
    params: Params = {"strategy": strategy, "k": k, "mse": labels.mse, "wrong_side": wrong}
    count = len(labels.value)
    return ratio("gen.labels_per_mtoken", count, labels.tokens / 1e6, unit="labels/Mtoken", params=params)


def _gain(strategy: str, k: int, labels: Labels, constant: float) -> Metric:
    params: Params = {"strategy": strategy, "k": k, "mse": labels.mse}
    return ratio("gen.labels_at_equal_mse", labels.rate, constant * labels.mse, unit="x", params=params)


def _errors(strategy: str, k: int, errors: Sequence[FirstError]) -> Iterator[Metric]:
    """The figure of first errors; none where no attempt was wrong."""
    if not errors:
        return
    exact = float(np.mean([error.found == error.truth for error in errors]))
    params: Params = {"strategy": strategy, "k": k, "accuracy": exact}
    tokens = sum(error.tokens for error in errors)
    yield ratio("gen.first_errors_per_mtoken", len(errors), tokens / 1e6, unit="labels/Mtoken", params=params)

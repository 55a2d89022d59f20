"""Heavy: torch. Rows of `rl_samples` as minibatches of packs, with what a loss reads of each trained token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from pipeline.builders.packing import Pack, Rows, as_rows, pack_rows, spans
from trainers.online.recipe import OnlineRecipe
from trainers.packed.forward import pack_tensors
from trainers.packed.rows import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """`R` attempts of `T` tokens, prompts included, an attempt after the other.

    rows:       token ids.
    trees:      `[R]` int64, attempts of one number may share a beginning.
    trained:    `[T]` bool.
    advantages: `[T]` float64, 0 where not trained.
    behaviour:  `[T]` float64, log-probability when sampled; 0 where not trained.
    """

    rows: Rows
    trees: np.ndarray
    trained: np.ndarray
    advantages: np.ndarray
    behaviour: np.ndarray

    def per_attempt(self, values: np.ndarray) -> np.ndarray:
        """`[R]` float64: sums over each attempt's tokens."""
        return np.add.reduceat(values.astype(np.float64), self.rows.offsets[:-1])

    @property
    def idle(self) -> np.ndarray:
        """`[R]` bool: no token has an advantage other than 0."""
        return self.per_attempt(np.abs(self.advantages)) == 0


def samples_of(frame: pl.DataFrame, recipe: OnlineRecipe) -> Samples:
    """Rows of the table as arrays: the recipe's probability mask and whitening applied.

    A row's first token, which nothing comes before, is not trained. Where the mask would leave no token of all, it is
    not applied (SPO).
    """
    rows = as_rows(frame.select(pl.concat_list("prompt_ids", "answer_ids")).to_series())
    prompts = frame["prompt_ids"].list.len().cast(pl.Int64).to_numpy()
    answers = frame["answer_ids"].list.len().cast(pl.Int64).to_numpy()
    places = spans(rows.offsets[:-1] + prompts, answers)

    def laid(column: str) -> np.ndarray:
        found = np.zeros(len(rows.values))
        found[places] = frame[column].explode().cast(pl.Float64).fill_null(0.0).to_numpy()
        return found

    trained, behaviour = laid("loss_mask") > 0, laid("logprobs")
    trained[rows.offsets[:-1]] = False
    if recipe.most_probability:
        sure = np.exp(behaviour) >= recipe.most_probability
        trained = trained & ~sure if (trained & ~sure).any() else trained
    advantages = np.where(trained, laid("advantages"), 0.0)
    if recipe.whiten and trained.sum() > 1:
        seen = advantages[trained]
        advantages = np.where(trained, (advantages - seen.mean()) / np.sqrt(seen.var(ddof=1) + 1e-8), 0.0)
    trees = np.unique(frame["tree"].to_numpy(), return_inverse=True)[1]
    return Samples(rows, trees, trained, advantages, np.where(trained, behaviour, 0.0))


def token_weights(lengths: np.ndarray, *, normalise: str, constant: int = 0) -> np.ndarray:
    """`[R]`: weight of each trained token of an attempt in the loss of a minibatch of `R` attempts.

    Args:
        lengths: `[R]`, trained tokens.
        normalise: token: 1 over all tokens (DAPO). sequence: 1 over the attempt's, over R (GRPO). constant: 1 over
            `constant`, over R (Dr.GRPO).
        constant: tokens that an attempt may have.
    """
    count = max(1, len(lengths))
    if normalise == "token":
        return np.full(len(lengths), 1.0 / max(1.0, lengths.sum()))
    if normalise == "sequence":
        return 1.0 / np.maximum(lengths, 1) / count
    return np.full(len(lengths), 1.0 / constant / count)


def minibatches(
    samples: Samples, recipe: OnlineRecipe, *, seed: Sequence[int], every: bool = False
) -> Iterator[list[Batch]]:
    """The packs of each step of an epoch; trees in an order drawn by seed, none cut between steps.

    A batch has the tensors of its pack, `needed` (`[U]`, trained tokens) and of each token of each attempt `entries`
    (`[E]` into `needed`), `places` (`[E]` into the samples' tokens), `attempts`, `advantages`, `behaviour`, `weights`.

    Args:
        samples: all attempts of the update.
        recipe: of the run.
        seed: of the order.
        every: attempts whose advantages are all 0 are computed too, as KL and entropy need; they count in means alike.
    """
    trained, idle = samples.per_attempt(samples.trained).astype(np.int64), samples.idle
    present = np.ones(len(idle), bool) if recipe.idle else ~idle
    trees = np.random.default_rng(list(seed)).permutation(np.unique(samples.trees[present]))
    steps = max(1, round(present.sum() / recipe.minibatch)) if recipe.minibatch else 1
    for some in np.array_split(trees, min(steps, max(1, len(trees)))):
        chosen = np.flatnonzero(np.isin(samples.trees, some) & present)
        weights = np.zeros(len(idle))
        weights[chosen] = token_weights(trained[chosen], normalise=recipe.normalise, constant=recipe.constant)
        live = chosen[(trained[chosen] > 0) & (every | ~idle[chosen])]
        yield [_batch(samples, pack, live, weights) for pack in _packs(samples, live, recipe)]


def _packs(samples: Samples, attempts: np.ndarray, recipe: OnlineRecipe) -> list[Pack]:
    rows, lengths = samples.rows, np.diff(samples.rows.offsets)[attempts]
    some = Rows(
        rows.values[spans(rows.offsets[attempts], lengths)], np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    )
    groups = samples.trees[attempts] if recipe.packed else np.arange(len(attempts))
    return pack_rows(some, max_tokens=recipe.max_tokens, groups=groups)


def _batch(samples: Samples, pack: Pack, attempts: np.ndarray, weights: np.ndarray) -> Batch:
    lengths = np.diff(pack.offsets)
    places = spans(samples.rows.offsets[attempts[pack.rows]], lengths)
    kept = samples.trained[places]
    places, members = places[kept], pack.row_of()[kept]
    needed, entries = np.unique(pack.index[kept], return_inverse=True)
    numbers = {
        "advantages": samples.advantages[places],
        "behaviour": samples.behaviour[places],
        "weights": weights[attempts[pack.rows]][members],
    }
    return {
        **pack_tensors(pack)._asdict(),
        "needed": torch.from_numpy(needed.astype(np.int64)),
        "entries": torch.from_numpy(entries.astype(np.int64)),
        "places": torch.from_numpy(places),
        "attempts": torch.from_numpy(members),
        **{name: torch.from_numpy(values.astype(np.float32)) for name, values in numbers.items()},
    }

"""Heavy: torch. Rows of training tables as packs with what their objective reads of each token.

A pack is a dictionary of tensors: `token_ids`, `positions`, `last`, `parent` (see `pipeline.builders.packing.Pack`),
`needed` (`[U]` indices of the trained tokens) and `items` (what a step's loss is divided by). Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.builders.packing import Pack, Rows, pack_rows, spans
from trainers.packed.forward import PackTensors, pack_tensors

Batch = dict[str, Tensor]


class Packed(NamedTuple):
    """Packs as they were laid out, and as tensors."""

    packs: list[Pack]
    batches: list[Batch]


def tensors_of(batch: Batch) -> PackTensors:
    """The pack of a batch."""
    return PackTensors(*(batch[name] for name in PackTensors._fields))


def likelihood_packs(
    rows: Rows, weights: np.ndarray, *, groups: np.ndarray, max_tokens: int, max_rows: int | None = None
) -> Packed:
    """Packs for weighted likelihood; a token that rows share has the sum of their weights. Weights may be negative.

    Args:
        rows: `R` rows of token ids.
        weights: `[T]`, of each token of the rows; the first of a row, which nothing comes before, is not trained.
        groups: `[R]` int, whose numbers are the order.
        max_tokens, max_rows: of a pack.

    Returns:
        Batches have `weights`, `[U]` float32, and in `items` the sum of the rows' weights, each without its sign.
    """
    packs = pack_rows(rows, max_tokens=max_tokens, groups=groups, max_units=max_rows)
    batches = []
    for pack in packs:
        each, trained = pack.gather(weights, rows.offsets), pack.parent >= 0
        summed, sizes = (np.where(trained, pack.sum_over_branches(one), 0.0) for one in (each, np.abs(each)))
        needed = np.flatnonzero(summed)
        batches.append(_batch(pack, needed, sizes.sum()) | {"weights": _float(summed[needed])})
    return Packed(packs, batches)


def labelled_packs(
    rows: Rows, labels: np.ndarray, *, groups: np.ndarray, max_tokens: int, max_rows: int | None = None
) -> Packed:
    """Packs for losses on labelled tokens; of a token that rows share, the label of each row counts.

    Args:
        rows: `R` rows of token ids, each with a label or more.
        labels: `[T]` float, of each token of the rows; NaN where there is none.
        groups: `[R]` int, whose numbers are the order.
        max_tokens, max_rows: of a pack.

    Returns:
        Batches have `entries` (`[E]`, into `needed`: the labelled tokens of every row), `labels` (`[E]` float32), and
        E in `items`.
    """
    packs = pack_rows(rows, max_tokens=max_tokens, groups=groups, max_units=max_rows)
    batches = []
    for pack in packs:
        each = pack.gather(labels, rows.offsets)
        kept = ~np.isnan(each)
        needed, entries = np.unique(pack.index[kept], return_inverse=True)
        said = {"entries": torch.from_numpy(entries), "labels": _float(each[kept])}
        batches.append(_batch(pack, needed, len(entries)) | said)
    return Packed(packs, batches)


def preference_packs(
    rows: Rows,
    starts: np.ndarray,
    *,
    groups: np.ndarray,
    max_tokens: int,
    max_pairs: int | None = None,
    rewards: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Packed:
    """Packs for losses on pairs; both answers of a pair stand in one pack.

    Args:
        rows: `2 P` rows of prompt and answer: chosen and rejected of each pair in turn.
        starts: `[2 P]` int, tokens of the prompt.
        groups: `[P]` int, whose numbers are the order.
        max_tokens, max_pairs: of a pack.
        rewards: `[T]` float, of each token of the rows (T-REG).
        weights: `[P]` float, of each pair at the first epoch. None: 1.

    Returns:
        Batches have `entries` (`[E]`, into `needed`: the trained tokens of every row), `entry_rows` (`[E]`), `pairs`
        (`[P, 2]`, rows of chosen and rejected), `lengths` (`[R]`), `weights` (`[P]`), `entry_rewards` (`[E]`) where
        there are rewards, and the number of pairs in `items`.
    """
    lengths = np.diff(rows.offsets)
    trained = np.zeros(len(rows.values), bool)
    trained[spans(rows.offsets[:-1] + np.maximum(starts, 1), lengths - np.maximum(starts, 1))] = True
    pair = np.repeat(np.arange(len(starts) // 2), 2)
    packs = pack_rows(rows, max_tokens=max_tokens, groups=np.repeat(groups, 2), units=pair, max_units=max_pairs)
    batches = []
    for pack in packs:
        kept = pack.gather(trained, rows.offsets)
        needed, entries = np.unique(pack.index[kept], return_inverse=True)
        entry_rows = pack.row_of()[kept]
        pairs = np.argsort(pack.rows).reshape(-1, 2)
        batch = _batch(pack, needed, len(pairs)) | {
            "entries": torch.from_numpy(entries),
            "entry_rows": torch.from_numpy(entry_rows),
            "pairs": torch.from_numpy(pairs),
            "lengths": torch.from_numpy(np.bincount(entry_rows, minlength=len(pack.rows))),
            "weights": torch.ones(len(pairs)) if weights is None else _float(weights[pack.rows[pairs[:, 0]] // 2]),
        }
        if rewards is not None:
            batch["entry_rewards"] = _float(pack.gather(rewards, rows.offsets)[kept])
        batches.append(batch)
    return Packed(packs, batches)


def paired_rows(prompts: Any, chosen: Any, rejected: Any) -> tuple[Rows, np.ndarray]:
    """Prompts with their chosen and rejected answers as rows in turn, and `[2 P]` tokens of the prompts."""
    prompts, answers = _lists(prompts), zip(_lists(chosen), _lists(rejected), strict=True)
    pieces = [piece for prompt, pair in zip(prompts, answers, strict=True) for one in pair for piece in (prompt, one)]
    lengths = np.fromiter(map(len, pieces), np.int64).reshape(-1, 2)
    offsets = np.concatenate(([0], np.cumsum(lengths.sum(axis=1))))
    values = np.concatenate(pieces) if pieces else np.empty(0)
    return Rows(values.astype(np.int32), offsets), lengths[:, 0]


def _lists(column: Any) -> Sequence[np.ndarray]:
    """Rows of a list column."""
    return [np.asarray(row, np.int32) for row in (column.to_list() if hasattr(column, "to_list") else column)]


def _batch(pack: Pack, needed: np.ndarray, items: float) -> Batch:
    tensors = pack_tensors(pack)._asdict()
    return {**tensors, "needed": torch.from_numpy(needed), "items": torch.tensor(float(items))}


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))

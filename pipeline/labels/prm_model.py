"""Heavy: torch, transformers. A process reward model's scores: the chance that each step of an attempt is right.

Reads token ids as they are stored and encodes nothing. Training is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForTokenClassification, PreTrainedModel

from pipeline.errors import BadModel
from pipeline.generation.quiet import quiet_output
from pipeline.labels.prm import Prm

BATCH_TOKENS = 8192
"""Tokens a batch has at most, padding included, unless one attempt alone has more."""


@lru_cache(maxsize=1)
def load_prm(prm: Prm) -> PreTrainedModel:
    """The weights in float32, on the accelerator where there is one; the last one asked for is kept.

    Raises:
        BadModel: the weights are broken, or not all of this architecture.
    """
    try:
        with quiet_output():
            model, info = AutoModelForTokenClassification.from_pretrained(
                prm.path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModel(f"{prm.path} cannot be loaded: {reason}", remedy="train it again") from error
    if info["missing_keys"]:
        raise BadModel(f"{prm.path} lacks weights: {sorted(info['missing_keys'])[0]}", remedy="train it again")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def score_steps(
    prm: Prm,
    input_ids: Sequence[Sequence[int]],
    step_ends: Sequence[Sequence[int]],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """The chance that each step is right, read at its last token.

    Attempts are read in batches of about equal lengths, padded on the right, which a causal model does not see.

    Args:
        prm: the model.
        input_ids: of `M` attempts, prompt and answer.
        step_ends: of each, the places of its steps' last tokens.
        on_progress: told how many attempts are done.

    Returns:
        `[P]` float64 in [0, 1], attempt after attempt; NaN where an end lies beyond the model's positions.

    Raises:
        BadModel: a token has no place in the model's vocabulary; names the attempt.
    """
    model = load_prm(prm)
    rows = [np.asarray(ids[: prm.max_length], np.int64) for ids in input_ids]
    offsets = np.cumsum([0, *map(len, step_ends)])
    found, done = np.full(offsets[-1], np.nan), 0
    for row, ids in enumerate(rows):
        if ids.max(initial=0) >= model.config.vocab_size:
            raise BadModel(
                f"attempt {row} has token {ids.max()}, {prm.path} knows {model.config.vocab_size}",
                remedy="score it with a model trained from the policy that sampled it",
            )
    for batch in _batches([len(ids) for ids in rows]):
        places = [np.asarray(step_ends[row], np.int64) for row in batch]
        known = [ends < len(rows[row]) for row, ends in zip(batch, places, strict=True)]
        at = np.concatenate([np.stack((np.full(k.sum(), n), e[k])) for n, (e, k) in enumerate(zip(places, known))], 1)
        padded = pad_sequence([torch.from_numpy(rows[row]) for row in batch], batch_first=True)
        with torch.inference_mode():
            logits = model(input_ids=padded.to(model.device), use_cache=False).logits
            here = logits[at[0], at[1]].double()
            right = torch.sigmoid(here[:, 1] - here[:, 0]).cpu().numpy()
        into = np.concatenate([offsets[row] + np.flatnonzero(k) for row, k in zip(batch, known, strict=True)])
        found[into] = right
        done += len(batch)
        on_progress(done)
    return found


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in batches of at most BATCH_TOKENS when padded, the longest first."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] and (not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > BATCH_TOKENS):
            batches.append([])
        if lengths[row]:
            batches[-1].append(row)
    return batches

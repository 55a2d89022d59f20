"""Heavy: torch, transformers. Log-probabilities of answers under a policy, in packs. Trains nothing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from pipeline.builders.packing import Rows, pack_rows, spans
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.packed.attention import check_model, prepare
from trainers.packed.forward import token_logprobs

MAX_TOKENS = 4096


@lru_cache(maxsize=1)
def scorer_of(policy: Policy) -> Scorer:
    """The scorer of a policy, loaded once."""
    return Scorer(policy)


class Scorer:
    """A policy that says how likely answers are; loaded when first asked.

    Calling it takes rows of prompt and answer, and the tokens of each prompt, and gives `[T]` float64: natural
    log-probabilities of all answer tokens, row after row.

    Raises:
        BadModel: the policy cannot be loaded, or takes no packs.
    """

    def __init__(self, policy: Policy):
        self._policy, self._model = policy, None

    @torch.no_grad()
    def __call__(self, rows: Rows, starts: np.ndarray) -> np.ndarray:
        lengths = np.diff(rows.offsets)
        if self._model is None:
            with runs.quiet():
                self._model = runs.load_model(self._policy).eval()
            if torch.cuda.is_available():
                self._model.to("cuda")
            prepare(self._model, device=self._model.device)
        check_model(self._model.config, longest=int(lengths.max()))
        found = np.full(len(rows.values), np.nan)
        for pack in pack_rows(rows, max_tokens=max(MAX_TOKENS, int(lengths.max()))):
            logprobs = token_logprobs(self._model, pack).double().cpu().numpy()
            found[spans(rows.offsets[pack.rows], np.diff(pack.offsets))] = logprobs[pack.index]
        return found[spans(rows.offsets[:-1] + starts, lengths - starts)]

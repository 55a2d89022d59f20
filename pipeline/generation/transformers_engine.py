"""Heavy: torch, transformers. The engine where no vLLM is: a batch at a time, on a CPU or a GPU, no prefix cache.

Rows of a batch leave it as they end, and the next batch begins once all have.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.errors import BadModel
from pipeline.generation.batching import Intake, reason
from pipeline.generation.engine import Completion, Request, failed
from pipeline.generation.policies import Policy

BATCH = 64
"""Requests in a batch."""


class TransformersEngine:
    """transformers on one policy: in float32 on a CPU, in the model's own type on a GPU.

    Every request draws from a generator of its own, on the CPU, so a batch changes what is drawn by rounding alone.

    Raises:
        BadModel: transformers cannot load the policy.
    """

    name = "transformers"

    def __init__(self, policy: Policy, *, fingerprint: str, dtype: str, max_length: int):
        self._ends = policy.end_ids
        self._fingerprint = fingerprint
        self._length = min(max_length, policy.max_length)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        transformers_logging.disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                policy.path, dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise BadModel(
                f"transformers cannot load {policy.path}: {reason(error)}",
                remedy="give the folder of a causal language model",
            ) from error
        self._model = model.to(self._device).eval()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        """Yield each completion as it ends, `cached` 0. A request with a schema fails, for nothing holds to it."""
        intake = Intake(requests, length=self._length)
        while not intake.ended:
            batch: list[Request] = []
            while len(batch) < BATCH and (request := intake.take(in_hand=len(batch))) is not None:
                if isinstance(request, Completion):
                    yield request
                elif request.sampling.schema:
                    yield failed(request, "the transformers engine cannot hold an answer to a schema")
                else:
                    batch.append(request)
            if batch:
                yield from self._answer(batch)

    def _answer(self, batch: list[Request]) -> Iterator[Completion]:
        """Decode a batch until its last row has ended. `R` rows are left, each prompt padded on its left."""
        most = max(len(request.prompt) for request in batch)
        ids_R_P = torch.zeros((len(batch), most), dtype=torch.long)
        mask_R_P = torch.zeros_like(ids_R_P)
        for row, request in enumerate(batch):
            ids_R_P[row, most - len(request.prompt) :] = torch.from_numpy(request.prompt)
            mask_R_P[row, most - len(request.prompt) :] = 1
        rows = [_Row(request) for request in batch]
        feed, mask, cache = ids_R_P.to(self._device), mask_R_P.to(self._device), None
        position = (mask.cumsum(1) - 1).clamp(min=0)
        while rows:
            with torch.inference_mode():
                out = self._model(
                    input_ids=feed,
                    attention_mask=mask,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache, logits_R_V = out.past_key_values, out.logits[:, -1].float().cpu()
            for row, logits in zip(rows, logits_R_V, strict=True):
                row.draw(logits)
            finishes = [row.finish(self._ends, self._length) for row in rows]
            for row, finish in zip(rows, finishes, strict=True):
                if finish:
                    yield row.completion(finish)
            left = [number for number, finish in enumerate(finishes) if not finish]
            if len(left) < len(rows):
                keep = torch.tensor(left, dtype=torch.long, device=self._device)
                rows, mask, position = [rows[number] for number in left], mask[keep], position[keep]
                cache.batch_select_indices(keep)
            feed = torch.tensor([[row.token_ids[-1]] for row in rows], dtype=torch.long, device=self._device)
            mask = torch.cat((mask, mask.new_ones(len(rows), 1)), dim=1)
            position = position[:, -1:] + 1

    def close(self) -> None:
        """Give the memory back."""
        del self._model
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()


class _Row:
    """A request while it is answered."""

    def __init__(self, request: Request):
        self.request = request
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self._random = torch.Generator().manual_seed(request.seed)

    def draw(self, logits_V: torch.Tensor) -> None:
        """Draw the next token; its log-probability is the policy's own, without temperature and top_p."""
        sampling = self.request.sampling
        if sampling.temperature == 0:
            token = int(logits_V.argmax())
        else:
            chances = (logits_V / sampling.temperature).softmax(-1)
            if sampling.top_p < 1:
                ranked, order = chances.sort(descending=True)
                ranked[ranked.cumsum(-1) - ranked >= sampling.top_p] = 0
                chances = torch.zeros_like(chances).scatter_(-1, order, ranked)
            token = int(torch.multinomial(chances, 1, generator=self._random))
        self.token_ids.append(token)
        self.logprobs.append(float(logits_V.log_softmax(-1)[token]))

    def finish(self, ends: tuple[int, ...], length: int) -> str | None:
        """Why it has ended, if it has. length: positions for prompt and answer."""
        if self.token_ids[-1] in ends:
            return "stop"
        most = min(self.request.sampling.max_tokens, length - len(self.request.prompt))
        return "length" if len(self.token_ids) >= most else None

    def completion(self, finish: str) -> Completion:
        token_ids, logprobs = np.array(self.token_ids, np.int32), np.array(self.logprobs, np.float32)
        return Completion(self.request.key, token_ids, logprobs, finish, cached=0)

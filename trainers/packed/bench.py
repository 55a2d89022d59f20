"""Heavy: torch, transformers. The training bench: loss, gradients and time of packs, rows apart and TRL's trainers.

A step is forward and backward over all rows; the optimiser's part is the same for all and left out. On a CPU its time
is the processor's, on one thread, which other work on the machine does not change.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.bench.metric import Metric, figure, ratio
from pipeline.builders.packing import forecast
from trainers.packed.attention import prepare
from trainers.packed.bench_rows import (
    OBJECTIVES,
    Drawn,
    Shape,
    apart,
    apart_logprobs,
    draw,
    drawn_model,
    loss_of,
    packed,
)
from trainers.packed.forward import needed_logprobs
from trainers.packed.rows import Batch, tensors_of

TREES = ([Shape(160, (4, 3), 24)], [Shape(160, (2, 2, 2), 30)], [Shape(100, (3, 2), 40), Shape(120, (2,), 60)])
"""On the CPU, a forest each."""
UNSHARED = [Shape(1, (2,), 160)] * 4
LARGE = Shape(1024, (2, 2, 2, 2), 240)
"""On the GPU: about 8k unique tokens, 32k on paths."""


class Took(NamedTuple):
    """A step: its loss, seconds."""

    loss: float
    seconds: float


def on_cpu(*, seed: int) -> Iterator[Metric]:
    """Float32, SDPA with a boolean mask, two layers 768 wide."""
    torch.set_num_threads(1)
    model = drawn_model("wide", device="cpu", dtype=torch.float32, seed=seed)
    for number, (objective, shapes) in enumerate(zip(OBJECTIVES, TREES, strict=True)):
        drawn = draw(shapes, vocabulary=model.config.vocab_size, seed=seed + number)
        yield from compare(model, drawn, objective, rows_a_batch=6, repeats=1, params={"model": "wide"})
    if find_spec("trl"):
        drawn = draw(UNSHARED, vocabulary=model.config.vocab_size, seed=seed)
        yield from against_trl(
            model, drawn, "dpo", rows_a_batch=8, repeats=2, params={"model": "wide", "shared_tokens": 1}
        )


def on_gpu(name: str, *, seed: int, seconds: float) -> Iterator[Metric]:
    """First exactness in float32 with FlexAttention, then bfloat16 at full size, beside TRL where it is installed."""
    began = time.monotonic()
    device = {"device": torch.cuda.get_device_name()}
    torch.backends.cuda.matmul.allow_tf32 = False
    small = drawn_model("narrow", device="cuda", dtype=torch.float32, seed=seed)
    drawn = draw([Shape(300, (2, 2, 2), 100)], vocabulary=small.config.vocab_size, seed=seed)
    for objective in OBJECTIVES:
        yield from compare(
            small, drawn, objective, rows_a_batch=8, repeats=1, params={"model": "narrow", "dtype": "float32", **device}
        )
    del small
    torch.compiler.reset()  # sizes change; the next ones are compiled as they are
    model = drawn_model(name, device="cuda", dtype=torch.bfloat16, seed=seed)
    drawn = draw([LARGE], vocabulary=model.config.vocab_size, seed=seed)
    params = {"model": name, "dtype": "bfloat16", **device}
    for measured in (compare, against_trl) if find_spec("trl") else (compare,):
        for objective in OBJECTIVES:
            if measured is against_trl and objective == "treg":
                continue
            if time.monotonic() - began > seconds:
                return
            yield from measured(model, drawn, objective, rows_a_batch=2, repeats=3, params=params)


def compare(
    model: PreTrainedModel, drawn: Drawn, objective: str, *, rows_a_batch: int, repeats: int, params: dict[str, Any]
) -> Iterator[Metric]:
    """Packs against rows apart: ratio of tokens, differences, speed."""
    ours, memory, found = packs_of(model, drawn, objective), {}, {}
    theirs = [_moved(batch, model.device) for batch in apart(drawn, objective, rows_a_batch=rows_a_batch)]
    steps = {
        "packed": lambda: packed_step(model, ours, objective),
        "apart": lambda: apart_step(model, theirs, objective),
    }
    gradients = {}
    for way, step in steps.items():
        _attend(model, packs=way == "packed")
        _peak(model.device)
        found[way] = step()
        gradients[way] = {name: one.grad.detach().clone() for name, one in model.named_parameters()}
        memory[way] = _peak(model.device)
    for _ in range(repeats):
        for way, step in steps.items():
            _attend(model, packs=way == "packed")
            took = step()
            found[way] = min(found[way], took, key=lambda one: one.seconds)
    saved = forecast(packed(drawn, objective, max_tokens=1 << 20).packs)
    of = {"objective": objective, **params, "path_tokens": saved.path_tokens, "unique_tokens": saved.unique}
    yield ratio("train.path_unique_ratio", saved.path_tokens, saved.unique, unit="x", params=of)
    apart_loss = found["apart"].loss
    yield figure(
        "train.loss_diff", abs(found["packed"].loss - apart_loss), unit="nats", params=of | {"loss": apart_loss}
    )
    yield figure("train.grad_rel_diff", worst_difference(**gradients), unit="1", params=of)
    yield ratio("train.speedup", found["apart"].seconds, found["packed"].seconds, unit="x", params=of)
    speedup = found["apart"].seconds / found["packed"].seconds
    yield ratio("train.speedup_over_ratio", speedup, saved.ratio, unit="1", params=of)
    if memory["packed"]:
        yield ratio("train.memory_ratio", memory["apart"], memory["packed"], unit="x", params=of)


def against_trl(
    model: PreTrainedModel, drawn: Drawn, objective: str, *, rows_a_batch: int, repeats: int, params: dict[str, Any]
) -> Iterator[Metric]:
    """Time of TRL's trainer over that of packs, for one step on all rows."""
    from trainers.packed.bench_trl import trl_step

    ours = packs_of(model, drawn, objective)
    theirs = trl_step(model, drawn, objective, rows_a_batch=rows_a_batch, now=lambda: now(model.device))
    best: dict[str, float] = {}
    for _ in range(repeats + 1):  # the first warms up
        for way, step in (("packed", lambda: packed_step(model, ours, objective).seconds), ("trl", theirs)):
            _attend(model, packs=way == "packed")
            model.zero_grad()
            best[way] = min(best.get(way, 1e9), step())
    yield ratio("train.ratio_to_trl", best["trl"], best["packed"], unit="x", params={"objective": objective, **params})


def packs_of(model: PreTrainedModel, drawn: Drawn, objective: str) -> list[Batch]:
    """All trees in packs of at most 16k tokens, on the model's device."""
    return [_moved(batch, model.device) for batch in packed(drawn, objective, max_tokens=1 << 14).batches]


def packed_step(model: PreTrainedModel, batches: list[Batch], objective: str) -> Took:
    """Forward and backward over packs."""
    loss, items = loss_of(objective), sum(batch["items"] for batch in batches)

    def score(batch: Batch) -> Tensor:
        return loss(batch, needed_logprobs(model, tensors_of(batch), batch["needed"])).total / items

    return _timed(model, [lambda batch=batch: score(batch) for batch in batches])


def apart_step(model: PreTrainedModel, batches: list[tuple], objective: str) -> Took:
    """Forward and backward over rows apart."""
    loss, items = loss_of(objective), sum(batch["items"] for *_, batch in batches)

    def score(ids: Tensor, mask: Tensor, kept: Tensor, batch: Batch) -> Tensor:
        return loss(batch, apart_logprobs(model, ids, mask, kept)).total / items

    return _timed(model, [lambda given=given: score(*given) for given in batches])


def worst_difference(packed: dict[str, Tensor], apart: dict[str, Tensor]) -> float:
    """Over parameters the greatest norm of the gradients' difference over that of the gradient."""
    found = [((packed[name] - apart[name]).float().norm() / apart[name].float().norm()).item() for name in apart]
    return max(found)


def _timed(model: PreTrainedModel, parts: list[Callable[[], Tensor]]) -> Took:
    model.train().zero_grad()
    began, losses = now(model.device), []
    for part in parts:
        loss = part()
        loss.backward()
        losses.append(loss.detach())
    seconds = now(model.device) - began
    return Took(float(torch.stack(losses).double().sum()), seconds)


def _attend(model: PreTrainedModel, *, packs: bool) -> None:
    """What packs need, or what rows apart are fastest with."""
    if packs:
        prepare(model, device=model.device)
    else:
        model.set_attn_implementation("sdpa")


def _moved(given: Any, device: torch.device) -> Any:
    """Tensors in a tuple or a dictionary, on a device."""
    if isinstance(given, dict):
        return {name: tensor.to(device) for name, tensor in given.items()}
    return tuple(_moved(one, device) if isinstance(one, dict) else one.to(device) for one in given)


def now(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, of the clock once a GPU is idle."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    """Most bytes held on a GPU since last asked; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    held = torch.cuda.max_memory_allocated()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return held

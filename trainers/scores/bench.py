"""Heavy: torch, transformers. The scoring bench: log-probabilities over trees against path by path, exactness and time.

Paths apart are sorted by length, padded and masked, and the head sees their answers alone; nothing else is cheaper to
do without looking at trees. On a CPU the time is the processor's, on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from pipeline.bench.metric import Metric, figure, ratio
from pipeline.builders.packing import forecast
from trainers.packed.attention import prepare
from trainers.packed.bench import now
from trainers.packed.bench_rows import Shape, drawn_model
from trainers.scores.contexts import Contexts, contexts_of, said
from trainers.scores.forward import likelihoods

ON_CPU = {"4-3": [Shape(160, (4, 3), 24)] * 2, "2-2-2-2": [Shape(160, (2, 2, 2, 2), 30)] * 2}
LARGE = [Shape(1024, (2, 2, 2, 2), 240)] * 2
"""On a GPU."""


def on_cpu(*, seed: int) -> Iterator[Metric]:
    """Float32, two layers 768 wide."""
    torch.set_num_threads(1)
    model = drawn_model("wide", device="cpu", dtype=torch.float32, seed=seed)
    for branching, shapes in ON_CPU.items():
        nodes = drawn_nodes(shapes, vocabulary=model.config.vocab_size, seed=seed)
        params = {"model": "wide", "branching": branching}
        yield from compare(model, nodes, rows_a_batch=6, max_tokens=2048, repeats=2, params=params)


def on_gpu(name: str, *, seed: int) -> Iterator[Metric]:
    """Exactness in float32, time in bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    device = {"device": torch.cuda.get_device_name()}
    for size, dtype, shapes in (
        ("narrow", torch.float32, [Shape(300, (2, 2, 2), 100)] * 2),
        (name, torch.bfloat16, LARGE),
    ):
        model = drawn_model(size, device="cuda", dtype=dtype, seed=seed)
        nodes = drawn_nodes(shapes, vocabulary=model.config.vocab_size, seed=seed)
        params = {"model": size, "dtype": str(dtype).removeprefix("torch."), **device}
        yield from compare(model, nodes, rows_a_batch=4, max_tokens=1 << 14, repeats=3, params=params)


def compare(
    model: PreTrainedModel,
    nodes: pl.DataFrame,
    *,
    rows_a_batch: int,
    max_tokens: int,
    repeats: int,
    params: dict[str, Any],
) -> Iterator[Metric]:
    """Trees against paths: ratio of tokens, largest difference, speed."""
    model = model.eval().requires_grad_(False)
    contexts, wanted = contexts_of(nodes), said(nodes)
    trees = lambda: likelihoods(model, contexts, wanted, max_tokens=max_tokens)[0]  # noqa: E731
    paths = lambda: path_logprobs(model, contexts, wanted, rows_a_batch=rows_a_batch)  # noqa: E731
    found: dict[str, np.ndarray] = {}
    best: dict[str, float] = {}
    for turn in range(repeats + 1):
        for way, score in (("trees", trees), ("paths", paths)):
            if way == "trees":
                prepare(model, device=model.device)
            else:
                model.set_attn_implementation("sdpa")
            began = now(model.device)
            found[way] = score()
            took = now(model.device) - began
            if turn:  # the first warms up
                best[way] = min(best.get(way, np.inf), took)
    saved = forecast(contexts.packs(max_tokens))
    of = {**params, "path_tokens": saved.path_tokens, "unique_tokens": saved.unique}
    difference = float(np.nanmax(np.abs(found["trees"] - found["paths"])))
    yield ratio("score.path_unique_ratio", saved.path_tokens, saved.unique, unit="x", params=of)
    yield figure("score.logprob_diff", difference, unit="nats", params=of)
    yield ratio("score.tokens_per_s", int(np.isfinite(found["trees"]).sum()), best["trees"], unit="1/s", params=of)
    speedup = best["paths"] / best["trees"]
    yield ratio("score.speedup", best["paths"], best["trees"], unit="x", params=of)
    yield ratio("score.speedup_over_ratio", speedup, saved.ratio, unit="1", params=of)


@torch.no_grad()
def path_logprobs(model: PreTrainedModel, contexts: Contexts, wanted: np.ndarray, *, rows_a_batch: int) -> np.ndarray:
    """`[T]` as `likelihoods` gives it, by the model's own forward pass on padded paths, the longest first."""
    found = np.full(contexts.tokens[-1], np.nan, np.float32)
    offsets = contexts.rows.offsets
    order = np.argsort(-np.diff(offsets), kind="stable")
    for first in range(0, len(order), rows_a_batch):
        some = order[first : first + rows_a_batch]
        rows = [
            torch.from_numpy(contexts.rows.values[offsets[row] : offsets[row + 1]].astype(np.int64)) for row in some
        ]
        ids = pad_sequence(rows, batch_first=True).to(model.device)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(model.device)
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        places = [_places(contexts, row, wanted) for row in some]
        at = [torch.from_numpy(inside).to(model.device) for inside, _ in places]
        before = torch.cat([hidden[number, inside - 1] for number, inside in enumerate(at)])
        taken = torch.cat([ids[number, inside] for number, inside in enumerate(at)])
        logits = model.get_output_embeddings()(before).float()
        found[np.concatenate([among for _, among in places])] = (
            -F.cross_entropy(logits, taken, reduction="none").cpu().numpy()
        )
    return found


def _places(contexts: Contexts, row: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the wanted tokens of a context stand in its row, and among all nodes' tokens."""
    inside, among = [], []
    for entry in range(contexts.offsets[row], contexts.offsets[row + 1]):
        node = contexts.nodes[entry]
        if wanted[node]:
            count = contexts.tokens[node + 1] - contexts.tokens[node]
            inside.append(contexts.starts[entry] + np.arange(count))
            among.append(contexts.tokens[node] + np.arange(count))
    return np.concatenate(inside), np.concatenate(among)


def drawn_nodes(shapes: list[Shape], *, vocabulary: int, seed: int) -> pl.DataFrame:
    """Nodes of trees whose segments have between half and one and a half of their mean length."""
    rng, rows = np.random.default_rng(seed), []
    for number, shape in enumerate(shapes):
        level, count = [None], 0
        for depth, children in enumerate((1, *shape.branching)):
            level, before = [], level
            for parent in before:
                for _ in range(children):
                    low, high = shape.segment // 2, shape.segment + shape.segment // 2
                    size = shape.prompt if parent is None else int(rng.integers(low, high + 1))
                    rows.append(
                        {
                            "task": f"{number:03d}",
                            "tree": f"{number:03d}",
                            "node": count,
                            "parent": parent,
                            "context": 0,
                            "depth": depth,
                            "kind": "prompt" if parent is None else "step",
                            "token_ids": rng.integers(0, vocabulary, size).tolist(),
                            "token_count": size,
                        }
                    )
                    level.append(count)
                    count += 1
    types = {"token_ids": pl.List(pl.Int32), **dict.fromkeys(("node", "parent", "context", "depth"), pl.Int32)}
    return pl.DataFrame(rows, schema_overrides=types)

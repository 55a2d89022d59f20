"""Heavy: torch, transformers. What attention says of tokens, read off a model's own queries and keys.

A pack's attention is computed for some queries at a time, and of their rows only sums and the nearest columns are
kept: no map of all tokens by all tokens is ever there, nor a mask of that size. Knows no credit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from pipeline.builders.packing import Pack, spans
from pipeline.credit.attention_rhythm import RhythmParams, rhythm_layers
from pipeline.errors import BadModel
from trainers.packed.attention import check_model, prepare
from trainers.packed.forward import pack_tensors
from trainers.scores.contexts import MAX_TOKENS, Contexts

WATCHED = "sdpa_watched"
CHUNK_BYTES = 1 << 26
"""Of float32 attention that is alive at once."""
QUANTILE = 0.3


class Heads(NamedTuple):
    """layers: those looked at. near, far: heads that look back least and most, numbered through these layers in
    turn. distances: `[H]`, tokens each looks back on average."""

    layers: list[int]
    near: np.ndarray
    far: np.ndarray
    distances: np.ndarray


@dataclass(slots=True, eq=False)
class Watch:
    """What the attentions of a pack are told, and what they leave.

    last, positions: `[T]` int64, as in `Pack`.
    start:     `[T]` int64, the root of each token's tree.
    layers:    those looked at.
    back:      `[T, K]` int64, the token so many before each on its path that a column stands for; -1: none.
    weights:   by layer `[S, H]`: how heads are mixed, for each of `S` sums. None: heads stay apart, distances are kept.
    distances: by layer `[H, T]`, mean tokens that each head looks back from each token.
    bands:     `[S, T, K]`, attention from each token to those of `back`, summed over layers and mixed heads.
    """

    last: Tensor
    positions: Tensor
    start: np.ndarray
    layers: list[int]
    back: Tensor
    weights: dict[int, Tensor] | None = None
    chunk_bytes: int = CHUNK_BYTES
    distances: dict[int, Tensor] = field(default_factory=dict)
    bands: Tensor | None = None


def watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    watch: Watch,
    scaling: float | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention over a pack, some queries at a time; of the layers that are looked at the summaries are kept.

    Raises:
        BadModel: the model's attention has sinks or capped scores, whose rows this does not compute.
    """
    del attention_mask
    for name in ("s_aux", "softcap"):
        if given.get(name) is not None:
            raise BadModel(f"attention with {name} is not looked at", remedy="use a model with plain softmax attention")
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1)[0] for one in (key, value))
    query, size = query[0], query.shape[2]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    looked = module.layer_idx in watch.layers
    most = watch.chunk_bytes / (4 * len(query))
    pieces, end = [], 0
    while end < size:
        begin, low = end, int(watch.start[end])
        before = begin - low
        end = min(size, begin + max(1, int(((before**2 + 4 * most) ** 0.5 - before) / 2)))
        keys, queries = torch.arange(low, end, device=query.device), torch.arange(begin, end, device=query.device)
        seen = (keys <= queries[:, None]) & (queries[:, None] <= watch.last[low:end])
        part = query[:, begin:end]
        if not looked:
            found = F.scaled_dot_product_attention(
                part[None], key[None, :, low:end], value[None, :, low:end], attn_mask=seen, scale=scaling
            )[0]
        else:
            scores = (part @ key[:, low:end].transpose(1, 2)).float() * scaling
            attention = torch.softmax(scores.masked_fill_(~seen, -torch.inf), dim=-1)
            _look(watch, module.layer_idx, attention, begin=begin, low=low)
            found = attention.to(value.dtype) @ value[:, low:end]
        pieces.append(found)
    return torch.cat(pieces, dim=1).transpose(0, 1)[None].contiguous(), None


def _look(watch: Watch, layer: int, attention: Tensor, *, begin: int, low: int) -> None:
    """Keep what is asked for of `[H, c, k]` attention, of queries from `begin` on to keys from `low` on."""
    heads, count, width = attention.shape
    end, place = begin + count, watch.positions
    if watch.weights is None:
        kept = watch.distances.setdefault(layer, attention.new_zeros(heads, len(place)))
        kept[:, begin:end] = place[begin:end] - attention @ place[low : low + width].to(attention.dtype)
        return
    columns = watch.back[begin:end]
    of_heads = attention.gather(2, (columns - low).clamp(min=0).expand(heads, -1, -1)) * (columns >= 0)
    watch.bands[:, begin:end] += torch.einsum("sh,hck->sck", watch.weights[layer], of_heads)


AttentionInterface.register(WATCHED, watched_attention)
AttentionMaskInterface.register(WATCHED, lambda *_, **__: None)


@torch.no_grad()
def watch_pack(
    model: PreTrainedModel,
    pack: Pack,
    *,
    layers: list[int],
    back: np.ndarray,
    weights: dict[int, Tensor] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Watch:
    """Run a pack through a model whose attention is `WATCHED`; see `Watch` for the arguments and what comes back."""
    tensors, device = pack_tensors(pack, device=model.device), model.device
    root = np.maximum.accumulate(np.where(pack.parent < 0, np.arange(len(pack)), 0))
    watch = Watch(
        tensors.last,
        tensors.positions,
        root,
        layers,
        torch.from_numpy(back).to(device),
        weights,
        chunk_bytes,
    )
    if weights is not None:
        watch.bands = torch.zeros(len(next(iter(weights.values()))), *back.shape, device=device)
    model.get_decoder()(
        input_ids=tensors.token_ids[None], position_ids=tensors.positions[None], use_cache=False, watch=watch
    )
    return watch


def ancestors(pack: Pack, most: int) -> np.ndarray:
    """`[T, most + 1]` int64: of each token the one so many before it on its path, from itself on; -1: none."""
    parent = np.append(pack.parent.astype(np.int64), -1)  # the parent of none is none
    found = np.empty((len(pack), most + 1), np.int64)
    found[:, 0] = np.arange(len(pack))
    for back in range(1, most + 1):
        found[:, back] = parent[found[:, back - 1]]
    return found


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model's attention is `WATCHED`."""
    model.set_attn_implementation(WATCHED)
    try:
        yield
    finally:
        prepare(model, device=model.device)


def choose_heads(
    model: PreTrainedModel,
    parts: Iterable[tuple[Contexts, np.ndarray]],
    *,
    max_tokens: int = MAX_TOKENS,
    chunk_bytes: int = CHUNK_BYTES,
) -> Heads:
    """Tell heads that look nearby from heads that look far, on a sample of rollouts.

    Args:
        model: of `forward.open_model`.
        parts: contexts of `N` nodes and `[N]` bool, the nodes of the responses; each token counts once.
        max_tokens: of a pack.
        chunk_bytes: of attention that may be alive at once.

    Raises:
        BadModel: the model takes no packs.
        ValueError: the sample has no token.

    Source: as `pipeline.credit.attention_rhythm.group_heads`, whose rule for shares and ties this follows.
    """
    layers = rhythm_layers(model.config.get_text_config().num_hidden_layers)
    total, count = 0.0, 0
    with watched(model):
        for contexts, wanted in parts:
            check_model(model.config, longest=contexts.longest)
            left = wanted.copy()
            for pack in contexts.packs(max_tokens):
                found = contexts.find(pack, left)
                left[found.nodes] = False
                seen = watch_pack(
                    model, pack, layers=layers, back=np.zeros((len(pack), 0), np.int64), chunk_bytes=chunk_bytes
                )
                kept = torch.cat([seen.distances[layer] for layer in layers])[:, torch.from_numpy(found.index).long()]
                total, count = total + kept.double().sum(dim=1).cpu().numpy(), count + len(found.index)
    if not count:
        raise ValueError("the sample has no token of a response")
    distances = np.atleast_1d(total / count)
    size = max(1, int(np.floor(QUANTILE * len(distances) + 1e-9)))
    settled = np.round(distances, 6)  # float32 tells no more apart
    near, far = (np.sort(np.argsort(one, kind="stable")[:size]) for one in (settled, -settled))
    return Heads(layers, near, far, distances)


def rhythm_scores(
    model: PreTrainedModel,
    contexts: Contexts,
    wanted: np.ndarray,
    heads: Heads,
    *,
    params: RhythmParams = RhythmParams(),
    max_tokens: int = MAX_TOKENS,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """How far near heads look back from each token, and how much far heads look at it from later ones.

    Both need the attention to a few dozen tokens before each one alone: with rows that sum to 1, what lies further
    back than the window counts as the window.

    Args:
        model: of `forward.open_model`.
        contexts: of `N` nodes.
        wanted: `[N]` bool, the nodes of the responses.
        heads: of the model.
        params: the horizons.
        max_tokens: of a pack.
        chunk_bytes: of attention that may be alive at once.

    Returns:
        waad: `[T]` float32, of all nodes' tokens, in tokens; NaN where not wanted.
        fai: the same, in [0, 1]: the mean over the contexts through a token in which some later wanted token is as far
            away as asked; 0 where there is none.

    Raises:
        BadModel: the model takes no packs.

    Source: Attention Illuminates LLM Reasoning (Li et al., 2025). On trees the mean over contexts is ours.
    """
    most = max(params.window - 1, params.farthest)
    waad, total, count = np.full(contexts.tokens[-1], np.nan, np.float32), *np.zeros((2, contexts.tokens[-1]))
    with watched(model):
        weights, left = _weights(model, heads), wanted.copy()
        for pack in contexts.packs(max_tokens):
            found = contexts.find(pack, left)
            left[found.nodes] = False
            back = ancestors(pack, most)
            seen = watch_pack(model, pack, layers=heads.layers, back=back, weights=weights, chunk_bytes=chunk_bytes)
            local, far = seen.bands.double().cpu().numpy()
            window = np.arange(params.window)
            looked = params.window - local[:, : params.window] @ (params.window - window)
            short = np.minimum(looked, pack.positions)  # rounding may not look behind the first token
            waad[found.places] = np.maximum(short, 0.0)[found.index]
            _add_later(contexts, pack, wanted, far, params, total=total, count=count)
    return waad, np.where(np.isnan(waad), np.nan, total / np.maximum(count, 1)).astype(np.float32)


def _weights(model: PreTrainedModel, heads: Heads) -> dict[int, Tensor]:
    """By layer `[2, H]`: what each head counts in the means over near and over far heads."""
    size = len(heads.distances) // len(heads.layers)
    mixed = np.zeros((2, len(heads.distances)), np.float32)
    mixed[0, heads.near], mixed[1, heads.far] = 1 / len(heads.near), 1 / len(heads.far)
    parts = torch.from_numpy(mixed).to(model.device).split(size, dim=1)
    return dict(zip(heads.layers, parts, strict=True))


def _add_later(
    contexts: Contexts,
    pack: Pack,
    wanted: np.ndarray,
    far: np.ndarray,
    params: RhythmParams,
    *,
    total: np.ndarray,
    count: np.ndarray,
) -> None:
    """Add to `[T]` sums, context by context, the mean attention that each wanted token gets from later wanted ones."""
    entries, _ = contexts.entries_of(pack)
    nodes = contexts.nodes[entries]
    counts = np.diff(contexts.tokens)[nodes]
    place = spans(contexts.tokens[nodes], counts)  # of each of the pack's path tokens among all nodes' tokens
    kept = np.repeat(wanted[nodes] & contexts.own[entries], counts)
    row, sums, seen = pack.row_of(), *np.zeros((2, len(place)))
    for distance in range(params.nearest, min(params.farthest, len(place) - 1) + 1):
        end = len(place) - distance
        both = np.flatnonzero((row[distance:] == row[:end]) & kept[distance:] & kept[:end])
        sums[both] += far[pack.index[both + distance], distance]
        seen[both] += 1
    told = seen > 0
    np.add.at(total, place[told], sums[told] / seen[told])
    np.add.at(count, place[told], 1)

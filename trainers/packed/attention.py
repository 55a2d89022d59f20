"""Heavy: torch, transformers. What a model must be told so that a pack's tokens see their own paths alone.

A query attends a key when `key <= query <= last[key]`. FlexAttention gets that as blocks, and its cost follows what is
attended; it has no backward pass on a CPU. There SDPA gets a boolean mask of T x T bytes, a tree after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.errors import BadModel

BLOCK = 128
FLEX, BY_TREE = "flex_attention", "sdpa_by_tree"


def prepare(model: PreTrainedModel, *, device: torch.device) -> None:
    """Choose an attention that takes masks: FlexAttention on a GPU, SDPA tree by tree elsewhere."""
    model.set_attn_implementation(FLEX if device.type == "cuda" else BY_TREE)


def attend_by_tree(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree_sizes: list[int] | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """SDPA over trees that stand one after the other: as over all at once, without what one would not see of others.

    Args:
        module, query, key, value, attention_mask, given: as transformers' attentions take them.
        tree_sizes: tokens of each tree. None: one attention over all.
    """
    if tree_sizes is None or len(tree_sizes) == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    pieces, start = [], 0
    for states in zip(*(one.split(tree_sizes, dim=2) for one in (query, key, value)), strict=True):
        end = start + states[0].shape[2]
        pieces.append(sdpa_attention_forward(module, *states, attention_mask[..., start:end, start:end], **given)[0])
        start = end
    return torch.cat(pieces, dim=1), None


AttentionInterface.register(BY_TREE, attend_by_tree)
AttentionMaskInterface.register(BY_TREE, sdpa_mask)


def tree_mask(last: Tensor, *, implementation: str, dtype: torch.dtype) -> Tensor | BlockMask:
    """The mask of a pack, for a model's `attention_mask`.

    Args:
        last: `[T]`, see `pipeline.builders.packing.Pack`; of whole blocks for FlexAttention.
        implementation: the model's attention.
        dtype: of the mask where it is added to scores.

    Raises:
        BadModel: an attention that takes no such mask.
    """
    if implementation == FLEX:
        return _blocks(last)
    index = torch.arange(len(last), device=last.device)
    seen = (index[None, :] <= index[:, None]) & (index[:, None] <= last[None, :])
    if implementation in ("sdpa", BY_TREE):
        return seen[None, None]
    if implementation == "eager":
        return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[None, None]
    raise BadModel(f"attention {implementation!r} takes no mask of a tree", remedy="use sdpa, flex_attention or eager")


def _blocks(last: Tensor) -> BlockMask:
    """Which blocks of queries see something of which blocks of keys, and which see all of them.

    A block of keys is seen from a later block of queries when one of its tokens is followed that far, and wholly when
    all are followed to the block's end.
    """
    if len(last) % BLOCK:
        raise ValueError(f"{len(last)} tokens are no whole blocks of {BLOCK}")
    of_key = last.view(-1, BLOCK)
    block = torch.arange(len(of_key), device=last.device)
    first, final = block[:, None] * BLOCK, block[:, None] * BLOCK + BLOCK - 1
    earlier, own = block[None, :] < block[:, None], block[None, :] == block[:, None]
    full = earlier & (of_key.amin(dim=1)[None, :] >= final)
    partial = own | (earlier & (of_key.amax(dim=1)[None, :] >= first) & ~full)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query <= last[key])

    return BlockMask.from_kv_blocks(*_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=seen)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For every block of queries how many blocks of keys it has, and which, those first."""
    counts = blocks.sum(dim=1, dtype=torch.int32)
    order = torch.argsort(blocks.to(torch.int8), dim=1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None].contiguous()


def check_positions(positions: Tensor, mask: Tensor | BlockMask | None) -> None:
    """Refuse what a model would silently read as sequences packed one after the other.

    Raises:
        ValueError: positions that are not 0, 1, 2, ... come without a mask.
    """
    if mask is None and not torch.equal(positions, torch.arange(len(positions), device=positions.device)):
        raise ValueError("positions of a tree need its mask: without it every branch loses its prefix")


def check_model(config: PretrainedConfig, *, longest: int) -> None:
    """Refuse models whose layers look at anything but a mask.

    Args:
        config: of the model.
        longest: tokens of the longest path.

    Raises:
        BadModel: recurrent layers, or a sliding window shorter than the longest path.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise BadModel(f"layers of {sorted(other)[0]} follow the order of tokens", remedy="train without packing")
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if window and slides and longest > window:
        raise BadModel(
            f"a row has {longest} tokens, the model's window {window}", remedy="train without packing, or shorter rows"
        )

"""Heavy: torch, transformers. Log-probabilities of a pack's tokens, or their classes, each given its own path.

The logits that tell a token are those of the token before it on its path, in a pack not always the one before it. They
are made for the tokens asked for, some at a time, and again in the backward pass where they do not fit at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.builders.packing import Pack
from trainers.packed.attention import BLOCK, BY_TREE, FLEX, check_positions, tree_mask

LOGIT_BYTES = 1 << 29
"""Of float32 logits that are alive at once."""
CLASSIFIERS = ("score", "classifier")
"""What transformers calls the head of a token classifier."""


class PackTensors(NamedTuple):
    """A pack on a device, `[T]` int64 each; see `pipeline.builders.packing.Pack`."""

    token_ids: Tensor
    positions: Tensor
    last: Tensor
    parent: Tensor


def pack_tensors(pack: Pack, *, device: torch.device | str = "cpu") -> PackTensors:
    """A pack's arrays as tensors."""
    arrays = (pack.token_ids, pack.positions, pack.last, pack.parent)
    return PackTensors(*(torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays))


def token_logprobs(model: PreTrainedModel, pack: Pack | PackTensors, *, logit_bytes: int = LOGIT_BYTES) -> Tensor:
    """`[T]` float32: natural log-probability of each token given its path; 0 at a root, which nothing comes before.

    Args:
        model: of causal language.
        pack: unique tokens in preorder.
        logit_bytes: of logits that may be alive at once.
    """
    tensors = pack_tensors(pack, device=model.device) if isinstance(pack, Pack) else pack
    needed = torch.nonzero(tensors.parent >= 0)[:, 0]
    found = needed_logprobs(model, tensors, needed, logit_bytes=logit_bytes)
    return torch.zeros(len(tensors.parent), device=found.device).index_put((needed,), found)


def needed_logprobs(
    model: PreTrainedModel, tensors: PackTensors, needed: Tensor, *, logit_bytes: int = LOGIT_BYTES
) -> Tensor:
    """`[U]` float32: as `token_logprobs`, of these tokens alone.

    Args:
        model: of causal language.
        tensors: the pack.
        needed: `[U]` indices of tokens that are no roots.
        logit_bytes: of logits that may be alive at once.
    """
    before = hidden_states(model, tensors)[tensors.parent[needed]]
    return head_logprobs(model, before, tensors.token_ids[needed], logit_bytes=logit_bytes)


def hidden_states(model: PreTrainedModel, tensors: PackTensors) -> Tensor:
    """`[T, H]`: what the model's head is given for each token."""
    size, implementation = len(tensors.token_ids), model.config._attn_implementation
    if implementation == FLEX:
        tensors = _whole_blocks(tensors)
    dtype = model.get_input_embeddings().weight.dtype
    mask = tree_mask(tensors.last, implementation=implementation, dtype=dtype)
    check_positions(tensors.positions, mask)
    roots = torch.nonzero(tensors.parent < 0)[:, 0].tolist() if implementation == BY_TREE else []
    cuts = {"tree_sizes": [end - start for start, end in pairwise([*roots, size])]} if roots else {}
    found = model.get_decoder()(
        input_ids=tensors.token_ids[None],
        position_ids=tensors.positions[None],
        attention_mask=mask,
        use_cache=False,  # a cache makes models read positions that restart as one sequence
        **cuts,
    )
    return found.last_hidden_state[0, :size]


def class_logits(model: PreTrainedModel, tensors: PackTensors, needed: Tensor) -> Tensor:
    """`[U, C]`: what a token classifier says of the tokens at `[U]` indices.

    Args:
        model: a token classifier without dropout before its head.
        tensors: the pack.
        needed: indices of tokens.
    """
    head = next(getattr(model, name) for name in CLASSIFIERS if hasattr(model, name))
    return head(hidden_states(model, tensors)[needed])


def head_logprobs(
    model: PreTrainedModel, hidden: Tensor, token_ids: Tensor, *, logit_bytes: int = LOGIT_BYTES
) -> Tensor:
    """`[U]` float32: log-probability of each token under the head's distribution at a `[U, H]` state."""
    head = model.get_output_embeddings()
    size = max(1, logit_bytes // (4 * head.weight.shape[0]))
    if len(token_ids) <= size:
        return _logprobs(head, model.config, hidden, token_ids)
    pieces = zip(hidden.split(size), token_ids.split(size), strict=True)
    return torch.cat([checkpoint(_logprobs, head, model.config, *piece, use_reentrant=False) for piece in pieces])


def _logprobs(head: nn.Module, config: PretrainedConfig, hidden: Tensor, token_ids: Tensor) -> Tensor:
    logits = scaled_logits(head(hidden).float(), config)
    return -F.cross_entropy(logits, token_ids, reduction="none")


def scaled_logits(logits: Tensor, config: PretrainedConfig) -> Tensor:
    """Logits as the model's own forward pass leaves them: Gemma caps them, Cohere and Granite scale them."""
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    return logits / (getattr(config, "logits_scaling", None) or 1.0)


def _whole_blocks(tensors: PackTensors) -> PackTensors:
    """The same with tokens after it that see themselves alone, up to whole blocks."""
    size = len(tensors.token_ids)
    more = torch.arange(size, -(-size // BLOCK) * BLOCK, device=tensors.last.device)
    zeros = torch.zeros_like(more)
    added = PackTensors(zeros, zeros, more, zeros - 1)
    return PackTensors(*(torch.cat(pair) for pair in zip(tensors, added, strict=True)))


def through(wrapped: nn.Module, model: PreTrainedModel, function: Callable[..., Any], *given: Any) -> Any:
    """Call a function of the model as its forward pass, so that what wraps it (DDP, FSDP) or hooks into it (FSDP2) sees
    one.

    Args:
        wrapped: the model as the trainer holds it.
        model: the model within.
        function: called with the model and what is given.
    """
    own = model.forward

    def once(*inner: Any) -> Any:
        model.forward = own
        return function(model, *inner)

    model.forward = once
    try:
        return wrapped(*given)
    finally:
        model.forward = own

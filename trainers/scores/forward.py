"""Heavy: torch, transformers. Log-probabilities and entropies of the tokens of contexts, in packs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.builders.packing import Pack
from pipeline.errors import BadModel
from pipeline.generation.policies import Policy
from trainers import runs
from trainers.packed.attention import check_model, prepare
from trainers.packed.forward import LOGIT_BYTES, hidden_states, pack_tensors, scaled_logits
from trainers.scores.contexts import MAX_TOKENS, Contexts, Found


@lru_cache(maxsize=1)
def open_model(policy: Policy) -> PreTrainedModel:
    """A policy's model in float32, on the GPU where there is one, ready for packs; the last one asked for is kept.

    Raises:
        BadModel: it cannot be loaded.
    """
    with runs.quiet():
        model = runs.load_model(policy).eval().requires_grad_(False)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    prepare(model, device=model.device)
    return model


def check_tokens(policy: Policy, other: Policy) -> None:
    """Make sure that two policies mean the same by a token.

    Raises:
        BadModel: their vocabularies differ.
    """
    if policy.path != other.path and runs.load_tokenizer(policy).get_vocab() != runs.load_tokenizer(other).get_vocab():
        raise BadModel(
            f"policy {other.name} has other tokens than {policy.name}", remedy="give one with the same tokenizer"
        )


def states(
    model: PreTrainedModel, contexts: Contexts, wanted: np.ndarray, *, max_tokens: int = MAX_TOKENS
) -> Iterator[tuple[Pack, Found, Tensor]]:
    """Pack by pack the nodes found there and `[T, H]` what the model's head is given; each node once.

    Args:
        model: of `open_model`.
        contexts: of `N` nodes.
        wanted: `[N]` bool.
        max_tokens: of a pack.

    Raises:
        BadModel: the model takes no packs, or has no such token.
    """
    check_model(model.config, longest=contexts.longest)
    if (most := int(contexts.rows.values.max(initial=0))) >= (size := model.get_input_embeddings().weight.shape[0]):
        raise BadModel(f"token {most} is none of the model's {size}", remedy="give a model with the same tokenizer")
    left = wanted.copy()
    for pack in contexts.packs(max_tokens):
        found = contexts.find(pack, left)
        if len(found.nodes):
            left[found.nodes] = False
            yield pack, found, hidden_states(model, pack_tensors(pack, device=model.device))


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel,
    contexts: Contexts,
    wanted: np.ndarray,
    *,
    entropy: bool = False,
    max_tokens: int = MAX_TOKENS,
    logit_bytes: int = LOGIT_BYTES,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Natural log-probability of each token of the wanted nodes, given its own context.

    Args:
        model, contexts, wanted, max_tokens: as `states` takes them.
        entropy: also tell the entropy of what each token was drawn from.
        logit_bytes: of logits that may be alive at once.

    Returns:
        logprobs: `[T]` float32, of all nodes' tokens; NaN at nodes that are not wanted, and where nothing comes before.
        entropies: the same in nats; None where they were not asked for.

    Raises:
        BadModel: see `states`.
    """
    logprobs = np.full(contexts.tokens[-1], np.nan, np.float32)
    entropies = np.full_like(logprobs, np.nan) if entropy else None
    head = model.get_output_embeddings()
    size = max(1, logit_bytes // (4 * head.weight.shape[0]))
    for pack, found, hidden in states(model, contexts, wanted, max_tokens=max_tokens):
        kept = pack.parent[found.index] >= 0
        index, places = found.index[kept], found.places[kept]
        for start in range(0, len(index), size):
            part, at = index[start : start + size], places[start : start + size]
            before = hidden[torch.from_numpy(pack.parent[part].astype(np.int64)).to(hidden.device)]
            logits = scaled_logits(head(before).float(), model.config)
            logs = torch.log_softmax(logits, dim=-1)
            taken = torch.from_numpy(pack.token_ids[part].astype(np.int64)).to(hidden.device)
            logprobs[at] = logs.gather(1, taken[:, None])[:, 0].cpu().numpy()
            if entropies is not None:
                entropies[at] = -(logs.exp() * logs).sum(dim=-1).cpu().numpy()
    return logprobs, entropies

"""Heavy: torch, transformers. What the training bench measures on: drawn trees, drawn models, and rows apart.

Rows apart are padded and masked as every trainer does it, by the model's own forward pass; only the loss is shared
with packs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from pipeline.builders.packing import Rows, spans
from trainers.packed.losses import Loss, dpo_loss, likelihood_loss, t_reg_loss
from trainers.packed.rows import Batch, Packed, likelihood_packs, preference_packs

OBJECTIVES = ("dpo", "sft", "treg")
BETA = 0.1


class Shape(NamedTuple):
    """A tree: tokens of its prompt, children of every node by depth, mean tokens of a segment."""

    prompt: int
    branching: tuple[int, ...]
    segment: int


class Drawn(NamedTuple):
    """Paths of trees. rows: leaf by leaf. starts: tokens of each prompt. tree: of each row."""

    rows: Rows
    starts: np.ndarray
    tree: np.ndarray


def draw(shapes: list[Shape], *, vocabulary: int, seed: int) -> Drawn:
    """Trees whose segments have between half and one and a half of their mean length."""
    rng, paths, starts, trees = np.random.default_rng(seed), [], [], []
    for number, shape in enumerate(shapes):
        level = [rng.integers(0, vocabulary, shape.prompt)]
        for children in shape.branching:
            low, high = shape.segment // 2, shape.segment + shape.segment // 2
            level = [
                np.concatenate([path, rng.integers(0, vocabulary, rng.integers(low, high + 1))])
                for path in level
                for _ in range(children)
            ]
        paths += level
        starts += [shape.prompt] * len(level)
        trees += [number] * len(level)
    offsets = np.cumsum([0, *map(len, paths)])
    return Drawn(Rows(np.concatenate(paths).astype(np.int32), offsets), np.array(starts), np.array(trees))


def drawn_model(name: str, *, device: str, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model with weights at random: `wide`, `narrow` (for exactness on a GPU) or `qwen3-0.6b`."""
    sizes = {
        "narrow": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "vocab_size": 4096},
        "wide": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 2, "vocab_size": 2048},
        "qwen3-0.6b": {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "vocab_size": 151_936,
        },
    }[name]
    large = name == "qwen3-0.6b"
    heads = (
        {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
        if large
        else {
            "num_attention_heads": sizes["hidden_size"] // 64,
            "num_key_value_heads": sizes["hidden_size"] // 128,
            "head_dim": 64,
        }
    )
    torch.manual_seed(seed)
    config = Qwen3Config(
        **sizes, **heads, max_position_embeddings=40_960, tie_word_embeddings=True, attn_implementation="sdpa"
    )
    with torch.device(device):
        return Qwen3ForCausalLM(config).to(dtype)


def loss_of(objective: str) -> Loss:
    """The loss of a name of OBJECTIVES."""
    return {"dpo": dpo_loss(beta=BETA), "sft": likelihood_loss(), "treg": t_reg_loss(beta=BETA)}[objective]


def packed(drawn: Drawn, objective: str, *, max_tokens: int) -> Packed:
    """The rows in packs; neighbours are pairs."""
    if objective == "sft":
        return likelihood_packs(drawn.rows, trained(drawn), groups=drawn.tree, max_tokens=max_tokens)
    found = preference_packs(
        drawn.rows,
        drawn.starts,
        groups=drawn.tree[::2],
        max_tokens=max_tokens,
        rewards=rewards(drawn.rows.values) if objective == "treg" else None,
    )
    for batch in found.batches:
        batch["reference"] = reference(batch["token_ids"][batch["needed"]])
    return found


def trained(drawn: Drawn) -> np.ndarray:
    """`[T]` float64: 1 on answers, 0 on prompts."""
    found, lengths = np.zeros(len(drawn.rows.values)), np.diff(drawn.rows.offsets)
    found[spans(drawn.rows.offsets[:-1] + drawn.starts, lengths - drawn.starts)] = 1.0
    return found


def rewards(token_ids: np.ndarray) -> np.ndarray:
    """A reward a token, the same wherever the token stands."""
    return (token_ids % 7 - 3) / 8


def reference(token_ids: Tensor) -> Tensor:
    """A reference's log-probability a token, the same wherever the token stands."""
    return -7.0 - (token_ids % 5).float() / 4


def apart(drawn: Drawn, objective: str, *, rows_a_batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Batch]]:
    """Batches of neighbouring rows: padded ids, mask, which of the next tokens are trained, and what the loss reads."""
    rows = [torch.from_numpy(row.astype(np.int64)) for row in np.split(drawn.rows.values, drawn.rows.offsets[1:-1])]
    for first in range(0, len(rows), rows_a_batch):
        some = rows[first : first + rows_a_batch]
        ids = pad_sequence(some, batch_first=True)
        lengths = torch.tensor([len(row) for row in some])
        place = torch.arange(ids.shape[1])
        mask = place < lengths[:, None]
        starts = torch.from_numpy(drawn.starts[first : first + rows_a_batch])
        kept = (mask & (place >= starts[:, None]))[:, 1:]
        answers = ids[:, 1:][kept]
        batch = {
            "entries": torch.arange(len(answers)),
            "entry_rows": torch.nonzero(kept)[:, 0],
            "pairs": torch.arange(len(some)).reshape(-1, 2),
            "lengths": kept.sum(dim=1),
            "weights": torch.ones(len(answers) if objective == "sft" else len(some) // 2),
            "reference": reference(answers),
            "entry_rewards": torch.from_numpy(rewards(answers.numpy())).float(),
        }
        if objective == "sft":
            batch.pop("reference")
        batch["items"] = torch.tensor(float(len(batch["weights"])))
        yield ids, mask.long(), kept, batch


def apart_logprobs(model: PreTrainedModel, ids: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
    """`[E]`: log-probabilities of the trained tokens by the model's own forward pass."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][kept]
    return -F.cross_entropy(logits.float(), ids[:, 1:][kept], reduction="none")

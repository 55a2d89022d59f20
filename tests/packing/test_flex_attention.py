"""What a model says of packs through FlexAttention, whose backward pass no CPU has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.builders.packing import pack_rows
from trainers.packed.attention import FLEX, prepare
from trainers.packed.bench import apart_step, packed_step, worst_difference
from trainers.packed.bench_rows import OBJECTIVES, Shape, apart, draw, packed
from trainers.packed.forward import token_logprobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("default"),  # torch's compiler warns, and an error within it stops it
]
VOCABULARY = 128


@pytest.fixture(params=[16, 64], ids=lambda size: f"heads of {size}")
def model(request):
    torch.manual_seed(0)
    torch.compiler.reset()  # what was compiled for other sizes
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=request.param,
        max_position_embeddings=1024,
    )
    return Qwen3ForCausalLM(config).to("cuda")


def forest(seed: int):
    """Trees within a block of FlexAttention, over several, and one that ends on an edge."""
    shapes = [Shape(20, (2, 3), 8), Shape(300, (2, 2), 60), Shape(1, (2, 1, 2), 5), Shape(128, (2,), 12)]
    return draw(shapes, vocabulary=VOCABULARY, seed=seed)


@torch.no_grad()
def test_every_token_is_as_likely_as_apart(model):
    drawn = forest(0)
    rows = np.split(drawn.rows.values, drawn.rows.offsets[1:-1])
    model.set_attn_implementation("sdpa")
    wanted = []
    for row in rows:
        ids = torch.from_numpy(row.astype(np.int64)).to("cuda")
        said = torch.log_softmax(model(ids[None], use_cache=False).logits[0, :-1].float(), -1)
        wanted.append(said.gather(1, ids[1:, None])[:, 0])
    prepare(model, device=model.device)
    assert model.config._attn_implementation == FLEX
    for pack in pack_rows(drawn.rows, groups=drawn.tree, max_tokens=700):
        found = token_logprobs(model, pack)
        for row, start, end in zip(pack.rows, pack.offsets, pack.offsets[1:]):
            torch.testing.assert_close(found[pack.index[start + 1 : end]], wanted[int(row)], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_are_those_of_rows_apart(model, objective):
    drawn = forest(1)
    packs = packed(drawn, objective, max_tokens=1024).batches
    rows = list(apart(drawn, objective, rows_a_batch=6))
    losses, gradients = {}, {}
    for way in ("packed", "apart"):
        if way == "packed":
            prepare(model, device=model.device)
            losses[way] = packed_step(model, [_moved(batch) for batch in packs], objective).loss
        else:
            model.set_attn_implementation("sdpa")
            losses[way] = apart_step(model, [tuple(_moved(one) for one in given) for given in rows], objective).loss
        gradients[way] = {name: one.grad.clone() for name, one in model.named_parameters()}
    assert losses["packed"] == pytest.approx(losses["apart"], rel=1e-5)  # rows sum to -1,500, which float32 has to 1e-4
    assert worst_difference(**gradients) < 3e-5


def _moved(given):
    """A tensor or a batch of them, on the GPU."""
    return {name: one.to("cuda") for name, one in given.items()} if isinstance(given, dict) else given.to("cuda")

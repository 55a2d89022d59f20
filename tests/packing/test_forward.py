"""What a model says of packs, beside what it says of rows apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.builders.packing import Pack, pack_rows
from pipeline.errors import BadModel
from trainers.packed.attention import _blocks, check_model, check_positions, prepare, tree_mask
from trainers.packed.bench import apart_step, packed_step, worst_difference
from trainers.packed.bench_rows import OBJECTIVES, Shape, apart, draw, packed
from trainers.packed.forward import _whole_blocks, pack_tensors, through, token_logprobs

VOCABULARY = 128


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        attn_implementation="sdpa",
    )
    yield Qwen3ForCausalLM(config)
    torch.set_num_threads(threads)


def forest(seed: int):
    shapes = [Shape(20, (2, 3), 8), Shape(7, (2,), 12), Shape(1, (2, 1, 2), 5)]
    return draw(shapes, vocabulary=VOCABULARY, seed=seed)


@torch.no_grad()
def apart_logprobs(model, row: np.ndarray) -> torch.Tensor:
    """Of every token but the first."""
    ids = torch.from_numpy(row.astype(np.int64))[None]
    return torch.log_softmax(model(ids, use_cache=False).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]


@pytest.mark.parametrize("attention", ["sdpa_by_tree", "sdpa", "eager"])
def test_every_token_is_as_likely_as_apart(model, attention):
    drawn = forest(0)
    rows = np.split(drawn.rows.values, drawn.rows.offsets[1:-1])
    packs = pack_rows(drawn.rows, groups=drawn.tree, max_tokens=56)
    assert len(packs) > 2, "a tree is cut"
    model.set_attn_implementation("sdpa")
    wanted = {int(row): apart_logprobs(model, rows[row]) for pack in packs for row in pack.rows}
    model.set_attn_implementation(attention)
    for pack in packs:
        with torch.no_grad():
            found, pieces = token_logprobs(model, pack), token_logprobs(model, pack, logit_bytes=4 * VOCABULARY * 7)
        assert (found[pack.parent < 0] == 0).all()
        torch.testing.assert_close(pieces, found)
        for row, start, end in zip(pack.rows, pack.offsets, pack.offsets[1:]):
            torch.testing.assert_close(found[pack.index[start + 1 : end]], wanted[int(row)], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_are_those_of_rows_apart(model, objective, seed):
    drawn, gradients, losses = forest(seed), {}, {}
    prepare(model, device=torch.device("cpu"))
    losses["packed"] = packed_step(model, packed(drawn, objective, max_tokens=100).batches, objective).loss
    gradients["packed"] = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.set_attn_implementation("sdpa")
    losses["apart"] = apart_step(model, list(apart(drawn, objective, rows_a_batch=6)), objective).loss
    gradients["apart"] = {name: one.grad.clone() for name, one in model.named_parameters()}
    assert losses["packed"] == pytest.approx(losses["apart"], abs=1e-6)
    assert worst_difference(**gradients) < 1e-5
    assert min(one.norm() for one in gradients["apart"].values()) > 0


def test_chunks_of_logits_have_the_same_gradient(model):
    (pack,) = pack_rows(forest(1).rows)
    found = []
    for size in (1 << 29, 4 * VOCABULARY * 5):
        model.zero_grad()
        token_logprobs(model, pack, logit_bytes=size).sum().backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters()})
    assert worst_difference(*found) < 1e-6


def long_pack() -> Pack:
    rng = np.random.default_rng(0)
    siblings = [np.concatenate([[1] * 300, rng.integers(0, 9, 400)]) for _ in range(5)]
    return pack_rows([*siblings, *(rng.integers(0, 9, 700) for _ in range(3))])[0]


def test_blocks_are_those_of_the_mask():
    tensors = _whole_blocks(pack_tensors(long_pack()))
    ours, size = _blocks(tensors.last), len(tensors.last)
    theirs = create_block_mask(ours.mask_mod, None, None, size, size, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert torch.equal(ours.full_kv_num_blocks, theirs.full_kv_num_blocks)
    assert ours.full_kv_num_blocks.sum() > 0
    dense = tree_mask(tensors.last, implementation="sdpa", dtype=torch.float32)[0, 0]
    index = torch.arange(size)
    assert torch.equal(dense, ours.mask_mod(None, None, index[:, None], index[None, :]))


def test_positions_of_a_tree_without_a_mask_are_refused():
    check_positions(torch.tensor([0, 1, 2]), None)
    with pytest.raises(ValueError, match="loses its prefix"):
        check_positions(torch.tensor([0, 1, 1]), None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, "window 64"),
    ],
)
def test_models_that_look_at_more_than_the_mask(settings, words):
    config = Qwen3Config(num_hidden_layers=2)
    for name, value in settings.items():
        setattr(config, name, value)
    if "sliding_window" in settings:
        config.layer_types = ["sliding_attention"] * 2
        check_model(config, longest=64)
    with pytest.raises(BadModel, match=words):
        check_model(config, longest=65)
    with pytest.raises(BadModel, match="takes no mask of a tree"):
        tree_mask(torch.tensor([0]), implementation="flash_attention_2", dtype=torch.float32)


def test_a_wrapped_model_sees_its_forward_pass(model):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.calls = model, 0

        def forward(self, *given):
            self.calls += 1
            return self.module(*given)

    wrapper, pack = Wrapper(), long_pack()
    with torch.no_grad():
        found = through(wrapper, model, token_logprobs, pack)
        torch.testing.assert_close(found, token_logprobs(model, pack))
    assert wrapper.calls == 1
    assert model.forward.__func__ is Qwen3ForCausalLM.forward

"""A policy with weights drawn at random, on one thread."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.prompts import load_pack
from trainers import runs
from trainers.tiny.tokenizer import build_tokenizer


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policies") / "fresh"
    tokenizer = build_tokenizer(load_pack("tiny"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=math.ceil(len(tokenizer) / 32) * 32,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with runs.quiet():
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

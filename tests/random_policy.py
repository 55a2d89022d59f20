"""A policy with weights drawn at random, and one thread to train it on; shared by tests of training."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.generation.policies import EMBEDDED
from pipeline.prompts import load_pack
from trainers import runs
from trainers.tiny.tokenizer import build_tokenizer


def one_thread() -> Iterator[None]:
    """What a fixture that keeps torch on one thread does: small models are slower on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_random_policy(path: Path, *, hidden: int = 32, key_value_heads: int = 1, positions: int = 128) -> Path:
    """Save a Llama of two layers and two heads, with the embedded policy's tokenizer. Returns the folder."""
    tokenizer = build_tokenizer(load_pack("tiny"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=math.ceil(len(tokenizer) / 32) * 32,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=key_value_heads,
            max_position_embeddings=positions,
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


def save_other_tokenizer(path: Path) -> Path:
    """Save the embedded policy with a tokenizer of as many words, each under the number of another one."""
    shutil.copytree(EMBEDDED["tiny"], path)
    file = path / "tokenizer.json"
    said = json.loads(file.read_text())
    words = said["model"]["vocab"]
    said["model"]["vocab"] = dict(zip(words, reversed(list(words.values())), strict=True))
    file.write_text(json.dumps(said))
    return path

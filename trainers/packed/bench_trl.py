"""Heavy: torch, trl. A step of TRL's own trainers on the rows of the training bench."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from trainers.packed.bench_rows import BETA, Drawn


class _Dpo(DPOTrainer):
    """TRL's trainer on token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        with redirect_stderr(StringIO()):
            return super()._precompute_ref_logps(dataset, name, batch_size)

    def _send_telemetry(self) -> None:
        """Measuring reaches no network."""


class _Sft(SFTTrainer):
    """TRL's trainer."""

    def _send_telemetry(self) -> None:
        """Measuring reaches no network."""


def trl_step(
    model: PreTrainedModel, drawn: Drawn, objective: str, *, rows_a_batch: int, now: Callable[[], float]
) -> Callable[[], float]:
    """A function that runs a step of TRL's trainer over all rows, a batch after the other, and gives its seconds.

    Args:
        model: trained by it; also scored beforehand as DPO's reference.
        drawn: rows; neighbours are pairs.
        objective: dpo or sft.
        rows_a_batch: rows in memory at once.
        now: a clock.
    """
    trainer = (_dpo if objective == "dpo" else _sft)(model, drawn, rows_a_batch)
    trainer.current_gradient_accumulation_steps = 1  # its loop would say
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]

    def step() -> float:
        began = now()
        for batch in batches:
            trainer.training_step(trainer.model, batch)
        return now() - began

    return step


def _dpo(model: PreTrainedModel, drawn: Drawn, rows_a_batch: int) -> DPOTrainer:
    rows = np.split(drawn.rows.values, drawn.rows.offsets[1:-1])
    pairs = {
        "prompt_ids": [row[:start].tolist() for row, start in zip(rows[::2], drawn.starts[::2])],
        "chosen_ids": [row[start:].tolist() for row, start in zip(rows[::2], drawn.starts[::2])],
        "rejected_ids": [row[start:].tolist() for row, start in zip(rows[1::2], drawn.starts[::2])],
    }
    args = DPOConfig(**_arguments(rows_a_batch // 2), beta=BETA, max_length=None, precompute_ref_log_probs=True)
    return _Dpo(model, args=args, train_dataset=Dataset.from_dict(pairs), processing_class=_tokenizer())


def _sft(model: PreTrainedModel, drawn: Drawn, rows_a_batch: int) -> SFTTrainer:
    rows = np.split(drawn.rows.values.astype(np.int64), drawn.rows.offsets[1:-1])
    data = {
        "input_ids": [row.tolist() for row in rows],
        "labels": [[*([-100] * start), *row[start:].tolist()] for row, start in zip(rows, drawn.starts)],
    }
    args = SFTConfig(**_arguments(rows_a_batch), max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    return _Sft(model, args=args, train_dataset=Dataset.from_dict(data), processing_class=_tokenizer())


def _arguments(rows: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(prefix="branchpoint-bench-"),
        "per_device_train_batch_size": rows,
        "bf16": False,
        "use_cpu": not torch.accelerator.is_available(),
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "max_steps": 1,
    }


def _tokenizer() -> PreTrainedTokenizerFast:
    """One that knows how to pad."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")

"""Heavy: torch, transformers. transformers' Trainer on packs: a batch is a pack, and its loss is what is overridden.

Loop, optimiser, checkpoints, accumulation, distribution and logs are transformers'. A step's loss is divided by the
items (pairs, weights) of all its packs, on whatever device they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from trainers.objectives.tdpo import position_kl
from trainers.packed.attention import check_model, prepare
from trainers.packed.forward import head_logprobs, hidden_states, scaled_logits, through
from trainers.packed.losses import Loss, Scored
from trainers.packed.rows import Batch, tensors_of


class PackedTrainer(Trainer):
    """A trainer of packs.

    Args:
        model: of causal language; its attention becomes one that takes masks.
        args: one pack a device and forward pass; gradient accumulation for more.
        packs: see `trainers.packed.rows`.
        loss: see `trainers.packed.losses`.
        held_out: packs for evaluation.
        reference: model whose whole distribution the loss needs (TDPO); frozen.

    Raises:
        BadModel: layers that no mask can tell of a tree.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        packs: Sequence[Batch],
        *,
        loss: Loss,
        held_out: Sequence[Batch] = (),
        reference: PreTrainedModel | None = None,
        **given: Any,
    ):
        longest = max(int(batch["positions"].max()) + 1 for batch in packs)
        check_model(model.config, longest=longest)
        args._n_gpu = min(args.n_gpu, 1)  # several devices are several processes, each with its pack
        args.remove_unused_columns = False
        super().__init__(model, args, train_dataset=packs, eval_dataset=held_out or None, data_collator=_only, **given)
        prepare(model, device=args.device)
        self.loss, self.reference = loss, reference
        if reference is not None:
            prepare(reference.requires_grad_(False).eval().to(args.device), device=args.device)
        self.model_accepts_loss_kwargs = True  # the loss is already divided by the items of the whole step
        self._seen: dict[str, list[Tensor]] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Loss of a pack, as its share of the step's."""
        del return_outputs
        scored = self.score(model, inputs)
        for name, pair in scored.sums.items():
            self._seen.setdefault(name, []).append(torch.stack(pair).detach())
        items = inputs["items"] if num_items_in_batch is None else num_items_in_batch
        return scored.total / items * (1 if num_items_in_batch is None else self.accelerator.num_processes)

    def score(self, model: nn.Module, batch: Batch) -> Scored:
        """Loss and figures of a pack."""
        inner = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            return through(model, inner, self._score, batch)

    def _score(self, model: PreTrainedModel, batch: Batch) -> Scored:
        tensors, needed = tensors_of(batch), batch["needed"]
        before = hidden_states(model, tensors)[tensors.parent[needed]]
        logprobs = head_logprobs(model, before, tensors.token_ids[needed])
        if self.reference is not None:
            with torch.no_grad():
                others = hidden_states(self.reference, tensors)[tensors.parent[needed]]
            batch = {**batch, "kl": _divergence(self.reference, others, model, before)}
        return self.loss(batch, logprobs)

    @torch.no_grad()
    def reference_logprobs(self, batches: Sequence[Batch]) -> list[Tensor]:
        """`[U]` of each pack, under the model as it is now; scored once, before training."""
        self.model.to(self.args.device).eval()
        found = []
        for batch in batches:
            batch = self._prepare_inputs(batch)
            tensors, needed = tensors_of(batch), batch["needed"]
            with self.accelerator.autocast():
                before = hidden_states(self.model, tensors)[tensors.parent[needed]]
                found.append(head_logprobs(self.model, before, tensors.token_ids[needed]).cpu())
        return found

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        return self.accelerator.reduce(sum(batch["items"] for batch in batch_samples).to(device), "sum")

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Sequence[Batch] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and figures over the held-out packs, each item alike."""
        del ignore_keys
        loader, sums = self.get_eval_dataloader(eval_dataset), {}
        self.model.eval()
        for batch in loader:
            batch = self._prepare_inputs(batch)
            scored = self.score(self.model, batch)
            for name, pair in {"loss": (scored.total, batch["items"]), **scored.sums}.items():
                sums[name] = sums.get(name, 0) + torch.stack(pair).double()
        metrics = {f"{metric_key_prefix}_{name}": self._mean([pair]) for name, pair in sums.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log figures since the last time beside the loss."""
        if "loss" in logs:
            logs |= {name: self._mean(pairs) for name, pairs in self._seen.items()}
            self._seen = {}
        super().log(logs, start_time)

    def _mean(self, pairs: list[Tensor]) -> float:
        total, count = self.accelerator.reduce(torch.stack(pairs).sum(dim=0), "sum").tolist()
        return total / count


def _divergence(reference: PreTrainedModel, others: Tensor, model: PreTrainedModel, before: Tensor) -> Tensor:
    """`[U]`: KL(reference || policy) over the vocabulary at each state."""
    logits = [
        scaled_logits(one.get_output_embeddings()(states).float(), one.config)
        for one, states in ((reference, others), (model, before))
    ]
    return position_kl(*logits)


def _only(batches: list[Batch]) -> Batch:
    (batch,) = batches
    return batch

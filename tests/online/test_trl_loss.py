"""With group advantages the gradient of an update is that of TRL's own GRPO loss on the same batch."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from trainers import runs
from trainers.online.batches import minibatches, samples_of
from trainers.online.recipe import OnlineRecipe
from trainers.online.update import add_gradient, loss_rule

with warnings.catch_warnings():  # of vLLM, which TRL imports
    warnings.simplefilter("ignore")
    from trl import GRPOConfig, GRPOTrainer

CLIP = {"clip_low": 0.2, "clip_high": 0.28, "minibatch": 0, "most_weight": 0.0}


@pytest.mark.parametrize(
    ("loss_type", "level", "recipe"),
    [
        pytest.param("grpo", "token", {"normalise": "sequence"}, id="GRPO"),
        pytest.param("bnpo", "token", {"normalise": "token"}, id="mean over tokens"),
        pytest.param("dr_grpo", "token", {"normalise": "constant", "constant": 16}, id="Dr.GRPO"),
        pytest.param("grpo", "sequence", {"normalise": "sequence", "loss": "sequence"}, id="GSPO"),
    ],
)
def test_with_group_advantages_the_gradient_is_that_of_trl(model, policy, rows, tmp_path, loss_type, level, recipe):
    """TRL's own `_compute_loss` on the same batch, padded as it pads, ratios to policies that differ."""
    group = [0.9, -0.4, -0.5, 1.1, -0.6, -0.5]
    rows = rows.with_columns(
        loss_mask=pl.col("answer_ids").list.eval(pl.element() >= 0),
        advantages=pl.Series(
            [[value] * len(answer) for value, answer in zip(group, rows["answer_ids"], strict=True)],
            dtype=rows.schema["advantages"],
        ),
    )
    config = GRPOConfig(
        output_dir=str(tmp_path),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=0.2,
        epsilon_high=0.28,
        max_completion_length=16,
        per_device_train_batch_size=6,
        num_generations=3,
        beta=0.0,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    theirs = _Quiet(
        copy.deepcopy(model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 6}),
        processing_class=runs.load_tokenizer(runs.read_policy(policy)),
    )
    theirs.model.train()
    theirs.current_gradient_accumulation_steps = 1
    longest = max(map(len, rows["answer_ids"]))
    padded = [answer.to_list() + [0] * (longest - len(answer)) for answer in rows["answer_ids"]]
    old = torch.stack([_old(model, row, longest) for row in rows.iter_rows(named=True)])
    loss = theirs._compute_loss(
        theirs.model,
        {
            "prompt_ids": torch.tensor(rows["prompt_ids"].to_list()),
            "prompt_mask": torch.ones(6, 3, dtype=torch.long),
            "completion_ids": torch.tensor(padded),
            "completion_mask": torch.tensor(
                [[1] * len(answer) + [0] * (longest - len(answer)) for answer in rows["answer_ids"]]
            ),
            "advantages": torch.tensor(group),
            "old_per_token_logps": old,
        },
    )
    loss.backward()
    wanted = torch.cat([one.grad.reshape(-1) for one in theirs.model.parameters()]).double().numpy()
    ours = OnlineRecipe(**CLIP, **recipe)
    samples = samples_of(rows, ours)
    flat = torch.zeros(len(samples.rows.values))
    flat[torch.from_numpy(samples.trained)] = torch.cat(
        [one[: len(answer)] for one, answer in zip(old, rows["answer_ids"], strict=True)]
    )
    found = _gradient_to(model, samples, ours, flat)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


class _Quiet(GRPOTrainer):
    def _send_telemetry(self) -> None:
        """Tests reach no network."""


def _old(model: LlamaForCausalLM, row: dict, longest: int) -> torch.Tensor:
    """Log-probabilities of a policy somewhat off, padded."""
    ids, start = torch.tensor([row["prompt_ids"] + row["answer_ids"]]), len(row["prompt_ids"]) - 1
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, start:-1], dim=-1)
    found = logs.gather(1, ids[0, start + 1 :, None])[:, 0]
    found += 0.3 * torch.sin(torch.arange(len(found)) + len(found))
    return torch.nn.functional.pad(found, (0, longest - len(found)))


def _gradient_to(model, samples, recipe, old) -> np.ndarray:
    """Gradient of one step with ratios to given log-probabilities."""
    moved = copy.deepcopy(model)
    (batches,) = minibatches(samples, recipe, seed=(0,))
    for batch in batches:
        add_gradient(moved, batch, loss_rule(recipe), len(batch["entries"]), old=old, reference=None)
    return torch.cat([one.grad.reshape(-1) for one in moved.parameters()]).double().numpy()

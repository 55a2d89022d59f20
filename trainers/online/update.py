"""Heavy: torch, transformers. One update of a policy on a round's samples, and the folder of the policy it makes.

The loop is our own: TRL's and transformers' trainers have a fixed number of rows a step, and begin their optimiser
anew in every call. Everything is a function of rows, parent, optimiser state, recipe and seed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import BadConfig
from pipeline.generation.policies import Policy
from trainers import runs, saving
from trainers.data import token_digest
from trainers.online.batches import Samples, minibatches, samples_of
from trainers.online.losses import KL_ESTIMATORS, LossRule, Tokens, policy_loss
from trainers.online.optimiser import load_state, save_state
from trainers.online.recipe import OnlineRecipe
from trainers.packed.attention import check_model, prepare
from trainers.packed.forward import LOGIT_BYTES, hidden_states, scaled_logits
from trainers.packed.rows import Batch, tensors_of
from trainers.runs import OnTrainingProgress, TrainingProgress, TrainingReport

METHOD = "online"
RATIO_FREE = ("opmd", "reinforce")


class Figures(NamedTuple):
    """Sums over the tokens of a step, from which means are made; tokens that attempts share count in each."""

    tokens: float
    loss: float
    entropy: float
    kl: float
    clipped: float
    gap: float
    ratio: float


def update_policy(
    rows: pl.DataFrame,
    *,
    policy: Path,
    out: Path,
    recipe: OnlineRecipe,
    seed: Sequence[int] = (0,),
    reference: Path | None = None,
    state: Path | None = None,
    new_state: Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> dict[str, float]:
    """Train a policy on samples and write the new one; the same rows, parent, state and seed give the same weights.

    Args:
        rows: of `rl_samples`.
        policy: folder of the parent.
        out: folder of the new policy, written in one rename after `new_state`.
        recipe: of the run.
        seed: of the order of trees, and of dropout.
        reference: folder of the policy that KL is to, where the recipe asks for KL.
        state: of the optimiser after the last update; None: the first.
        new_state: where to keep it after this one.
        inputs: what the caller made the policy from, for its lineage.json.
        on_progress: called after each step.

    Returns:
        Means over steps and trained tokens, for people and plots; see `_means`. They stand in lineage.json too.

    Raises:
        BadConfig: there is no reference for KL, or the loss or a weight became no number.
        BadModel: `policy` is no model, or its layers cannot be packed.
        StoreFull: the disk refused; what was at `out` stays.
    """
    saving.check_out(out)
    parent = runs.read_policy(policy)
    if recipe.kl_weight and reference is None:
        raise BadConfig("the recipe has a KL term and no reference is given", remedy="give one, or set kl_weight to 0")
    with runs.quiet(), saving.weight_errors(out, setting="BRANCHPOINT_POLICIES"):
        torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))  # dropout, where there is any
        samples = samples_of(rows, recipe)
        model = _ready(parent, samples)
        other = _ready(runs.read_policy(reference), samples) if recipe.kl_weight else None
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
        )
        if state is not None:
            load_state(optimiser, model, state)
        started = time.monotonic()
        curves = train(model, samples, recipe, optimiser, seed=seed, reference=other, on_progress=on_progress)
        runs.check_weights(model)
        report = TrainingReport(
            steps=len(curves),
            rows=len(rows),
            skipped=0,
            first_loss=curves[0]["loss"],
            last_loss=curves[-1]["loss"],
            seconds=time.monotonic() - started,
            curves=curves,
            out=out,
        )
        figures = _means(curves, samples)
        if new_state is not None:
            save_state(optimiser, model, new_state)
        digest = token_digest(rows, ("prompt_ids", "answer_ids"))
        source = saving.trace_lineage(parent, recipe, method=METHOD, digest=digest, report=report, inputs=inputs)
        saving.save_policy(model, parent.path, out=out, lineage={**source, "numbers": figures}, report=report)
    return figures


def train(
    model: PreTrainedModel,
    samples: Samples,
    recipe: OnlineRecipe,
    optimiser: torch.optim.Optimizer,
    *,
    seed: Sequence[int] = (0,),
    reference: PreTrainedModel | None = None,
    on_progress: OnTrainingProgress | None = None,
) -> list[dict[str, float]]:
    """Take the steps of an update.

    Returns:
        One entry a step: step, loss, entropy, kl (from the policy before the update), clip_share, gap (between the
        engine's and our log-probabilities before the update), passed_over (1 where the ratios had gone too far),
        grad_norm and tokens.

    Raises:
        BadConfig: the loss became no number.
    """
    rule, every = loss_rule(recipe), bool(recipe.kl_weight or recipe.entropy_weight)
    epochs = [list(minibatches(samples, recipe, seed=(*seed, epoch), every=every)) for epoch in range(recipe.epochs)]
    steps = [batches for epoch in epochs for batches in epoch]
    old = logprobs_of(model, epochs[0], samples) if len(steps) > 1 and _needs_old(rule) else None
    far = logprobs_of(reference, epochs[0], samples) if reference is not None else None
    curves: list[dict[str, float]] = []
    started = time.monotonic()
    model.train()
    for number, batches in enumerate(steps, start=1):
        optimiser.zero_grad(set_to_none=True)
        entries = sum(len(batch["entries"]) for batch in batches)
        sums = [add_gradient(model, batch, rule, entries, old=old, reference=far) for batch in batches]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.most_norm) if batches else torch.zeros(())
        total = Figures(*np.sum(sums, axis=0)) if sums else Figures(*[0.0] * len(Figures._fields))
        count = max(1.0, total.tokens)
        far_off = bool(rule.most_ratio) and total.ratio / count > rule.most_ratio
        if batches and not far_off:
            optimiser.step()
        if not far_off and not np.isfinite([total.loss, float(norm)]).all():
            raise BadConfig(f"step {number}: the loss is {total.loss}", remedy="lower learning_rate")
        curves.append(
            {
                "step": number,
                "loss": total.loss,
                "entropy": total.entropy / count,
                "kl": total.kl / count,
                "clip_share": total.clipped / count,
                "gap": total.gap / count,
                "passed_over": float(far_off),
                "grad_norm": float(norm),
                "tokens": total.tokens,
            }
        )
        if on_progress is not None:
            on_progress(TrainingProgress(number, len(steps), total.loss, time.monotonic() - started))
    return curves


def loss_rule(recipe: OnlineRecipe) -> LossRule:
    """The recipe's loss and its constants."""
    return LossRule(
        name=recipe.loss,
        **{name: getattr(recipe, name) for name in LossRule.__slots__ if name != "name"},
    )


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, steps: list[list[Batch]], samples: Samples) -> Tensor:
    """`[T]` float32: log-probability of every trained token of some packs under a model; 0 elsewhere."""
    found = torch.zeros(len(samples.rows.values))
    model.eval()
    for batches in steps:
        for batch in batches:
            found[batch["places"]] = scored(model, batch)[0].cpu()[batch["entries"]]
    return found


def scored(model: PreTrainedModel, batch: Batch) -> Tensor:
    """`[2, U]`: of each needed token the log-probability, and the entropy of what it was drawn from; both in nats."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    tensors, needed = tensors_of(batch), batch["needed"]
    before, ids = hidden_states(model, tensors)[tensors.parent[needed]], tensors.token_ids[needed]
    head = model.get_output_embeddings()
    size = max(1, LOGIT_BYTES // (4 * head.weight.shape[0]))
    if len(ids) <= size:
        return _logprob_and_entropy(model, before, ids)
    again = torch.utils.checkpoint.checkpoint
    pieces = zip(before.split(size), ids.split(size), strict=True)
    return torch.cat([again(_logprob_and_entropy, model, *piece, use_reentrant=False) for piece in pieces], dim=1)


def _logprob_and_entropy(model: PreTrainedModel, hidden: Tensor, ids: Tensor) -> Tensor:
    logits = scaled_logits(model.get_output_embeddings()(hidden).float(), model.config)
    logs = torch.log_softmax(logits, dim=-1)
    return torch.stack((logs.gather(1, ids[:, None])[:, 0], -(logs.exp() * logs).sum(dim=-1)))


def add_gradient(
    model: PreTrainedModel, batch: Batch, rule: LossRule, entries: int, *, old: Tensor | None, reference: Tensor | None
) -> Figures:
    """Add the gradient of a pack to the model's; its figures."""
    logprobs, entropy = scored(model, batch)[:, batch["entries"].to(model.device)]
    given = {name: batch[name].to(model.device) for name in ("behaviour", "advantages", "weights", "attempts")}
    places, before = batch["places"], logprobs.detach()
    tokens = Tokens(
        logprobs,
        old=before if old is None else old[places].to(model.device),
        reference=None if reference is None else reference[places].to(model.device),
        entropy=entropy,
        **given,
    )
    share = len(places) / max(1, entries)
    loss = policy_loss(tokens, replace(rule, entropy_weight=rule.entropy_weight * share))
    loss.total.backward()
    drift = KL_ESTIMATORS["k3"](before - tokens.old)
    gap = (tokens.old - tokens.behaviour).abs()
    ratio = torch.exp(before - tokens.old)
    sums = (loss.total.detach(), entropy.detach().sum(), drift.sum(), loss.clipped.sum(), gap.sum(), ratio.sum())
    return Figures(len(places), *(float(one) for one in sums))


def _needs_old(rule: LossRule) -> bool:
    return rule.name not in RATIO_FREE or rule.most_weight > 0


def _ready(policy: Policy, samples: Samples) -> PreTrainedModel:
    model = runs.load_model(policy)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_model(model.config, longest=int(np.diff(samples.rows.offsets).max()))
    prepare(model.to(device), device=device)
    return model


def _means(curves: list[dict[str, float]], samples: Samples) -> dict[str, float]:
    """Figures of the update: means over its steps, each as its tokens, null where none was trained; the share of
    attempts without an advantage."""
    tokens = np.array([entry["tokens"] for entry in curves])
    names = ("loss", "entropy", "kl", "clip_share", "gap", "grad_norm")
    if tokens.sum():
        weigh = tokens / tokens.sum()
        found = {name: float(weigh @ np.array([entry[name] for entry in curves])) for name in names}
    else:
        found = dict.fromkeys(names)
    found |= {"steps": len(curves), "trained_tokens": int(samples.trained.sum())}
    found["passed_over_share"] = float(np.mean([entry["passed_over"] for entry in curves]))
    return found | {"zero_advantage_share": float(samples.idle.mean())}

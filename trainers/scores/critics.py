"""Heavy: torch, transformers. Critics: heads on a policy's states that say what return is to be expected.

Knows no file of nodes: what is trained to are `lessons`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.builders.packing import Pack
from pipeline.errors import BadConfig, BadInput
from trainers.packed.attention import check_model
from trainers.packed.forward import hidden_states, pack_tensors
from trainers.scores.contexts import Contexts
from trainers.scores.critic_recipe import CriticRecipe
from trainers.scores.forward import states
from trainers.scores.lessons import Steps, token_lesson, utterance_lesson


def head(inputs: int, width: int) -> nn.Sequential:
    """A value of a state: two hidden layers."""
    return nn.Sequential(
        nn.LayerNorm(inputs),
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, 1),
    )


def heads(kind: str, size: int, width: int) -> nn.ModuleDict:
    """The heads of a critic on states of some size: `v`; or the twins `q1`, `q2` of step and state, `v1`, `v2`."""
    if kind == "token":
        return nn.ModuleDict({"v": head(size, width)})
    twins = {f"{name}{twin}": head(inputs, width) for name, inputs in (("q", 2 * size), ("v", size)) for twin in (1, 2)}
    return nn.ModuleDict(twins)


def twin_values(critic: nn.ModuleDict, name: str, inputs: Tensor) -> Tensor:
    """`[2, n]`: both heads of a name."""
    return torch.stack([critic[f"{name}{twin}"](inputs)[:, 0] for twin in (1, 2)])


class Fitted(NamedTuple):
    """A trained critic.

    heads:   of the epoch that is kept: the one with the least held-out error, the last where nothing is held out.
    numbers: epochs, kept_epoch, loss a token or step; where something is held out, the mean squared error to its
             returns (of the lower Q for twins), and that of the mean return of the rest.
    curve:   an entry an epoch: epoch, loss, held_out.
    """

    heads: nn.ModuleDict
    numbers: dict[str, float | int]
    curve: list[dict[str, float]]


@dataclass(slots=True, eq=False)
class Lesson:
    """A pack with what it teaches.

    index:   `[u]` int64, its tokens whose states are read.
    states:  `[u, H]`, read once; None where the model is trained.
    columns: of `TokenLesson` or `UtteranceLesson`, places counting in `index`; `done` of the latter.
    """

    pack: Pack
    index: Tensor
    states: Tensor | None
    columns: dict[str, Tensor]


def lessons_of(
    model: PreTrainedModel, parts: Iterable[tuple[Contexts, Steps]], recipe: CriticRecipe, *, max_tokens: int
) -> list[Lesson]:
    """What packs of contexts teach; packs without anything are left out."""
    make: Callable[[Pack, Contexts, Steps], Any] = token_lesson if recipe.kind == "token" else utterance_lesson
    found = []
    for contexts, steps in parts:
        check_model(model.config, longest=contexts.longest)
        for pack in contexts.packs(max_tokens):
            said = make(pack, contexts, steps)
            if not len(said.weights):
                continue
            names = [name for name in said._fields if getattr(said, name).dtype == np.int64]
            places = np.unique(np.concatenate([getattr(said, name) for name in names]))
            places = places[places >= 0]
            columns = {
                name: torch.from_numpy(
                    np.searchsorted(places, getattr(said, name)) * (getattr(said, name) >= 0)
                    if name in names
                    else getattr(said, name).astype(np.float32)
                ).to(model.device)
                for name in said._fields
            }
            if recipe.kind == "utterance":
                columns["done"] = torch.from_numpy(said.following < 0).to(model.device)
            lesson = Lesson(pack, torch.from_numpy(places).to(model.device), None, columns)
            if recipe.backbone == "frozen":
                with torch.no_grad():
                    lesson.states = read_states(model, lesson)
            found.append(lesson)
    return found


def read_states(model: PreTrainedModel, lesson: Lesson) -> Tensor:
    """`[u, H]` float32."""
    if lesson.states is not None:
        return lesson.states
    return hidden_states(model, pack_tensors(lesson.pack, device=model.device))[lesson.index].float()


def loss_of(
    critic: nn.ModuleDict, target: nn.ModuleDict, lesson: Lesson, found: Tensor, recipe: CriticRecipe
) -> Tensor:
    """Sum over a pack's tokens or steps, by their weight, of squared errors; over all four heads of twins.

    Args:
        critic: the online heads.
        target: those that say what steps are worth from the next state on.
        lesson: the pack.
        found: `[u, H]`, its states.
        recipe: discount.

    Source: ArCHer (Zhou et al., 2024) for utterances: Q to reward and discounted target V of the next state, V to the
        target Q of a step drawn from the policy, which here is the stored one. Target heads read the online states.
    """
    columns = lesson.columns
    if recipe.kind == "token":
        error = predicted(critic, lesson, found, recipe) - columns["returns"]
        return (columns["weights"] * error**2).sum()
    before, end = found[columns["before"]], found[columns["end"]]
    both = torch.cat((before, end), dim=1)
    with torch.no_grad():
        ahead = twin_values(target, "v", found[columns["following"]]).masked_fill(columns["done"], 0.0)
        of_q, of_v = columns["rewards"] + recipe.discount * ahead, twin_values(target, "q", both)
    errors = (twin_values(critic, "q", both) - of_q) ** 2 + (twin_values(critic, "v", before) - of_v) ** 2
    return (columns["weights"] * errors.sum(dim=0)).sum()


def fit_critic(
    model: PreTrainedModel,
    train: Iterable[tuple[Contexts, Steps]],
    held: Iterable[tuple[Contexts, Steps]],
    recipe: CriticRecipe,
    *,
    max_tokens: int = 4096,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Fitted:
    """Train a critic; the model too, in place, where the recipe says so.

    Args:
        model: of `forward.open_model`.
        train, held: contexts and steps, of tasks that differ.
        recipe: of the run.
        max_tokens: of a pack, which is a batch.
        on_epoch: called after each.

    Raises:
        BadConfig: the loss became no number.
        BadInput: no step has a known return.
        BadModel: the model takes no packs.
    """
    lessons, others = (lessons_of(model, parts, recipe, max_tokens=max_tokens) for parts in (train, held))
    if not lessons:
        raise BadInput("no step of the training tasks has a known return", remedy="judge the round, or read more tasks")
    torch.manual_seed(recipe.seed)
    critic = heads(recipe.kind, model.config.get_text_config().hidden_size, recipe.width).to(model.device)
    mean = _mean_return(lessons)
    _begin_at(critic, mean)
    target = copy.deepcopy(critic).requires_grad_(False)
    groups = [{"params": list(critic.parameters()), "lr": recipe.learning_rate}]
    if trains := recipe.backbone == "trained":
        below = list(model.get_decoder().requires_grad_(True).parameters())
        groups.append({"params": below, "lr": recipe.backbone_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    curve: list[dict[str, float]] = []
    best, since, kept = np.inf, 0, None
    rng = np.random.default_rng(recipe.seed)
    for epoch in range(1, recipe.epochs + 1):
        total = sum(
            _step(model, critic, target, lessons[number], recipe, optimiser) for number in rng.permutation(len(lessons))
        )
        if not np.isfinite(total):
            raise BadConfig(f"epoch {epoch}: the loss is {total}", remedy="lower learning_rate")
        error = held_out(model, critic, others, recipe)
        curve.append({"epoch": epoch, "loss": total / _weight(lessons), "held_out": error})
        on_epoch(epoch)
        since = 0 if not others or error < best else since + 1
        if since == 0:
            best = error
            kept = copy.deepcopy((epoch, critic.state_dict(), model.state_dict() if trains else {}))
        elif since >= recipe.patience:
            break
    critic.load_state_dict(kept[1])
    if trains:
        model.load_state_dict(kept[2])
        model.requires_grad_(False)
    numbers = {"epochs": len(curve), "kept_epoch": kept[0], "loss": curve[kept[0] - 1]["loss"]}
    if others:
        numbers |= {"held_out_error": best, "held_out_error_of_mean": _error(others, lambda lesson: mean)}
    return Fitted(critic.eval().requires_grad_(False), numbers, curve)


@torch.no_grad()
def held_out(model: PreTrainedModel, critic: nn.ModuleDict, lessons: list[Lesson], recipe: CriticRecipe) -> float:
    """Mean squared error to the returns of lessons that are not trained on; NaN where there are none."""
    return _error(lessons, lambda lesson: predicted(critic, lesson, read_states(model, lesson), recipe))


def predicted(critic: nn.ModuleDict, lesson: Lesson, found: Tensor, recipe: CriticRecipe) -> Tensor:
    """What a critic takes the returns of a lesson for; twins by the lower Q."""
    before = found[lesson.columns["before"]]
    if recipe.kind == "token":
        return critic["v"](before)[:, 0]
    return twin_values(critic, "q", torch.cat((before, found[lesson.columns["end"]]), dim=1)).amin(dim=0)


@torch.no_grad()
def token_values(
    model: PreTrainedModel, critic: nn.ModuleDict, contexts: Contexts, wanted: np.ndarray, *, max_tokens: int
) -> np.ndarray:
    """`[T]` float32: the value before each token of the wanted nodes; NaN elsewhere, and where nothing comes before."""
    values = np.full(contexts.tokens[-1], np.nan, np.float32)
    for pack, found, hidden in states(model, contexts, wanted, max_tokens=max_tokens):
        before = pack.parent[found.index].astype(np.int64)
        kept = before >= 0
        values[found.places[kept]] = critic["v"](hidden[_on(before[kept], model)].float())[:, 0].cpu().numpy()
    return values


@torch.no_grad()
def utterance_values(
    model: PreTrainedModel, critic: nn.ModuleDict, contexts: Contexts, wanted: np.ndarray, *, max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[N]` float64 each: the lower Q of each wanted node, which has tokens, and the lower V of the state before it;
    NaN elsewhere, and where nothing comes before."""
    q, v = np.full((2, len(wanted)), np.nan)
    for pack, found, hidden in states(model, contexts, wanted, max_tokens=max_tokens):
        ends = np.cumsum(np.diff(contexts.tokens)[found.nodes])
        first, last = found.index[np.concatenate(([0], ends[:-1]))], found.index[ends - 1]
        before = pack.parent[first].astype(np.int64)
        kept = before >= 0
        state, end = (hidden[_on(one[kept], model)].float() for one in (before, last))
        at = found.nodes[kept]
        q[at] = twin_values(critic, "q", torch.cat((state, end), dim=1)).amin(dim=0).cpu().numpy()
        v[at] = twin_values(critic, "v", state).amin(dim=0).cpu().numpy()
    return q, v


def _step(
    model: PreTrainedModel,
    critic: nn.ModuleDict,
    target: nn.ModuleDict,
    lesson: Lesson,
    recipe: CriticRecipe,
    optimiser: torch.optim.Optimizer,
) -> float:
    """Train on a pack, and move the target heads; the loss before."""
    optimiser.zero_grad(set_to_none=True)
    loss = loss_of(critic, target, lesson, read_states(model, lesson), recipe)
    (loss / lesson.columns["weights"].sum()).backward()
    torch.nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], 1.0)
    optimiser.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
            slow.lerp_(fast, recipe.tau)
    return float(loss.detach())


def _begin_at(critic: nn.ModuleDict, value: float) -> None:
    """Make every head say a value of whatever it sees."""
    for one in critic.values():
        nn.init.zeros_(one[-1].weight)
        nn.init.constant_(one[-1].bias, value)


def _weight(lessons: list[Lesson]) -> float:
    return sum(float(lesson.columns["weights"].sum()) for lesson in lessons)


def _mean_return(lessons: list[Lesson]) -> float:
    total = sum(float((lesson.columns["weights"] * lesson.columns["returns"]).sum()) for lesson in lessons)
    return total / _weight(lessons)


def _error(lessons: list[Lesson], say: Callable[[Lesson], Tensor | float]) -> float:
    """Mean squared error, a token or step, of what is said to returns; NaN without a lesson."""
    if not lessons:
        return float("nan")
    errors = (lesson.columns["weights"] * (say(lesson) - lesson.columns["returns"]) ** 2 for lesson in lessons)
    return sum(float(one.sum()) for one in errors) / _weight(lessons)


def _on(index: np.ndarray, model: PreTrainedModel) -> Tensor:
    return torch.from_numpy(index.astype(np.int64)).to(model.device)

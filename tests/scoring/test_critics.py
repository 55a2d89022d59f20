"""Critics: returns along trees, the loss of twins, and what training does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.credit.archer import ArcherParams, critic_loss, critic_targets
from pipeline.errors import BadConfig, BadInput
from pipeline.stages.work import Work
from trainers.scores import critics
from trainers.scores.contexts import contexts_of, said, token_lists
from trainers.scores.critic_recipe import CriticRecipe
from trainers.scores.forward import open_model
from trainers.scores.lessons import steps_of, token_lesson, utterance_lesson

NA = float("nan")
#  0 (tokens 5 6) ── 1 (7) ─┬─ 2 (8 9)    right
#                           ├─ 3 (10)     wrong
#                           └─ 4 (11 12)  not judged
PARENTS, TOKENS = (None, 0, 1, 1, 1), ([5, 6], [7], [8, 9], [10], [11, 12])
VERDICTS = np.array([NA, NA, 1.0, 0.0, NA])


def tree(task: str = "a", tokens=TOKENS) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "task": [task] * 5,
            "tree": [task] * 5,
            "node": range(5),
            "parent": PARENTS,
            "context": [0] * 5,
            "depth": [0, 1, 2, 2, 2],
            "kind": ["prompt", *["step"] * 4],
            "token_ids": tokens,
            "token_count": [len(ids) for ids in tokens],
            "step_reward": [None, 0.5, 1.0, None, 2.0],
        },
        schema_overrides={"token_ids": pl.List(pl.Int32), **dict.fromkeys(("node", "parent", "context"), pl.Int32)},
    )


def lesson_of(make, *, verdicts=VERDICTS, gamma=0.5):
    nodes = tree()
    contexts, wanted = contexts_of(nodes), said(nodes)
    (pack,) = contexts.packs()
    assert pack.token_ids.tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    return make(pack, contexts, steps_of(nodes, contexts, wanted, verdicts, gamma=gamma))


def test_returns_of_verdicts():
    found = lesson_of(token_lesson)
    assert found.before.tolist() == [1, 2, 3]
    # before 7: 1/2 and 0 on two paths; before 8 and 10: 1 and 0; before 9: 1
    assert found.returns.tolist() == [0.25, 0.5, 1.0]
    assert found.weights.tolist() == [2, 2, 1]


def test_returns_of_an_environment():
    found = lesson_of(token_lesson, verdicts=None)
    assert found.before.tolist() == [1, 2, 3, 6]
    assert found.returns.tolist() == pytest.approx([0.5 + 0.5 * (1 + 0 + 2) / 3, 1.0, 1.0, 2.0])
    assert found.weights.tolist() == [3, 3, 1, 1]


def test_utterances():
    found = lesson_of(utterance_lesson)
    rows = sorted(zip(*(one.tolist() for one in found), strict=True))
    assert rows == [(1, 2, 2, 0.0, 0.25, 2), (2, 4, -1, 1.0, 1.0, 1), (2, 5, -1, 0.0, 0.0, 1)]


def test_lists_of_tokens():
    found = token_lists(np.array([NA, 1, 2, 3, NA, 5]), np.array([0, 1, 3, 3, 6]), np.array([1, 3]))
    assert found.to_list() == [[1.0, 2.0], [3.0, None, 5.0]]


def test_loss_of_twins():
    """Is ArCHer's, with the stored step in place of a new one."""
    recipe, params = CriticRecipe(kind="utterance", width=4), ArcherParams()
    torch.manual_seed(0)
    critic, target = (critics.heads("utterance", 3, 4) for _ in range(2))
    states = torch.randn(6, 3)
    columns = {
        "before": torch.tensor([0, 1]),
        "end": torch.tensor([2, 3]),
        "following": torch.tensor([1, 0]),
        "done": torch.tensor([False, True]),
        "rewards": torch.tensor([0.0, 1.0]),
        "weights": torch.ones(2),
    }
    lesson = critics.Lesson(None, torch.arange(6), states, columns)
    with torch.no_grad():
        both = torch.cat((states[:2], states[2:4]), dim=1)
        values = {
            (name, one): critics.twin_values(heads, name, inputs).double().numpy()
            for one, heads in (("online", critic), ("target", target))
            for name, inputs in (("q", both), ("v", states[:2]))
        }
    targets = critic_targets(
        np.array([0.0, 1.0]),
        np.array([False, True]),
        next_values=values["v", "target"][:, [1, 0]],
        policy_values=values["q", "target"],
        params=params,
    )
    expected = critic_loss(values["q", "online"], values["v", "online"], targets)
    found = critics.loss_of(critic, target, lesson, states, recipe)
    assert float(found.detach()) / 2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["token", "utterance"])
def test_a_critic_learns_and_is_told_on_other_tasks(made: Work, kind):
    """A step that begins with one token is right, with another wrong, whatever the task."""
    model, parts = open_model(made.policy), []
    for number in range(8):
        nodes = tree(f"t{number}", [[5 + number, 6], [20], [30, 9], [31], [30, 12]])
        contexts = contexts_of(nodes)
        verdicts = np.array([NA, NA, 1.0, 0.0, 1.0])
        parts.append((contexts, steps_of(nodes, contexts, said(nodes), verdicts, gamma=1.0)))
    recipe = CriticRecipe(kind=kind, width=16, epochs=60, patience=60, learning_rate=3e-3)
    fitted = critics.fit_critic(model, parts[:6], parts[6:], recipe)
    assert fitted.numbers["held_out_error"] < fitted.numbers["held_out_error_of_mean"] * 0.8
    again = critics.fit_critic(model, parts[:6], parts[6:], recipe)
    assert again.curve == fitted.curve
    contexts, wanted = parts[6][0], said(tree())
    if kind == "utterance":
        q, v = critics.utterance_values(model, fitted.heads, contexts, wanted, max_tokens=64)
        assert q[2] > q[3]
        assert np.isfinite(v[1:]).all()
        assert np.isnan([q[0], v[0]]).all()
    else:
        values = critics.token_values(model, fitted.heads, contexts, wanted, max_tokens=64)
        tokens = contexts.tokens
        assert values[tokens[2] + 1] > values[tokens[2]] > 0
        assert np.isnan(values[: tokens[1]]).all()


def test_nothing_to_learn_from(made: Work):
    nodes = tree()
    contexts = contexts_of(nodes)
    steps = steps_of(nodes, contexts, said(nodes), np.full(5, NA), gamma=1.0)
    with pytest.raises(BadInput, match="known return"):
        critics.fit_critic(open_model(made.policy), [(contexts, steps)], [], CriticRecipe())


@pytest.mark.parametrize("field", ["learning_rate", "backbone_rate"])
def test_rates_that_no_run_can_use(field):
    with pytest.raises(BadConfig, match=field):
        CriticRecipe(**{field: -1.0}).check()

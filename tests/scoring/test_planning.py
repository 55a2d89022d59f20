"""Planning phrases: mined from right answers, and marked in every context."""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.credit.strategic_grams import GramMatcher
from pipeline.generation.tokens import tokens_of
from pipeline.stages.work import Work
from trainers.scores.contexts import contexts_of, said
from trainers.scores.forward import open_model
from trainers.scores.planning import embedded, mined_grams, planning_scores


def test_phrases_of_two_answers(made: Work):
    answers = ["Let us check again 3", "first let us check again 4", "nothing at all here"]
    found = mined_grams(open_model(made.policy), made.policy, answers, most=10, max_tokens=256)
    assert found
    assert set(found) <= {"let us check", "us check again", "let us check again"}
    assert mined_grams(open_model(made.policy), made.policy, answers[1:], most=10, max_tokens=256) == []


def test_mean_states(made: Work):
    model, texts = open_model(made.policy), ["12 + 3", "12 + 34", "5"]
    both = embedded(model, made.policy, texts, max_tokens=64)
    apart = np.concatenate([embedded(model, made.policy, [text], max_tokens=64) for text in texts])
    np.testing.assert_allclose(both, apart, atol=1e-5)


def test_tokens_of_phrases(made: Work):
    encode = tokens_of(made.policy).encode
    texts = ["12 + 3", "12 + 3 = 15", " - 4"]
    tokens = [encode(text).tolist() for text in texts]
    nodes = pl.DataFrame(
        {
            "task": ["a"] * 3,
            "tree": ["a"] * 3,
            "node": range(3),
            "parent": [None, 0, 1],
            "context": [0] * 3,
            "depth": range(3),
            "kind": ["prompt", "step", "step"],
            "token_ids": tokens,
            "token_count": [len(ids) for ids in tokens],
        },
        schema_overrides={"token_ids": pl.List(pl.Int32), **dict.fromkeys(("node", "parent", "context"), pl.Int32)},
    )
    contexts, grams = contexts_of(nodes), ["= 15 - 4", "12 +"]
    found = planning_scores(made.policy, contexts, said(nodes), grams)
    decode = tokens_of(made.policy).decode
    marked = GramMatcher(grams).mask([decode([token]) for token in tokens[1] + tokens[2]])
    assert marked.any()
    assert not marked.all()
    assert np.isnan(found[: len(tokens[0])]).all()
    assert found[len(tokens[0]) :].tolist() == marked.tolist()

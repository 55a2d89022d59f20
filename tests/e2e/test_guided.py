"""The real engine holds answers to a schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.generation import engines
from pipeline.generation.engine import Sampling, make_request
from pipeline.generation.policies import find_policy
from pipeline.prompts import load_pack

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("ignore")
"""A warning in the thread that compiles a schema would be the failure of every request that has it."""


SCHEMA = (
    '{"type":"object","properties":{"trajectory_outcome":{"enum":["success","failure"]}},'
    '"required":["trajectory_outcome"],"additionalProperties":false}'
)


def test_an_answer_is_held_to_its_schema_whatever_is_asked():
    policy, pack = find_policy("tiny", policies=Path("none")), load_pack("tiny")
    tokens, engine = engines.open_tokens(policy), engines.open_engine("vllm", policy)
    shown = {"question": "1 + 2 + 3 =", "steps": pack.transcript(["1 + 2 = 3", "3 + 3 = 7", "#### 7"])}
    prompt = tokens.render(pack.messages("reflect", outcome="failure", **shown))
    free, held = (
        [make_request(prompt, sampling, sample=n, fingerprint=engine.fingerprint) for n in range(4)]
        for sampling in (Sampling(), Sampling(schema=SCHEMA))
    )
    answers = {done.key: done for done in engine.generate([*free, *held])}
    engines.close_engines()
    texts = [[tokens.decode(answers[one.key].token_ids) for one in some] for some in (free, held)]
    begins = [[re.sub(r"\s", "", text).startswith('{"trajectory_outcome":"') for text in some] for some in texts]
    assert begins == [[False] * 4, [True] * 4]
    assert [answers[one.key].error for one in held] == [None] * 4

"""The engine of transformers on the embedded policy: what is drawn, what it is worth, where it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.generation import engines
from pipeline.generation.engine import Request, Sampling, make_request
from pipeline.generation.policies import find_policy
from pipeline.generation.tokens import tokens_of
from pipeline.settings import Settings
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import make_work

TINY = find_policy("tiny", policies=Path("none"))
GREEDY, FREE = Sampling(temperature=0.0, max_tokens=64), Sampling(temperature=0.8, top_p=0.9, max_tokens=64)
BY_VLLM = """
import json, sys
from tests.test_transformers_engine import TINY, asked
from pipeline.generation import engines
if __name__ == "__main__":
    engine = engines.open_engine("vllm", TINY)
    print(json.dumps([[one.token_ids.tolist(), one.logprobs.tolist()] for one in
        sorted(engine.generate(asked()), key=lambda one: [one.key for one in asked()].index(one.key))]))
"""


def asked(sampling: Sampling = GREEDY, count: int = 12) -> list[Request]:
    """Sums of unlike length."""
    sums = (" + ".join(str((task * 7 + term) % 9 + 1) for term in range(2 + task % 5)) for task in range(count))
    prompts = [tokens_of(TINY).render([{"role": "user", "content": f"problem: {one}"}]) for one in sums]
    return [make_request(prompt, sampling, sample=n, fingerprint="f") for n, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def engine():
    engine = engines._make("transformers", TINY)
    assert engine.fingerprint == engines.engine_fingerprint("transformers", TINY)
    yield engine
    engine.close()


def alone(engine, prompt: np.ndarray, answer: np.ndarray) -> torch.Tensor:
    """Log-probabilities `[T, V]` at each token of an answer, by one pass over prompt and answer without a cache."""
    with torch.inference_mode():
        logits = engine._model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    return logits.log_softmax(-1)[len(prompt) - 1 : -1]


@pytest.mark.parametrize("sampling", [GREEDY, FREE], ids=["greedy", "free"])
def test_tokens_and_log_probabilities_are_the_policys(engine, sampling):
    requests = {one.key: one for one in asked(sampling)}
    done = list(engine.generate([*requests.values()]))
    assert {one.key for one in done} == set(requests)
    for one in done:
        chances = alone(engine, requests[one.key].prompt, one.token_ids)
        own = chances[torch.arange(len(one.token_ids)), torch.tensor(one.token_ids, dtype=torch.long)]
        np.testing.assert_allclose(one.logprobs, own, atol=1e-4)
        assert (one.finish == "stop") == (one.token_ids[-1] in TINY.end_ids)
        if sampling is GREEDY:
            assert one.token_ids.tolist() == chances.argmax(-1).tolist()


def test_what_is_drawn_depends_on_the_request_alone(engine):
    requests = asked(FREE)
    together = {one.key: one.token_ids.tolist() for one in engine.generate(requests)}
    apart = {one.key: one.token_ids.tolist() for request in requests for one in engine.generate([request])}
    assert together == apart
    assert len({tuple(ids) for ids in together.values()}) > 1


def test_top_p_leaves_out_what_is_unlikely(engine):
    narrow = {one.key: one.token_ids.tolist() for one in engine.generate(asked(Sampling(top_p=1e-6, max_tokens=9)))}
    greedy = {one.key: one.token_ids.tolist() for one in engine.generate(asked(Sampling(0.0, max_tokens=9)))}
    assert sorted(narrow.values()) == sorted(greedy.values())


def test_an_answer_ends_at_its_limit_and_at_the_models(engine):
    (cut,) = engine.generate(asked(Sampling(0.0, max_tokens=3), count=1))
    assert (len(cut.token_ids), cut.finish) == (3, "length")
    long = np.full(engine._length - 2, asked(count=1)[0].prompt[0], np.int32)
    (full,) = engine.generate([make_request(long, GREEDY, sample=0, fingerprint="f")])
    assert len(full.token_ids) == 2 or full.finish == "stop"


def test_what_cannot_be_answered_is_an_error(engine):
    over = make_request(np.full(engine._length, 5), GREEDY, sample=0, fingerprint="f")
    held = make_request(np.array([5]), Sampling(schema="{}"), sample=0, fingerprint="f")
    (fits,) = asked(count=1)
    done = {one.key: one.error for one in engine.generate([over, held, fits])}
    assert done == {
        over.key: f"prompt has {engine._length} tokens, the model takes at most {engine._length - 1}",
        held.key: "the transformers engine cannot hold an answer to a schema",
        fits.key: None,
    }


def test_requests_that_answers_bring_are_taken(engine):
    first, second = asked(count=2)
    done: list[str] = []

    def requests():
        yield first
        while first.key not in done:
            yield None
        yield second

    for one in engine.generate(requests()):
        done.append(one.key)
    assert done == [first.key, second.key]


@pytest.mark.engine
def test_greedy_answers_are_those_of_vllm(engine):
    run = subprocess.run([sys.executable, "-c", BY_VLLM], capture_output=True, text=True, check=True, timeout=300)
    by_vllm = json.loads(run.stdout.splitlines()[-1])
    ours = {one.key: one for one in engine.generate(asked())}
    assert [ours[one.key].token_ids.tolist() for one in asked()] == [ids for ids, _ in by_vllm]
    for one, (_, logprobs) in zip(asked(), by_vllm, strict=True):
        np.testing.assert_allclose(ours[one.key].logprobs, logprobs, atol=1e-3)


def test_what_no_schema_holds_is_read_as_it_comes(tmp_path):
    suite = tmp_path / "few.toml"
    suite.write_text(
        'name = "few"\ndescription = "Sums."\nseparator = "\\n"\nprompts = "tiny"\nmax_tokens = 96\n'
        '[[bands]]\nname = "8x1"\nsource = "reasoning_gym"\n'
        'dataset = "chain_sum"\nsizes = { train = 8, held_out = 0 }\nseeds = { train = 3, held_out = 4 }\n'
        "parameters = { min_terms = 8, max_terms = 8, min_digits = 1, max_digits = 1 }\n"
    )
    settings = Settings(tmp_path / "store", tmp_path / "policies", tmp_path / "release", tmp_path)
    work = make_work(settings, suite=str(suite), round="r0", engine="transformers")
    write_tasks(work)
    write_rollouts(work, RolloutConfig(group=4))
    write_verdicts(work)
    report = write_interventions(work, InterventionConfig(continuations=2))
    assert report.numbers["kept"] > 0
    asked = work.store.read("requests", work.store.places("requests", stage="interventions"))
    assert len(asked) > report.numbers["kept"]
    assert asked["error"].null_count() == len(asked)

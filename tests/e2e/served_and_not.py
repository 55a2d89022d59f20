"""Run by test_served_engine: requests of every kind, and what the engine in this process says to them, as one JSON."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.generation import engines
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.generation.policies import find_policy
from pipeline.generation.tokens import tokens_of

TINY = find_policy("tiny", policies=Path("none"))
SAMPLINGS = (
    Sampling(max_tokens=64),
    Sampling(temperature=0.7, top_p=0.9, max_tokens=64),
    Sampling(temperature=0.0, max_tokens=64),
    Sampling(temperature=1.5, max_tokens=5),
)


def requests(fingerprint: str) -> list[Request]:
    """Sums in several samples of several samplings; continuations; prompts at the ends of what the model takes."""
    tokens, positions = tokens_of(TINY), min(TINY.max_length, engines.MAX_LENGTH)
    found = []
    for task in range(12):
        sums = " + ".join(str((task * 7 + term) % 9 + 1) for term in range(6))
        prompt = tokens.render([{"role": "user", "content": f"problem: {sums}"}])
        for sampling in SAMPLINGS:
            found += [make_request(prompt, sampling, sample=n, fingerprint=fingerprint) for n in range(4)]
        longer = np.concatenate([prompt, tokens.encode("3 + 4 = 7\n")])
        found += [make_request(longer, SAMPLINGS[0], sample=n, fingerprint=fingerprint) for n in range(4)]
    draw = np.random.default_rng(0)
    for length in (positions - 9, positions - 1, positions, positions + 5):
        found.append(make_request(draw.integers(2, 300, length), SAMPLINGS[0], sample=0, fingerprint=fingerprint))
    return found


def longest(asked: list[Request]) -> Request:
    """Of those that fit."""
    return max((one for one in asked if len(one.prompt) < TINY.max_length), key=lambda one: len(one.prompt))


def unknown(fingerprint: str) -> Request:
    """A token the model does not have; the engine in this process would break down."""
    return make_request(np.asarray([5, 9999]), SAMPLINGS[0], sample=0, fingerprint=fingerprint)


def told(completions: Iterable[Completion]) -> dict[str, dict]:
    """Completions by key, as JSON has them; float32 survives it."""
    return {
        one.key: {
            "token_ids": one.token_ids.tolist(),
            "logprobs": one.logprobs.astype(float).tolist(),
            "finish": one.finish,
            "failed": one.error is not None,
        }
        for one in completions
    }


def main() -> None:
    engine = engines.open_engine("vllm", TINY)
    found = told(engine.generate(requests(engine.fingerprint)))
    print(json.dumps({"fingerprint": engine.fingerprint, "completions": found}))
    engines.close_engines()


if __name__ == "__main__":
    sys.exit(main())

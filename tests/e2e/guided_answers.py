"""Run by test_guided: four free answers and four held to a schema, from vLLM. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numba  # noqa: F401  what credit compiles with; vLLM must start beside it

from pipeline.generation import engines
from pipeline.generation.engine import Sampling, make_request
from pipeline.generation.policies import find_policy
from pipeline.prompts import load_pack
from pipeline.settings import quiet_engines

SCHEMA = (
    '{"type":"object","properties":{"trajectory_outcome":{"enum":["success","failure"]}},'
    '"required":["trajectory_outcome"],"additionalProperties":false}'
)


def main() -> None:
    quiet_engines()
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
    print(json.dumps({"free": texts[0], "held": texts[1], "errors": [answers[one.key].error for one in held]}))


if __name__ == "__main__":
    sys.exit(main())

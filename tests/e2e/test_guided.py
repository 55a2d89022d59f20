"""The real engine holds answers to a schema."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")


@pytest.mark.engine
def test_an_answer_is_held_to_its_schema_whatever_is_asked():
    """In a process of its own: a warning made an error there would be the failure of every request with a schema."""
    script = Path(__file__).parent / "guided_answers.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    begins = {
        name: [re.sub(r"\s", "", text).startswith('{"trajectory_outcome":"') for text in found[name]]
        for name in ("free", "held")
    }
    assert begins == {"free": [False] * 4, "held": [True] * 4}
    assert found["errors"] == [None] * 4

"""What two processes train together is whole when saved, and is what one trains, also where its weights are sharded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.several_processes import train_all

NAMES = ("sft", "lora", "prm", "prm_rows")


@pytest.fixture(scope="module")
def alone(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    train_all(policy, folder := tmp_path_factory.mktemp("alone"), alone=True)
    return folder


@pytest.mark.parametrize("how", [pytest.param((), id="copies"), pytest.param(("sharded",), id="shards")])
def test_two_processes_save_what_one_does(policy: Path, alone: Path, tmp_path: Path, how: tuple[str, ...]):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script, path = Path(__file__).with_name("several_processes.py"), os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [*command, str(script), str(policy), str(tmp_path), *how],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    before = load_file(policy / "model.safetensors")
    for name in NAMES:
        one, two = (load_file(folder / name / "model.safetensors") for folder in (alone, tmp_path))
        torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
        assert any((one[key] - before[key]).abs().max() > 1e-4 for key in before.keys() & one.keys())
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)

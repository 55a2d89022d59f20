"""A policy with weights drawn at random, on one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_policy import one_thread, save_random_policy

_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="package")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_policy(tmp_path_factory.mktemp("policies") / "fresh")

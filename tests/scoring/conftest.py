"""A scripted round, scored by the embedded policy, on one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_policy import one_thread
from scripted_round import Pupil, copied, scripted

from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work

_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Rollouts, branches and retries of three sums, judged."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=3))
        write_trees(work, TreeConfig(attempts=2, branches=2))
        write_retries(work, RetryConfig(per_task=1))
        write_verdicts(work)
        yield work


@pytest.fixture
def work(made: Work, tmp_path: Path) -> Work:
    """The same over a copy of the store."""
    return copied(made, tmp_path)

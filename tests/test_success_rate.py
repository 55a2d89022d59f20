"""Success rates of tasks, by epoch and by the latest rewards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.generation.budget.success_rate import SuccessRateParams, success_rates


def rates(*tasks, **params):
    """Tasks of epochs of rewards."""
    rows = [
        (reward, task, epoch)
        for task, epochs in enumerate(tasks)
        for epoch, some in enumerate(epochs)
        for reward in some
    ]
    reward, task, epoch = (np.array([row[place] for row in rows]) for place in range(3))
    return success_rates(
        reward.astype(np.float64),
        task.astype(np.int64),
        epochs=epoch.astype(np.int64),
        count=len(tasks),
        params=SuccessRateParams(**params),
    )


@pytest.mark.parametrize(
    ("epochs", "params", "rate", "has_history"),
    [
        pytest.param([[1, 0, 0, 0]], {}, 0.25, False, id="too few"),
        pytest.param([[-1, 1] * 4], {}, 0.5, True, id="-1 counts as 0"),
        pytest.param([[0] * 8, [1] * 20], {}, 1, True, id="a large epoch stands alone"),
        pytest.param([[0] * 8, [1] * 12], {}, 0.75, True, id="a small one is filled up"),
        pytest.param([[1] * 2 + [0] * 8, [1] * 12], {}, 0.75, True, id="with the newest of the one before"),
        pytest.param([[1] * 8, [0] * 2], {"robust_epoch_estimation": False}, 0, True, id="or is not"),
        pytest.param([[0] * 8, [1] * 4 + [0] * 20], {"epoch_estimation": False}, 0, True, id="the latest alone"),
        pytest.param([[1] * 16, []], {}, 1, True, id="an epoch without the task"),
        pytest.param([[1] * 3, []], {"robust_epoch_estimation": False}, 1, False, id="nor does it count as the last"),
        pytest.param([], {}, 0, False, id="unknown task"),
        pytest.param([[1] * 8 + [float("nan")] * 8], {}, 1, True, id="no verdict is no reward"),
        pytest.param([[1, 0, 0]], {"reward_buffer_length": 2, "min_buffer_length": 3}, 1 / 3, True, id="lengths"),
    ],
)
def test_rate(epochs, params, rate, has_history):
    found = rates(epochs, **params)
    assert (found.rate[0], found.has_history[0]) == (pytest.approx(rate), has_history)


EPOCHS = st.lists(st.lists(st.sampled_from([-1, 0, 1]), max_size=18), max_size=4)


@given(st.lists(EPOCHS, min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_is_its_definition_and_tasks_do_not_mix(tasks, by_epoch, robust):
    found = rates(*tasks, epoch_estimation=by_epoch, robust_epoch_estimation=robust)
    for place, epochs in enumerate(tasks):
        counted = [[max(reward, 0) for reward in some] for some in epochs if some]
        newest = [reward for some in counted for reward in some][::-1]
        used = counted[-1] if counted and by_epoch else newest[:16]
        if by_epoch and robust and len(used) < 16:
            used = newest[:16]
        assert found.rate[place] == pytest.approx(np.mean(used) if used else 0)
        assert found.seen[place] == len(newest)


def test_only_the_order_within_a_task_matters():
    rewards, tasks = np.array([1.0, 0, 0, 1]), np.array([0, 1, 0, 1])
    found = success_rates(
        rewards, tasks, epochs=np.array([1, 0, 0, 1]), count=2, params=SuccessRateParams(reward_buffer_length=1)
    )
    assert found.rate.tolist() == [1, 1]

"""What the stage hands to strategies that look at more than answers; process reward models are in `prm/`."""

import json

import numpy as np
import pytest
from scripted_round import Pupil, changed, read, scripted

from pipeline.stages import rollouts
from pipeline.stages.informing import equations_verdict, informed
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.trees.draft import Reading, Spot, new_draft
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.guided import Guided, likelihood
from pipeline.trees.growth.mcts import Mcts
from pipeline.trees.strategy import Informed


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("3 + 4 = 7", 1),
        ("3 + 4 = 8", -1),
        ("3 + 4 = 7, so 7 + 2 = 8", -1),
        ("That is all.", None),
        ("```python\nraise ValueError\n```", None),
    ],
)
def test_equations_are_worked_out_and_code_is_not_run(text, verdict):
    draft = new_draft("t", "t@r", np.arange(3), text="", max_tokens=9, reading=Reading(str, list))
    assert equations_verdict(draft, Spot(0, 3), text) == verdict


def test_a_search_has_the_judge_that_its_parameters_name(tmp_path):
    with scripted(tmp_path, Pupil()) as work:
        assert informed(work, Mcts()) == (Informed(Mcts(), equations_verdict), Mcts())
        for alone in (Mcts(judge="none"), Guided(), Flat()):
            assert informed(work, alone) == (alone, alone)
        write_tasks(work)
        for judge in ("tool", "none"):
            params = json.dumps({"judge": judge, "rounds": 3})
            assert write_rollouts(work, RolloutConfig("mcts", params=params)).fresh == 1
            [place] = work.places("nodes")
            assert json.loads(work.store.entry("nodes", place).inputs["config"])["judge"] == judge
            assert read(work, "nodes").filter(origin="branch").height


def test_a_search_that_goes_on_asks_its_model_for_the_same_trees_together(tmp_path, monkeypatch):
    asked = []

    def scores(trees):
        asked.append([draft.task for draft, _ in trees])
        return likelihood(trees)

    monkeypatch.setattr(rollouts, "informed", lambda work, strategy: (Informed(strategy, scores), strategy))
    with scripted(tmp_path, Pupil()) as work:
        work = changed(work, shards=("max_tokens = 96", "max_tokens = 96\nshard_tasks = 2"))
        write_tasks(work)
        assert write_rollouts(work, RolloutConfig("guided")).fresh == 2
        whole = asked.copy()
        asked.clear()
        last = work.places("nodes")[-1]
        (file,) = (work.settings.store / "nodes").rglob(f"{last.shard}.parquet")
        file.unlink()
        assert write_rollouts(work, RolloutConfig("guided")).fresh == 1
        own = set(work.shards()[last.shard]["task"])
        assert asked
        assert asked == [tasks for tasks in whole if own >= set(tasks)]

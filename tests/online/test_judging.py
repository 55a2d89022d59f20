"""Rounds whose credit rests on a judge: its labels and scores are made in the round, by the policy that is named."""

from __future__ import annotations

import json

import polars as pl
import pytest
from scripted_round import Pupil, read, scripted

from pipeline.errors import BadConfig
from pipeline.generation.engine import Request
from pipeline.tasks.arithmetic import read_sum, steps_right
from trainers.online.judging import check_played, judges_of, lacking
from trainers.online.rounds import OnlineConfig, train_online


class Grader(Pupil):
    """Solves sums as the pupil does, and tells which steps are wrong."""

    def __call__(self, request: Request) -> list[int]:
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        if "Is the last step correct?" not in text:
            return super().__call__(request)
        lines = [line.partition(": ")[2] for line in text.split("\n") if line.startswith("Step ")]
        lines[-1] = lines[-1].partition("<|")[0]
        right = steps_right(read_sum(text.split("problem: ")[1]), lines)[-1]
        return [*self.tokens.encode(f"{lines[-1]} {'correct' if right else 'incorrect'}").tolist(), 1]


def test_a_judge_labels_every_attempt_of_each_round(tmp_path):
    changes = {"group": 4, "minibatch": 6, "labeller": "genprm", "prm_every": 0, "eval_samples": 0}
    with scripted(tmp_path, Grader()) as work:
        train_online(work, OnlineConfig("pure", method="", rounds=2, changes=json.dumps(changes)))
        for name in ("r0", "r1"):
            labels = work.store.scan("step_labels", suite="three", round=name, stage="genprm").collect()
            steps = work.store.scan("nodes", suite="three", round=name).filter(pl.col("kind") == "step").collect()
            assert labels.height == steps.height
            assert labels["version"].str.contains(work.policy.fingerprint).all()  # the policy that all began from
        assert read(work, "credit", "pure").height


def test_what_a_round_makes_for_a_method():
    assert judges_of("pure", "genprm") == ("genprm",)
    assert judges_of("grpo", "genprm") == ()
    assert judges_of("lare", "monte_carlo") == ("lare",)
    assert lacking("brpo") == ["budget"]
    assert lacking("brpo", strategy="brpo") == []
    assert lacking("malt") == ["answers of the generator", "answers of the verifier", "answers of the refiner"]
    assert not any(lacking(name) for name in ("grpo", "pure", "capo", "lare", "calm", "oprl", "archer", "hicra"))


@pytest.mark.parametrize(
    ("method", "params", "lacks"),
    [
        pytest.param("gigpo", "", "state_key, step_reward", id="states"),
        pytest.param("gigpo", '{"enable_similarity": true}', "step_reward", id="states told by their text"),
        pytest.param("mars", "", "step_reward", id="what turns were paid"),
        pytest.param("grpo", "", "", id="verdicts alone"),
    ],
)
def test_what_an_environment_alone_says_is_asked_of_no_other_suite(tmp_path, method, params, lacks):
    with scripted(tmp_path, Pupil()) as work:
        if not lacks:
            check_played(method, params, work.suite)
            return
        said = f"{method} reads {lacks}, which suite three has not without an environment"
        with pytest.raises(BadConfig, match=said):
            check_played(method, params, work.suite)
        changes = json.dumps({"method": method, "params": json.loads(params or "{}")})
        with pytest.raises(BadConfig, match=said):
            train_online(work, OnlineConfig(changes=changes))
        assert not work.places("tasks")

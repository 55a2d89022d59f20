"""A process reward model over a round: trained, put to work as a labeller, and measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_policy import one_thread, save_other_tokenizer
from scripted_round import Pupil, read, run, scripted

from pipeline.errors import BadConfig, BadInput, BadModel, BadTable
from pipeline.labels.ledger import newest
from pipeline.labels.prm import find_prm, prm_folder
from pipeline.labels.prm_model import score_steps
from pipeline.stages.held_out import Solutions, filed_solutions, sampled_solutions
from pipeline.stages.informing import scores_of
from pipeline.stages.prm_evals import (
    Judged,
    PrmEvalConfig,
    choice_figures,
    held_out_tasks,
    step_figures,
    tuned_threshold,
    write_prm_evals,
)
from pipeline.stages.prm_scores import PrmScoresConfig, write_prm_scores
from pipeline.stages.prm_steps import PrmStepsConfig, write_prm_steps
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.work import Work
from pipeline.tasks.arithmetic import first_error, read_sum
from pipeline.trees.draft import Reading, Spot, new_draft
from pipeline.trees.growth.guided import Paths
from trainers.prm_compare import PrmCompareRecipe, compare_prms
from trainers.prm_recipe import PrmRecipe
from trainers.prm_stages import train_prm_model

NAME = "three-r0-monte_carlo"
SHORT = {"steps": 2, "batch_size": 4}
NA = float("nan")
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """A round with rows of both kinds and a model of tree labels; every other answer of `Pupil` slips."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        write_prm_steps(made)
        write_prm_steps(made, PrmStepsConfig("outcome_broadcast"))
        train_prm_model(made, PrmRecipe(**SHORT))
        yield made


def test_it_guides_a_search(work: Work):
    params = {"prm": NAME, "beam": 2, "branching": 2, "segment": 24}
    searched = replace(work, round="guided")
    report = write_rollouts(searched, RolloutConfig("guided", params=json.dumps(params)))
    assert report.numbers["truncated"] == 0
    [place] = searched.places("nodes")
    entry = work.store.entry("nodes", place)
    prm = find_prm(NAME, policies=work.settings.policies)
    assert json.loads(entry.inputs["config"])["prm"] == f"{NAME}-{prm.fingerprint}"
    nodes = work.store.read("nodes", [place])
    assert set(nodes["origin"]) == {"prompt", "sample", "branch"}
    draft = new_draft("t", "t@r", np.arange(5, 9), text="", max_tokens=9, reading=Reading(str, list))
    draft.write(draft.root, np.arange(9, 15), origin="sample", kind="step")
    trees = [Paths(draft, [Spot(1, 3), Spot(1, 6)]), Paths(draft, [Spot(1, 1)])]
    expected = score_steps(prm, [np.arange(5, 15)], [[6, 9, 4]])
    found = scores_of(prm)(trees)
    assert [len(scores) for scores in found] == [2, 1]
    assert np.concatenate(found) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(BadModel, match="nowhere"):
        write_rollouts(searched, RolloutConfig("guided", params='{"prm": "nowhere"}'))


class TestTraining:
    def test_a_current_model_is_left_alone(self, work: Work):
        again = train_prm_model(work, PrmRecipe(**SHORT))
        assert (again.fresh, again.rows) == (0, {"prm_steps": 12})
        assert again.digest == find_prm(NAME, policies=work.settings.policies).fingerprint
        assert {"trained_rows", "steps", "first_loss"} <= set(again.numbers)

    def test_another_recipe_is_another_model(self, work: Work):
        before = find_prm(NAME, policies=work.settings.policies).fingerprint
        other = train_prm_model(work, PrmRecipe(name="other", seed=1, **SHORT))
        assert other.fresh == 1
        assert other.digest != before == find_prm(NAME, policies=work.settings.policies).fingerprint

    def test_another_tokenizer_is_refused_before_the_first_step(self, work: Work, tmp_path: Path):
        other = replace(work, policy_name=str(save_other_tokenizer(tmp_path / "other")), on_progress=pytest.fail)
        with pytest.raises(BadInput, match="its tokens spell"):
            train_prm_model(other, PrmRecipe(name="foreign", **SHORT))

    def test_rows_are_wanted_first(self, work: Work):
        with pytest.raises(BadTable, match="run `branchpoint prm-steps --labels judge --suite three --round r0` first"):
            train_prm_model(work, PrmRecipe(labels="judge"))


class TestLabeller:
    def test_every_step_under_the_plain_prompt_is_scored_where_it_stands(self, work: Work):
        write_prm_scores(work, PrmScoresConfig(NAME))
        prm = find_prm(NAME, policies=work.settings.policies)
        found = newest(read(work, "step_labels", "prm"))
        of = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
        plain = {key for key, row in of.items() if row["context"] == 0 and row["kind"] == "step" and row["token_ids"]}
        assert set(found.select("tree", "node").iter_rows()) == plain
        assert set(found["labeller"]) == {"prm"}
        assert set(found["version"]) == {f"0001/{NAME}-{prm.fingerprint}"}
        for row in found.head(12).iter_rows(named=True):
            path, node = [], row["node"]
            while node is not None:
                path, node = [*of[row["tree"], node]["token_ids"], *path], of[row["tree"], node]["parent"]
            (soft,) = score_steps(prm, [path], [[len(path) - 1]])
            assert row["soft"] == pytest.approx(soft, abs=1e-5)
            assert row["hard"] == (soft >= 0.5)

    def test_its_progress_tells_paths_and_time(self, work: Work):
        told = []
        write_prm_scores(replace(work, on_progress=told.append), PrmScoresConfig(NAME, threshold=0.25))
        last = max((one for one in told if one.what == "paths of the shard"), key=lambda one: one.done)
        assert last.done == last.total > 0 < last.seconds

    def test_what_is_said_again_is_an_entry_no_more(self, work: Work):
        write_prm_scores(work, PrmScoresConfig(NAME))
        before = len(read(work, "step_labels", "prm"))
        assert write_prm_scores(work, PrmScoresConfig(NAME)).fresh == 0
        write_prm_scores(work, PrmScoresConfig(NAME, threshold=1.0))
        after = read(work, "step_labels", "prm")
        assert before < len(after) <= 2 * before
        assert not newest(after)["hard"].any()

    def test_its_labels_make_rows(self, work: Work):
        write_prm_scores(work, PrmScoresConfig(NAME))
        report = write_prm_steps(work, PrmStepsConfig("prm"))
        assert report.rows == {"prm_steps": 12}
        assert report.numbers["labelled"] == report.numbers["steps"]

    @pytest.mark.parametrize(
        ("config", "error"),
        [(PrmScoresConfig("none"), BadModel), (PrmScoresConfig(NAME, threshold=1.5), BadConfig)],
    )
    def test_refusals(self, work: Work, config: PrmScoresConfig, error: type):
        with pytest.raises(error):
            write_prm_scores(work, config)


def solutions(**changed) -> Solutions:
    """Two tasks with two answers each of two steps; the second answer of each is wrong in its second step."""
    made = Solutions(
        task=np.array([0, 0, 1, 1]),
        subset=np.array(["6x1", "6x1", "8x1", "8x1"]),
        input_ids=[np.array([1, 2, 3])] * 4,
        step_ends=[np.array([1, 2])] * 4,
        label=np.array([-1.0, 1.0, -1.0, 1.0]),
        reward=np.array([1.0, 0.0, 1.0, 0.0]),
        answer=np.array([0, 1, 0, 1]),
    )
    return replace(made, **changed)


def judged(scores: list[float], predictions: list[float]) -> Judged:
    return Judged(np.array(scores), 0.5, np.array(predictions, float), np.ones(4, bool))


#      task 0, right and wrong     task 1: the model is mistaken
SCORES = [0.9, 0.8, 0.9, 0.1, 0.9, 0.4, 0.9, 0.6]


class TestFigures:
    def test_first_errors(self):
        found = {
            name: figure.mean for name, (figure, _) in step_figures(solutions(), judged(SCORES, [-1, 1, 1, -1])).items()
        }
        assert found["first_error_f1"] == 0.5
        assert found["first_error_error 6x1"] == found["first_error_correct 6x1"] == found["first_error_f1 6x1"] == 1
        assert found["first_error_f1 8x1"] == 0
        assert found["first_error_f1 mean of subsets"] == 0.5
        # Right: 0.9 four times, 0.8, 0.4; wrong: 0.1, 0.6. Of 12 pairs 0.4 < 0.6 alone is the wrong way round.
        assert found["step_auc"] == pytest.approx(11 / 12)

    def test_steps_after_the_first_wrong_one_are_not_asked_about(self):
        early = solutions(label=np.array([-1.0, 0.0, -1.0, 0.0]))
        found = step_figures(early, judged(SCORES, [-1, 0, -1, 0]))
        assert found["step_auc"][1] == 6

    def test_choices(self):
        found = {
            name: figure.mean for name, (figure, _) in choice_figures(solutions(), judged(SCORES, [-1] * 4)).items()
        }
        assert found["pass@1"] == found["best_min@1"] == found["majority@2"] == 0.5
        assert found["pass@2"] == 1
        assert found["best_min@2"] == found["best_last@2"] == found["weighted_min@2"] == 0.5
        assert found["best_min less majority@2"] == 0
        assert found["rewardmath_accuracy min"] == 0.5
        assert found["rewardmath_mrr min"] == 0.75

    def test_nobody_knows_the_steps(self):
        assert step_figures(solutions(label=np.full(4, NA)), judged(SCORES, [-1] * 4)) == {}

    def test_threshold_is_tuned_between_scores(self):
        of = solutions()
        found = tuned_threshold(np.array([0.9, 0.8, 0.9, 0.1, 0.9, 0.7, 0.9, 0.2]), of, np.ones(4, bool))
        assert 0.2 < found <= 0.7
        assert tuned_threshold(np.array(SCORES), of, np.array([True, False, True, False])) == 0.5


class TestMeasure:
    def test_answers_are_cut_and_known_to_the_oracle(self, work: Work):
        tasks = held_out_tasks(work)
        found = sampled_solutions(work, tasks, samples=2)
        assert found.label.tolist() == [-1, 1, -1, 1]
        assert found.reward.tolist() == [1, 0, 1, 0]
        assert found.answer.tolist() == [0, 1, 0, 1]
        for ids, ends in zip(found.input_ids, found.step_ends, strict=True):
            assert len(ends) == 4
            assert ends[-1] == len(ids) - 1

    def test_stage(self, work: Work):
        report = write_prm_evals(work, PrmEvalConfig(NAME, samples=4))
        rows = {row["metric"]: row for row in read(work, "evals", f"prm-{NAME}").iter_rows(named=True)}
        assert (report.fresh, report.rows) == (1, {"evals": len(rows)})
        assert len(report.numbers) <= 12
        assert {row["policy"] for row in rows.values()} == {f"prm/{NAME}"}
        assert rows["pass@1"]["value"] == 0.5
        assert rows["pass@4"]["value"] == 1
        assert rows["majority@4"]["value"] == 0.5
        assert {"first_error_f1", "threshold", "step_auc", "best_prod@4", "weighted_last@4"} <= rows.keys()
        assert write_prm_evals(work, PrmEvalConfig(NAME, samples=4)).fresh == 0

    def test_a_file_of_processbench(self, work: Work, tmp_path: Path):
        question = held_out_tasks(work)["question"][0]
        problem = read_sum(question)
        steps = ["1 + 1 = 3", "still\nthe second step", "#### 3"]
        assert first_error(problem, steps) is not None
        path = tmp_path / "gsm8k.json"
        path.write_text(json.dumps([{"problem": question, "steps": steps, "label": label} for label in (-1, 0, 1)]))
        read_back = filed_solutions(work, path)
        assert [len(ends) for ends in read_back.step_ends] == [3, 3, 3]
        assert read_back.label.tolist() == [-1, 0, 1]
        report = write_prm_evals(work, PrmEvalConfig(NAME, file=str(path)))
        assert report.numbers["first_error_f1 gsm8k"] == report.numbers["first_error_f1 mean of subsets"]
        assert set(read(work, "evals", f"prm-{NAME}-gsm8k")["suite"]) == {"gsm8k"}
        with pytest.raises(BadInput, match="holds no file"):
            write_prm_evals(work, PrmEvalConfig(NAME, file=str(tmp_path / "none.json")))

    @pytest.mark.parametrize("config", [{"samples": 0}, {"threshold": 2.0}])
    def test_refusals(self, work: Work, config: dict):
        with pytest.raises(BadConfig):
            write_prm_evals(work, PrmEvalConfig(NAME, **config))


def test_two_kinds_of_labels_side_by_side(work: Work):
    recipe = PrmCompareRecipe(seeds=2, samples=4, **SHORT)
    report = compare_prms(work, recipe)
    evals = read(work, "evals", "prm-compare")
    found = {(row["policy"].rpartition("-")[2], row["metric"]): row["value"] for row in evals.iter_rows(named=True)}
    gap = found["monte_carlo", "first_error_f1 less outcome_broadcast"]
    assert gap == pytest.approx(found["monte_carlo", "first_error_f1"] - found["outcome_broadcast", "first_error_f1"])
    assert found["monte_carlo", "majority@4"] == 0.5
    assert report.numbers["first_error_f1 less outcome_broadcast"] == gap
    names = {path.name for path in prm_folder("", policies=work.settings.policies).iterdir()}
    assert {
        f"three-r0-{kind}-hard-seed{seed}" for kind in ("monte_carlo", "outcome_broadcast") for seed in (0, 1)
    } <= names
    assert compare_prms(work, recipe).fresh == 0
    with pytest.raises(BadConfig, match="nothing to compare"):
        compare_prms(work, replace(recipe, labels=("monte_carlo",)))

"""Offline methods side by side: what each is taught, how it is measured, and a comparison that goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
from random_policy import save_other_tokenizer
from scripted_round import Pupil, scripted

from pipeline.errors import BadConfig, BadInput, StoreFull
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.retry_rows import write_retry_rows
from pipeline.stages.role_rows import write_role_rows
from pipeline.stages.roles import RoleConfig, write_roles
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.statistics import MeanInterval
from trainers.offline.answers import held_out_answers
from trainers.offline.compare import OfflineConfig, compare_methods
from trainers.offline.methods import METHODS, amplified_rows
from trainers.offline.table import GAIN, markdown, table_of
from trainers.offline.teach import counted
from trainers.recipes import DpoRecipe, IntRecipe, SftRecipe, TRegRecipe
from trainers.stages import build_token_rewards, train_sft_policy, train_treg_policy

SHORT = {"tokens": 200, "steps": 2, "samples": 4, "role_samples": 2}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with scripted(tmp_path_factory.mktemp("compared"), Pupil()) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=4))
        write_trees(work, TreeConfig(attempts=4, branches=2))
        write_retries(work, RetryConfig(per_task=1))
        write_interventions(work, InterventionConfig(per_task=1, continuations=3))
        write_verdicts(work)
        yield work


def digests(work: Work) -> dict[object, str]:
    return {place: work.store.digest("evals", place) for place in work.places("evals", stage="offline_compare")}


def test_methods_without_rows_are_refused_before_the_first_step_with_the_commands_that_make_them(work):
    with pytest.raises(BadConfig) as refused:
        compare_methods(work, OfflineConfig(("dpo", "int", "malt")))
    assert "dpo: round r0 of three has no rows of pairs of source outcome" in refused.value.culprit
    assert "malt: round r0 of three has no rows of role_rows of role generator" in refused.value.culprit
    assert "int:" not in refused.value.culprit
    options = "--suite three --round r0"
    for command in ("pairs", "roles", "verdicts", "role-rows"):
        assert f"branchpoint {command} {options}" in refused.value.remedy
    assert not work.settings.policies.exists()
    with pytest.raises(BadConfig, match="did you mean 'dpo'"):
        compare_methods(work, OfflineConfig(("dop",)))
    with pytest.raises(BadConfig, match="the last seed is 4294967296"):
        compare_methods(work, OfflineConfig(("start",), seeds=2, first_seed=2**32 - 1))


def test_a_file_in_place_of_the_folder_is_refused_before_the_first_answer(work, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreFull, match="--out"):
        compare_methods(work, OfflineConfig(("start",), seeds=1, out=str(tmp_path / "out")))
    assert not digests(work)


def test_every_method_is_trained_and_measured_and_more_seeds_add_to_it(work, tmp_path):
    write_roles(work, RoleConfig(width=2))
    for write in (
        write_verdicts,
        write_pairs,
        write_best_answers,
        write_retry_rows,
        write_role_rows,
        build_token_rewards,
    ):
        write(work)
    lacking = {"malt"}  # the scripted refiner is always right, so that no role has a pair
    methods = tuple(name for name in METHODS if name not in lacking)
    out = tmp_path / "out"
    compare_methods(work, OfflineConfig(methods, seeds=1, out=str(out), **SHORT))
    first = digests(work)
    assert len(first) == len(methods)
    lineages = {path: path.stat().st_mtime_ns for path in work.settings.policies.glob("*/lineage.json")}
    assert len(lineages) == len(methods) - 2
    compare_methods(work, OfflineConfig(("dpo",), seeds=1, first_seed=1, out=str(tmp_path / "other"), **SHORT))
    report = compare_methods(work, OfflineConfig(methods, seeds=2, out=str(out), **SHORT))
    assert first.items() <= digests(work).items()
    assert {path: path.stat().st_mtime_ns for path in lineages} == lineages
    assert (report.fresh, report.shards) == (len(methods) - 2, 2 * len(methods))
    table = pl.read_csv(out / "offline.csv")
    rows = {row["method"]: row for row in table.iter_rows(named=True)}
    assert set(rows) == {*methods, "start_roles.generate"}
    assert {row["seeds"] for row in rows.values()} == {2}
    assert rows["start"]["pass@1"] == 0.5  # every second sample slips
    assert rows["start"]["pass@4"] == 1.0
    assert (rows["start_roles.generate"]["pass@1"], rows["start_roles"]["pass@1"]) == (0.5, 1.0)
    assert rows["start_roles"][GAIN] == 0.5
    for name in set(methods) - {"start", "start_roles"}:
        assert rows[name]["steps"] >= 1
        assert rows[name]["trained_tokens"] >= rows[name]["positive_tokens"] > 0
    assert (out / "offline.png").stat().st_size > 1000
    assert "| int_suffix | 2 |" in (out / "offline.md").read_text()
    seeds = [
        json.loads(path.read_text())["config"]["seed"]
        for path in sorted(work.settings.policies.glob("*-dpo-s*/lineage.json"))
    ]
    assert seeds == [0, 1]


def test_a_role_is_judged_in_view_of_the_roles_before_it(work):
    tasks = work.store.tasks("three", split="held_out")
    policies = dict.fromkeys(("generate", "verify", "refine"), "tiny")
    found = held_out_answers(work, tasks, policies, samples=4, first=0, temperature=1.0)
    assert found["generate"].reward.tolist() == [[1, 0, 1, 0]] * 2
    assert found["generate"].answer.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
    assert found["refine"].reward.tolist() == [[1, 1, 1, 1]] * 2
    assert (found["refine"].tokens > 0).all()
    later = held_out_answers(work, tasks, {"solve": "tiny"}, samples=2, first=1, temperature=1.0)
    assert later["solve"].reward.tolist() == [[0, 1]] * 2


def test_three_answers_vote(work, tmp_path):
    """Of three two are right; of four a vote of three is right as often as a single one."""
    for samples, share, voted in ((3, 2 / 3, 1.0), (4, 0.5, 0.5)):
        compare_methods(work, OfflineConfig(("start",), seeds=1, samples=samples, out=str(tmp_path)))
        (row,) = pl.read_csv(tmp_path / "offline.csv").iter_rows(named=True)
        assert (row["pass@1"], row["majority@3"]) == (pytest.approx(share), voted)


def test_weights_of_r3l_are_the_advantages_of_its_trained_tokens(work):
    write_retry_rows(work)
    stored = work.store.read("rl_samples", work.places("rl_samples", stage="retry_rows"))
    rows = amplified_rows(work)
    assert 0 < len(rows) <= len(stored)
    by_row = {row["row"]: row for row in stored.iter_rows(named=True)}
    for row in rows.iter_rows(named=True):
        said = by_row[row["row"]]
        assert row["input_ids"] == said["prompt_ids"] + said["answer_ids"]
        wanted = [0.0] * len(said["prompt_ids"]) + [value or 0.0 for value in said["advantages"]]
        assert row["weights"] == pytest.approx(wanted)


def test_rows_of_r3l_are_learnt_by_a_command_of_their_own(work):
    write_retry_rows(work)
    report = train_sft_policy(work, SftRecipe(rows="retry_rows", steps=2, name="r3l"))
    assert report.numbers["trained_rows"] == len(amplified_rows(work))
    assert report.rows == {"rl_samples": work.store.rows("rl_samples", work.places("rl_samples")[0])}
    assert (work.settings.policies / "three-r0-r3l" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        pytest.param(train_treg_policy, TRegRecipe(steps=1), id="treg"),
        pytest.param(train_sft_policy, SftRecipe(rows="retry_rows", steps=1), id="r3l"),
    ],
)
def test_another_tokenizer_is_refused_before_the_first_step(work, tmp_path, train, recipe):
    for write in (write_pairs, build_token_rewards, write_retry_rows):
        write(work)
    other = replace(work, policy_name=str(save_other_tokenizer(tmp_path / "other")), on_progress=pytest.fail)
    with pytest.raises(BadInput, match="its tokens spell"):
        train(other, replace(recipe, name="foreign"))
    assert not (work.settings.policies / "three-r0-foreign").exists()


@pytest.mark.parametrize(
    ("rows", "recipe", "counts"),
    [
        pytest.param(
            {"chosen_ids": [[1, 2], [3]], "rejected_ids": [[4], [5, 6, 7]]}, DpoRecipe(), (2, 7, 3), id="pairs"
        ),
        pytest.param(
            {"side": ["chosen", "rejected"], "answer_ids": [[1, 2, 3], [4]]}, TRegRecipe(), (1, 4, 3), id="treg"
        ),
        pytest.param({"weights": [[0.0, 3.0, -1.0], [0.0, 0.5, 0.0]]}, SftRecipe(), (2, 3, 2), id="weights"),
        pytest.param({"labels": [[-100, 5, 6], [-100, -100, 7]]}, IntRecipe(), (2, 3, 3), id="labels"),
    ],
)
def test_tokens_are_counted_as_the_objective_trains_them(rows, recipe, counts):
    assert counted(pl.DataFrame(rows), recipe) == counts


def test_intervals_are_over_seeds_and_of_one_seed_over_tasks():
    def run(passed: float, tokens: float) -> dict[str, MeanInterval]:
        figure = MeanInterval(passed, passed - 0.1, passed + 0.1)
        return {"pass@1": figure, "trained_tokens": MeanInterval(tokens, None, None)}

    table = table_of({("a", 0): run(0.49, 10), ("b", 0): run(0.5, 10), ("a", 1): run(0.51, 30)})
    one, other = table.iter_rows(named=True)
    half = 12.7062047 * 0.01  # Student's t of two seeds, and their standard error
    assert (one["method"], one["seeds"], one["trained_tokens"]) == ("a", 2, 20)
    assert one["pass@1"] == pytest.approx(0.5)
    assert one["pass@1 low"] == pytest.approx(0.5 - half, abs=1e-6)
    assert (other["pass@1 low"], other["pass@1 high"]) == pytest.approx((0.4, 0.6))
    assert "| b | 1 | 0.500 (0.400 to 0.600) | 10 |" in markdown(table)

"""What a stage does when what it stands on has changed, and when a setting is not the usual one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, changed, read, run, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.generation.engine import Request
from pipeline.generation.policies import find_policy
from pipeline.report import Progress
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import write_credit
from pipeline.stages.earlier import GENERATING, refuse_replaced
from pipeline.stages.interventions import write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import PatchConfig, write_patches
from pipeline.stages.release import write_release
from pipeline.stages.retries import write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.store.layout import Place
from pipeline.store.store import Store
from pipeline.variants.intervene import CLONES
from trainers.stages import train_dpo_policy


@pytest.fixture
def fresh(tmp_path: Path):
    """Surroundings of a test's own, nothing made yet."""
    with scripted(tmp_path, Pupil()) as made:
        yield made


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param((write_trees,), id="trees"),
        pytest.param((write_trees, write_retries), id="retries"),
        pytest.param((write_verdicts,), id="verdicts"),
    ],
)
def test_nothing_is_built_on_nodes_that_were_replaced(fresh: Work, stages: tuple):
    write_tasks(fresh)
    write_rollouts(fresh, RolloutConfig(group=2))
    for stage in stages:
        stage(fresh)
    write_rollouts(fresh, RolloutConfig(group=4))
    for build in (write_pairs, write_patches, write_step_labels, write_credit):
        with pytest.raises(
            BadTable, match=r"were made before .*rollouts.* changed; run `branchpoint \w+ --suite three"
        ):
            build(fresh)
    for stage in stages:
        stage(fresh)
    write_pairs(fresh)
    assert read(fresh, "nodes", "rollouts")["node"].max() > 0


def test_a_stage_out_of_order_is_made_again(fresh: Work):
    write_tasks(fresh)
    for stage in (write_rollouts, write_retries, write_trees):
        stage(fresh)
    with pytest.raises(BadTable, match="retries of three, round r0, train-000 were made before rollouts or trees"):
        write_interventions(fresh)
    write_retries(fresh)
    write_interventions(fresh)
    nodes = read(fresh, "nodes")
    assert nodes.select("tree", "node").is_unique().all()


def test_a_round_has_one_policy(fresh: Work):
    write_tasks(fresh)
    write_rollouts(fresh)
    tiny = find_policy("tiny", policies=Path("none"))
    other = fresh.settings.policies / "other"
    shutil.copytree(tiny.path, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    with pytest.raises(BadConfig, match="round r0, are not of policy other"):
        write_trees(replace(fresh, policy_name="other"))


def test_a_smaller_suite_leaves_nothing_of_the_larger(fresh: Work):
    large = changed(fresh, size=("train = 3", "train = 70"))
    run(large)
    small = changed(large, size=("train = 70", "train = 3"))
    reports = run(small)
    assert len(small.store.places("nodes", suite="three", stage="rollouts")) == 1
    leaves = read(small, "nodes").filter(task="three/sums/train/000000", kind="step").drop_nulls("finish").height
    assert reports["verdicts"].numbers["judged"] < 4 * leaves
    release = write_release(small)
    assert release.rows["tasks"] == 5
    assert release.rows["pairs"] == reports["pairs"].rows["pairs"]


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        pytest.param("max_tokens = 96", "max_tokens = 95", "rollouts", id="longest answer"),
        pytest.param('separator = "\\n"', 'separator = " = "', "rollouts", id="separator"),
    ],
)
def test_a_changed_suite_is_made_again(fresh: Work, old: str, new: str, first: str):
    run(fresh)
    reports = run(changed(fresh, edit=(old, new)))
    assert [reports[stage].fresh for stage in GENERATING if stage in reports] == [1, 1, 1, 1]


def test_a_changed_task_is_judged_again_everywhere(fresh: Work):
    run(fresh)
    place = fresh.store.places("tasks", suite="three")[-1]
    tasks = fresh.store.read("tasks", [place])
    wrong = tasks.with_columns(answer=pl.lit("1000"), info=pl.lit(json.dumps({"dataset": "chain_sum", "metadata": {}})))
    fresh.store.write("tasks", wrong, place, inputs={})
    for stage in (write_rollouts, write_trees, write_retries, write_interventions):
        assert stage(fresh).fresh == 1
    assert read(fresh, "verdicts")["reward"].sum() == 0


@pytest.mark.parametrize("clone", CLONES)
def test_every_way_to_clone_an_intervention(fresh: Work, clone: str):
    run(fresh)
    write_patches(fresh, PatchConfig(clone=clone))
    row = read(fresh, "patches").row(0, named=True)
    nodes = read(fresh, "nodes").filter(tree=row["tree"])
    edit = nodes.filter(node=row["node"]).row(0, named=True)
    trained = [token for token in row["labels"] if token != -100]
    if clone == "with_suffix":
        assert row["input_ids"][-1] == 1
        assert len(trained) > len(edit["token_ids"])
    else:
        assert row["input_ids"][-len(edit["token_ids"]) :] == edit["token_ids"]
        assert (len(trained) == len(edit["token_ids"])) == (clone == "intervention_only")


def test_unknown_way_to_clone(fresh: Work):
    with pytest.raises(BadConfig, match="clone 'all' does not exist; choose one of prefix"):
        write_patches(fresh, PatchConfig(clone="all"))


def test_an_unreadable_check_is_asked_again_and_kept(tmp_path: Path):
    class Muddled(Pupil):
        def __call__(self, request: Request) -> list[int]:
            text = self.tokens._tokenizer.decode(request.prompt.tolist())
            if "trusted reference" in text and request.sample < 2:
                return [*self.tokens.encode("I think step 1").tolist(), 1]
            return super().__call__(request)

    with scripted(tmp_path, Muddled()) as work:
        run(work)
    critiques = read(work, "nodes").filter(kind="critique")
    variants = read(work, "variants").filter(kind="intervention")
    assert critiques.height == 3 * variants.height > 0
    assert variants["blamed_step"].to_list() == [1] * variants.height


def test_whatever_reads_a_round_refuses_what_was_replaced_under_it(fresh: Work):
    run(fresh)
    write_rollouts(fresh, RolloutConfig(group=6))
    for stage in (write_trees, write_retries, write_interventions, write_verdicts):
        stage(fresh)
    with pytest.raises(BadTable, match=r"grpo of three, .* nodes or verdicts changed; run `branchpoint credit"):
        write_agreement(fresh)
    with pytest.raises(BadTable, match="grpo of three"):
        write_release(fresh)
    with pytest.raises(BadTable, match=r"pairs of three, .*; run `branchpoint pairs --suite three --round r0` again"):
        train_dpo_policy(fresh)


def test_other_questions_under_the_same_ids_are_not_judged(fresh: Work):
    run(fresh)
    other = changed(fresh, seed=("train = 77", "train = 78"))
    write_tasks(other)
    for stage in (write_trees, write_verdicts, write_pairs, write_credit):
        with pytest.raises(BadTable, match="rollouts of three, round r0, train-000 were made before tasks changed"):
            stage(other)
    assert run(other)["rollouts"].fresh == 1


def test_a_suite_without_held_out_tasks_has_nothing_to_evaluate(fresh: Work):
    alone = changed(fresh, sizes=("train = 3, held_out = 2", "train = 3"))
    reports = run(alone)
    assert reports["evals"].rows == {"evals": 0}
    (note,) = reports["tasks"].notes
    assert note.startswith("there are no held_out tasks, so no policy can be evaluated; to have some, in band sums")
    assert reports["evals"].notes == (note,)
    assert write_release(alone).rows["tasks"] == 3


def test_a_suite_without_training_tasks_is_told_so(fresh: Work):
    assert write_tasks(fresh).notes == ()
    alone = changed(fresh, sizes=("train = 3, held_out", "held_out"))
    assert write_tasks(alone).notes == (
        "there are no train tasks, so nothing can be sampled; to have some, in band sums give sizes and seeds a train",
    )
    with pytest.raises(BadConfig, match="suite three has no train tasks; in band sums give sizes and seeds a"):
        write_rollouts(alone)


BUILT_ON_ROLLOUTS = {
    write_trees: "nodes",
    write_retries: "variants",
    write_interventions: "variants",
    write_verdicts: "verdicts",
    write_credit: "credit",
    write_step_labels: "step_labels",
    write_pairs: "pairs",
    write_patches: "patches",
    write_agreement: "evals",
}


@pytest.mark.parametrize("stage", BUILT_ON_ROLLOUTS, ids=BUILT_ON_ROLLOUTS.values())
def test_nothing_is_made_of_a_round_without_rollouts(fresh: Work, stage):
    write_tasks(fresh)
    before = sorted(fresh.settings.store.rglob("*"))
    with pytest.raises(
        BadTable,
        match="no rollouts of suite three, round r0; run `branchpoint rollouts --suite three --round r0` first",
    ):
        stage(fresh)
    assert sorted(fresh.settings.store.rglob("*")) == before


def test_nothing_is_made_of_half_the_rollouts(fresh: Work):
    large = changed(fresh, size=("train = 3", "train = 70"))
    write_tasks(large)
    write_rollouts(large, RolloutConfig(group=1))
    large.store.places("nodes", suite="three", stage="rollouts")[-1].path(large.store.root, "nodes").unlink()
    with pytest.raises(BadTable, match="no rollouts of suite three, round r0, in 1 of 2 shards; run `branchpoint roll"):
        write_trees(large)
    assert not large.store.places("nodes", stage="trees")


def test_digests_are_read_once_a_shard(fresh: Work, monkeypatch: pytest.MonkeyPatch):
    run(fresh)
    asked: list[tuple[str, Place]] = []
    entry = Store.entry

    def counted(store: Store, table: str, at: Place):
        asked.append((table, at))
        return entry(store, table, at)

    monkeypatch.setattr(Store, "entry", counted)
    refuse_replaced(fresh, "credit")
    assert len(fresh.places("credit")) == 3
    assert {asked.count(one) for one in asked if one[0] != "credit"} == {1}


def test_no_figure_repeats_a_count_of_rows(fresh: Work):
    reports = run(fresh)
    assert not [stage for stage, report in reports.items() if report.numbers.keys() & report.rows.keys()]
    assert reports["rollouts"].numbers.keys() == {"pass_rate", "mixed_share", "tokens", "truncated"}


def test_the_way_to_go_is_told_in_trees_of_shards_that_are_not_current(fresh: Work):
    told: list[Progress] = []
    work = replace(
        changed(fresh, size=("max_tokens = 96", "max_tokens = 96\nshard_tasks = 1")), on_progress=told.append
    )
    write_tasks(work)
    write_rollouts(work, RolloutConfig(group=2))
    assert [(one.done, one.total) for one in told if one.what == "trees"] == [(1, 3), (2, 3), (3, 3)]
    assert {one.total for one in told if one.what == "requests"} == {0}
    told.clear()
    work.store.drop("nodes", work.places("nodes", stage="rollouts")[1])
    write_rollouts(work, RolloutConfig(group=2))
    assert [(one.done, one.total) for one in told if one.what == "trees"] == [(1, 1)]


class Knower(Pupil):
    """Never slips at the first task that it is asked about, and seldom at others."""

    def __call__(self, request: Request) -> list[int]:
        self.first = getattr(self, "first", request.prompt.tobytes())
        slips = request.sample == 1 and request.prompt.tobytes() != self.first
        return super().__call__(replace(request, sample=int(slips)))


def test_samples_go_to_tasks_that_earlier_rounds_did_not_settle(tmp_path: Path):
    with scripted(tmp_path, Knower()) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=8))
        later = replace(work, round="r1")
        config = RolloutConfig("allotted", group=8, history=("r0",))
        write_rollouts(later, config)
        drawn = later.store.read("verdicts", later.places("verdicts"))["task"].value_counts()["count"]
        assert sorted(drawn) == [2, 11, 11]
        assert write_rollouts(later, config).fresh == 0
        for history, culprit in ((("r1",), "r1"), (("r0", "r7"), "r7")):
            with pytest.raises(BadConfig, match=f"round {culprit} of suite three is no history of round r1"):
                write_rollouts(later, replace(config, history=history))
        for counts, said in (({"t": "y"}, "task t has 'y'"), ({"t": 1}, "no training task 't'")):
            with pytest.raises(BadConfig, match=said):
                write_rollouts(later, RolloutConfig("allotted", params=json.dumps({"counts": counts})))
        for other in ({"strategy": "flat"}, {"params": '{"counts": {"a": 1}}'}):
            with pytest.raises(BadConfig, match="give it with --strategy allotted, without counts"):
                write_rollouts(later, replace(config, **other))

"""Every config that follows from the forest is built again; what a model said is held against what it was asked."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scripted_round import copied, read, scripted
from varied_round import Cast, vary

from pipeline.labels.rows import label_rows
from pipeline.publish.folder import Folder
from pipeline.publish.rebuild import REMADE, check_rebuilt
from pipeline.publish.sources import SOURCED
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import write_patches
from pipeline.stages.prm_steps import PrmStepsConfig, write_prm_steps
from pipeline.stages.rationales import RationaleConfig, write_rationales
from pipeline.stages.release import release_folder, write_release
from pipeline.stages.retry_rows import write_retry_rows
from pipeline.stages.rl_prompts import write_rl_prompts
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.role_rows import write_role_rows
from pipeline.stages.sessions import write_sessions
from pipeline.stages.step_labels import write_step_labels
from pipeline.stages.token_rewards import write_token_rewards
from pipeline.stages.unpaired import write_unpaired
from pipeline.stages.work import Work

BUILT = {
    *("step_labels monte_carlo", "credit tempo", "pairs", "patches", "prm_steps outcome_broadcast", "unpaired"),
    *("rl_prompts", "sft best_answers", "sft role_rows", "rl_samples tempo", "rl_samples retry_rows", "sessions"),
}
HELD = {"token_rewards from pairs", "sft rationales from step_labels"}


def by_place(rows, starts) -> np.ndarray:
    """Log-probabilities of as many answer tokens as there are, all alike."""
    return np.full(int(rows.offsets[-1] - starts.sum()), -0.5)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """A round with rows of every kind."""
    with scripted(tmp_path_factory.mktemp("round"), Cast()) as made:
        vary(made)
        write_step_labels(made)
        write_credit(made, CreditConfig(("tempo",)))
        for write in (write_pairs, write_patches, write_unpaired, write_rl_prompts, write_best_answers, write_sessions):
            write(made)
        write_role_rows(made)
        write_retry_rows(made)
        write_rl_samples(made, RlSampleConfig("tempo"))
        write_prm_steps(made, PrmStepsConfig("outcome_broadcast"))
        write_token_rewards(made, score=by_place)
        steps = read(made, "step_labels", "monte_carlo").select("task", "tree", "node")
        said = label_rows(steps.with_columns(hard=pl.lit(True), rationale=pl.lit("so")), labeller="genprm", version="1")
        (place,) = made.places("step_labels")
        entry = made.store.entry("step_labels", place)
        made.store.write("step_labels", said, made.place("genprm", place.shard), inputs=entry.inputs)
        write_rationales(made, RationaleConfig(balance=False))
        yield made


def rebuilt(work: Work) -> dict[str, tuple[bool, str]]:
    write_release(work)
    found = {one.what.removesuffix(" from nodes"): one for one in check_rebuilt(Folder(release_folder(work)))}
    return {what: (one.passed, one.detail) for what, one in found.items()}


def spoilt(work: Work, folder, table: str, stage: str, **columns: pl.Expr) -> str:
    """What is said of rows that were changed in the store before the release."""
    mine = copied(work, folder)
    (place,) = mine.places(table, stage=stage)
    rows = mine.store.read(table, [place]).with_columns(**columns)
    mine.store.write(table, rows, place, inputs=mine.store.entry(table, place).inputs)
    (detail,) = [detail for passed, detail in rebuilt(mine).values() if not passed]
    return detail


def test_all_of_it_is_built_or_held(work):
    found = rebuilt(work)
    assert all(passed for passed, _ in found.values()), found
    assert {what for what, (_, said) in found.items() if "as the nodes give them" in said} == BUILT
    assert {what for what, (_, said) in found.items() if "was not asked again" in said} == HELD
    assert found.keys() - BUILT - HELD == {"step_labels genprm"}, "labels of a judge come from elsewhere"


def test_every_kind_is_in_the_round(work):
    assert {made.table for made in REMADE} | {rows.table for rows in SOURCED} <= {
        table for table in ("step_labels", "credit", "pairs", "patches", "prm_steps", "unpaired") if work.places(table)
    } | {"rl_prompts", "sessions", "sft", "rl_samples", "token_rewards"}


@pytest.mark.parametrize(
    ("table", "stage", "columns", "said"),
    [
        ("sft", "best_answers", {"weights": pl.col("weights").list.eval(pl.element() * 0.5)}, "weights is ["),
        ("sft", "role_rows", {"answer": pl.lit("so")}, "answer is 'so' in the release"),
        ("sessions", "sessions", {"trace": pl.lit("{}")}, "trace is '{}' in the release"),
        ("rl_samples", "tempo", {"reward": pl.lit(0.25, pl.Float32)}, "reward is 0.25 in the release"),
        ("rl_samples", "retry_rows", {"record": pl.lit("base")}, "record is 'base' in the release"),
        ("token_rewards", "token_rewards", {"answer_ids": pl.col("answer_ids").list.eval(pl.element() + 1)}, "no side"),
        ("token_rewards", "token_rewards", {"rewards": pl.col("rewards").list.eval(pl.element() + 1)}, "-0.5 to 0.5"),
        ("sft", "rationales", {"answer": pl.lit("because")}, "is no rationale of genprm"),
    ],
)
def test_what_was_changed_is_named(work, tmp_path, table, stage, columns, said):
    assert said in spoilt(work, tmp_path, table, stage, **columns)


def test_credit_of_another_version_still_serves_the_samples(work, tmp_path):
    mine = copied(work, tmp_path)
    write_release(mine)
    folder = Folder(release_folder(mine))
    for stage in folder.manifest["stages"]:
        if "credit" in stage["rows"]:
            stage["inputs"]["version"] = "0"
    (folder.path / "manifest.json").write_text(json.dumps(folder.manifest))
    found = {one.what: one.detail for one in check_rebuilt(Folder(folder.path))}
    assert found["credit tempo from nodes"].startswith("not built again: made by version 0")
    assert "as the nodes give them" in found["rl_samples tempo from nodes"]


def test_credit_is_not_built_again_from_the_labels_of_just_anybody(work, tmp_path):
    mine = copied(work, tmp_path)
    write_credit(mine, CreditConfig(("capo",)))
    assert "as the nodes give them" in rebuilt(mine)["credit capo"][1]
    folder = Folder(release_folder(mine))
    for stage in folder.manifest["stages"]:
        if stage["name"] == "capo":
            stage["inputs"]["labels"] = "0123456789abcdef"  # as of several shards
    (folder.path / "manifest.json").write_text(json.dumps(folder.manifest))
    found = {one.what: one for one in check_rebuilt(Folder(folder.path))}
    assert found["credit capo from nodes"].passed
    assert found["credit capo from nodes"].detail.startswith("not built again")

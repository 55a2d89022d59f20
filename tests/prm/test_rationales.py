"""Rows for a generative process reward model: what is kept, and what becomes of it."""

from __future__ import annotations

import polars as pl
import pytest
from random_policy import one_thread
from scripted_round import Pupil, read, run, scripted

from pipeline.builders.rationales import agreed
from pipeline.errors import BadConfig, BadTable
from pipeline.generation.policies import find_policy
from pipeline.generation.tokens import tokens_of
from pipeline.labels.ledger import newest
from pipeline.labels.rows import label_rows
from pipeline.stages.rationales import RationaleConfig, write_rationales
from pipeline.stages.work import Work
from trainers.prm_stages import train_generative_prm
from trainers.recipes import SftRecipe

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


def labels(*said: tuple) -> pl.DataFrame:
    """Of triples: node, verdict, rationale."""
    schema = {"node": pl.Int32, "hard": pl.Boolean, "rationale": pl.String}
    return pl.DataFrame(said, schema=schema, orient="row").with_columns(tree=pl.lit("t@r"))


SAID = labels((1, True, "a"), (2, False, "b"), (3, True, "c"), (4, True, "d"), (5, None, "e"), (6, True, " "))
TRUTH = labels((1, True, ""), (2, False, ""), (3, False, ""), (4, True, ""), (5, True, ""), (6, True, ""))


def test_what_the_labels_bear_out_is_kept():
    assert agreed(SAID, TRUTH, balance=False)["rationale"].to_list() == ["a", "b", "d"]


def test_as_many_right_as_wrong():
    kept = agreed(SAID, TRUTH, balance=True)["rationale"].to_list()
    assert len(kept) == 2
    assert "b" in kept
    assert kept == agreed(SAID, TRUTH, balance=True)["rationale"].to_list()
    assert agreed(SAID.head(1), TRUTH, balance=True).is_empty()


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    """A round in which a judge held every step for right, with reasons."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        steps = read(made, "step_labels", "monte_carlo").select("task", "tree", "node")
        said = label_rows(
            steps.with_columns(hard=pl.lit(True), rationale=pl.lit("3 + 3 = 6 correct")), labeller="genprm", version="1"
        )
        (place,) = made.places("nodes", stage="rollouts")
        entry = made.store.entry("step_labels", made.place("monte_carlo", place.shard))
        made.store.write("step_labels", said, made.place("genprm", place.shard), inputs=entry.inputs)
        yield made


def test_rows_are_the_prompt_and_the_rationale(work: Work):
    report = write_rationales(work, RationaleConfig(balance=False))
    rows, right = read(work, "sft", "rationales"), newest(read(work, "step_labels", "monte_carlo"))["hard"].sum()
    assert report.rows == {"sft": len(rows)} == {"sft": right}
    tokens, end = tokens_of(work.policy), work.policy.end_ids[0]
    of = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
    for row in rows.head(5).iter_rows(named=True):
        steps, node = [], row["node"]
        while of[row["tree"], node]["parent"] is not None:
            steps, node = [of[row["tree"], node]["text"], *steps], of[row["tree"], node]["parent"]
        asked = work.pack.messages("judge", question=row["prompt"], steps=work.pack.transcript(steps))
        before = tokens.render(asked).tolist()
        answer = [*tokens.encode("3 + 3 = 6 correct").tolist(), end]
        assert row["input_ids"] == [*before, *answer]
        assert row["weights"] == [0.0] * len(before) + [1.0] * len(answer)
    assert write_rationales(work, RationaleConfig(balance=False)).fresh == 0


def test_it_becomes_a_policy(work: Work):
    write_rationales(work, RationaleConfig(balance=False))
    report = train_generative_prm(work, SftRecipe(steps=2, batch_size=4))
    assert report.fresh == 1
    assert find_policy("three-r0-genprm", policies=work.settings.policies).fingerprint == report.digest
    assert train_generative_prm(work, SftRecipe(steps=2, batch_size=4)).fresh == 0
    with pytest.raises(BadConfig, match="leave rows and agent out"):
        train_generative_prm(work, SftRecipe(agent="verifier"))


def test_labels_are_wanted_first(work: Work):
    with pytest.raises(BadTable, match="no step labels of human; run `branchpoint step-labels` first"):
        write_rationales(work, RationaleConfig(labels="human"))

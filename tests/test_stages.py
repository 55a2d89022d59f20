"""A round from end to end on a scripted engine: what is written is exactly what was sent and got."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scripted_round import Pupil, read, run, scripted

from pipeline.generation.scripted import ScriptedEngine
from pipeline.generation.tokens import tokens_of
from pipeline.stages.earlier import GENERATING
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store.checks import CHECKS
from pipeline.tasks.arithmetic import first_error, read_sum
from pipeline.variants.intervene import LEAK


@pytest.fixture(scope="module")
def pupil():
    return Pupil()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, pupil: Pupil):
    """A whole round, made once."""
    with scripted(tmp_path_factory.mktemp("round"), pupil) as made:
        run(made)
        yield made


def test_every_check_passes(work: Work):
    for table, checks in CHECKS.items():
        places = work.store.places(table, suite="three", round="all" if table == "tasks" else "r0")
        for name, check in checks.items():
            if (table, name) not in (("verdicts", "keys_unique"), ("scores", "any_rows")):
                assert check(work.store, table, places).passed, f"{table} {name}"


def test_paths_are_what_was_sent_and_got(work: Work):
    """For every sampled leaf: prompt and answer of its request, ids and log-probabilities."""
    nodes = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
    leaves = [row for row in nodes.values() if row["sampled"] and row["finish"]]
    assert len({leaf["origin"] for leaf in leaves}) == 6
    with work.store.ledger() as ledger:
        for leaf in leaves:
            entry = ledger.get([leaf["request"]])[leaf["request"]]
            path = [leaf]
            while path[0]["node"] != leaf["context"]:
                path.insert(0, nodes[leaf["tree"], path[0]["parent"]])
            ids = [token for row in path for token in row["token_ids"]]
            assert ids == [*entry.prompt.tolist(), *entry.completion.token_ids.tolist()]
            new = [row for row in path if row["request"] == leaf["request"]]
            assert [p for row in new for p in row["logprobs"]] == entry.completion.logprobs.tolist()


def test_second_run_asks_nothing(work: Work, pupil: Pupil):
    asked = len(pupil.prompts)
    reports = run(work)
    assert len(pupil.prompts) == asked
    assert {report.fresh for report in reports.values()} == {0}


def test_redoing_an_early_stage_redoes_the_later_ones_and_pays_nothing_twice(work: Work, pupil: Pupil):
    before = {stage: read(work, "nodes", stage) for stage in GENERATING}
    place = work.store.places("nodes", suite="three", round="r0", stage="rollouts")[0]
    place.path(work.store.root, "nodes").unlink()
    asked = len(pupil.prompts)
    reports = run(work)
    assert len(pupil.prompts) == asked
    assert reports["rollouts"].fresh == 1
    assert all(read(work, "nodes", stage).equals(before[stage]) for stage in GENERATING)


def test_distilled_retry_is_the_guided_one_without_its_guidance(work: Work):
    nodes = read(work, "nodes")
    retry = nodes.filter(origin="retry")
    both = retry.join(nodes, left_on=["tree", "copied_from"], right_on=["tree", "node"], suffix="_guided")
    assert both.height == retry.height > 0
    assert both["token_ids"].equals(both["token_ids_guided"].alias("token_ids"))
    assert set(retry["context"]) == {0}
    assert not retry["sampled"].any()
    assert set(both["origin_guided"]) == {"guided_retry"}


def test_continuations_never_see_the_reference(work: Work):
    leaves = read(work, "nodes").filter(origin="continuation").filter(pl.col("finish").is_not_null())
    with work.store.ledger() as ledger:
        prompts = [entry.prompt for entry in ledger.get(leaves["request"].to_list()).values()]
    tokens = tokens_of(work.policy)
    assert prompts
    assert not any("eference" in tokens._tokenizer.decode(prompt.tolist()) for prompt in prompts)


def test_intervention_mends_and_its_effect_is_counted(work: Work):
    variants = read(work, "variants").filter(kind="intervention")
    kept = variants.filter(pl.col("dropped").is_null())
    assert variants.height == 3
    assert kept.height >= 1
    assert set(variants["dropped"]) <= {None, LEAK}
    assert set(variants["blamed_step"]) == {1}
    assert set(kept["with_successes"]) == {3}
    assert set(kept["without_successes"]) == {0}
    assert set(kept["effect"]) == {1.0}


def test_a_draw_is_one_piece_of_evidence(work: Work):
    """The step that was replaced has two branches of its tree and the three continuations of its arm, all different."""
    nodes = read(work, "nodes").filter(pl.col("request").is_not_null(), pl.col("copied_from").is_null())
    begun = nodes.join(nodes, left_on=["tree", "parent", "request"], right_on=["tree", "node", "request"], how="anti")
    assert begun.filter(pl.struct("tree", "parent", "request").is_duplicated()).is_empty()
    arms = begun.filter(origin="continuation").select("tree", node="parent").unique()
    labels = read(work, "step_labels").join(arms, on=["tree", "node"])
    assert labels["k"].to_list() == [2 + 3] * 2


def test_patch_ends_with_the_intervention_and_has_no_wrong_token(work: Work):
    nodes = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
    for row in read(work, "patches").iter_rows(named=True):
        edit = nodes[row["tree"], row["node"]]
        assert row["input_ids"][-len(edit["token_ids"]) :] == edit["token_ids"]
        prompt = nodes[row["tree"], 0]["token_ids"]
        assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
        assert first_error(read_sum(nodes[row["tree"], 0]["text"]), row["text"].split("\n")) is None


def test_pairs_share_their_prompt_and_differ_in_outcome(work: Work):
    pairs = read(work, "pairs").filter(pl.col("source") != "intervention")  # of steps, which have no verdicts
    assert set(pairs["source"]) >= {"outcome", "retry"}
    assert (pairs["margin"] == 1).all()
    rewards = {(t, n): r for t, n, r in read(work, "verdicts").select("tree", "node", "reward").iter_rows()}
    for row in pairs.iter_rows(named=True):
        assert (rewards[row["tree"], row["chosen_node"]], rewards[row["tree"], row["rejected_node"]]) == (1, 0)


def test_credit_blames_the_slip(work: Work):
    """With one slip in every wrong answer SPO-tree ranks it below every right step, exactly."""
    evals = read(work, "evals", "agreement").filter(pl.col("metric") == "oracle_auc")
    scores = dict(evals.select("policy", "value").iter_rows())
    assert scores["credit/spo_tree"] == 1.0
    assert scores["step_labels/monte_carlo"] == 1.0
    assert scores["credit/grpo"] < 1.0


def test_evaluation_counts_right_answers(work: Work):
    evals = dict(read(work, "evals", "tiny").select("metric", "value").iter_rows())
    assert evals == {"pass@1": pytest.approx(0.5), "pass@2": pytest.approx(1.0)}


def test_a_failed_request_is_a_row_and_no_node(tmp_path: Path, pupil: Pupil):
    class Failing(ScriptedEngine):
        def generate(self, requests):
            for completion in super().generate(requests):
                broken = completion.key[0] in "01234567"
                yield (
                    completion
                    if not broken
                    else type(completion)(
                        completion.key, np.empty(0, np.int32), np.empty(0, np.float32), None, error="server gone"
                    )
                )

    with scripted(tmp_path, pupil, kind=Failing) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=8))
    requests = read(work, "requests")
    failed = requests.filter(pl.col("error").is_not_null())
    assert 0 < failed.height < requests.height == 24
    assert failed["decoded_tokens"].null_count() == failed.height
    leaves = read(work, "nodes").filter(pl.col("finish").is_not_null())
    assert leaves.height == requests.height - failed.height

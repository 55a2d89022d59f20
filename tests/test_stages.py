"""A round from end to end on a scripted engine: what is written is exactly what was sent and got."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.generation import engines
from pipeline.generation.engine import Request
from pipeline.generation.policies import find_policy
from pipeline.generation.scripted import ScriptedEngine
from pipeline.generation.tokens import tokens_of
from pipeline.settings import Settings
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.evals import EvalConfig, write_evals
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import write_patches
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.step_labels import write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import GENERATING, write_verdicts
from pipeline.stages.work import Work, make_work
from pipeline.store.checks import CHECKS
from pipeline.tasks.arithmetic import first_error, read_sum, reference_steps
from pipeline.variants.intervene import LEAK

SUITE = """
name = "three"
description = "Three sums."
prompts = "tiny"
separator = "\\n"
max_tokens = 96
[[bands]]
name = "sums"
source = "reasoning_gym"
dataset = "chain_sum"
parameters = { min_terms = 4, max_terms = 4, min_digits = 1, max_digits = 1 }
sizes = { train = 3, held_out = 2 }
seeds = { train = 77, held_out = 7700 }
"""


class Pupil:
    """Solves sums, but one sample in two slips at its second step; knows its slip and how to mend it."""

    def __init__(self):
        self.tokens = tokens_of(find_policy("tiny", policies=Path("none")))
        self.prompts: list[str] = []

    def __call__(self, request: Request) -> list[int]:
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        self.prompts.append(text)
        problem = read_sum(text.split("problem: ")[1])
        steps = reference_steps(problem)
        if "Reflect on" in text:
            answer = json.dumps(
                {
                    "trajectory_summary": "; ".join(steps[:2]),
                    "root_cause_analysis": "a slip",
                    "trajectory_outcome": "failure",
                    "improvement_suggestion": steps[1],
                    "retry_from_step": 1,
                }
            )
        elif "trusted reference" in text:
            answer = json.dumps({"step_checks": [], "first_error_index": 1, "intervention": steps[1]})
        else:
            written = text.split("<|assistant|>")[1].split("\n")[:-1]
            slips = request.sample % 2 == 1 and not written and "earlier attempt" not in text
            answer = "\n".join([*written, *_carry_on(problem, written, slips=slips)][len(written) :])
        return [*self.tokens.encode(answer).tolist(), 1]


def _carry_on(problem, written: list[str], *, slips: bool) -> list[str]:
    """The rest of a solution after some lines, faithful to whatever they say."""
    value = int(written[-1].split(" = ")[1]) if written else problem.terms[0]
    lines = []
    for index in range(len(written), len(problem.operators)):
        term = problem.terms[index + 1]
        after = value + term if problem.operators[index] == "+" else value - term
        after += 10 if slips and index == 1 else 0
        lines.append(f"{value} {problem.operators[index]} {term} = {after}")
        value = after
    return [*lines, f"#### {value}"]


@pytest.fixture(scope="module")
def pupil():
    return Pupil()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, pupil: Pupil):
    """A whole round, made once."""
    folder = tmp_path_factory.mktemp("round")
    (folder / "three.toml").write_text(SUITE)
    settings = Settings(folder / "store", folder / "policies", folder / "release", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            engines.ENGINES,
            "scripted",
            lambda policy: ScriptedEngine(pupil, fingerprint=engines.engine_fingerprint("scripted", policy)),
        )
        made = make_work(settings, suite="three", round="r0", engine="scripted")
        run(made)
        yield made
        engines.close_engines()


def run(work: Work) -> dict[str, object]:
    return {
        "tasks": write_tasks(work),
        "rollouts": write_rollouts(work, RolloutConfig(group=4)),
        "trees": write_trees(work, TreeConfig(attempts=4, branches=2)),
        "retries": write_retries(work, RetryConfig(per_task=1)),
        "interventions": write_interventions(work, InterventionConfig(per_task=1, continuations=3)),
        "verdicts": write_verdicts(work),
        **{method: write_credit(work, CreditConfig(method)) for method in ("grpo", "spo_tree", "tempo")},
        "labels": write_step_labels(work),
        "pairs": write_pairs(work),
        "patches": write_patches(work),
        "agreement": write_agreement(work),
        "evals": write_evals(work, EvalConfig(samples=2)),
    }


def read(work: Work, table: str, stage: str | None = None) -> pl.DataFrame:
    return work.store.read(table, work.store.places(table, suite="three", round="r0", stage=stage))


def test_every_check_passes(work: Work):
    for table, checks in CHECKS.items():
        places = work.store.places(table, suite="three", round="all" if table == "tasks" else "r0")
        for name, check in checks.items():
            if (table, name) != ("verdicts", "keys_unique"):
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


def test_patch_ends_with_the_intervention_and_has_no_wrong_token(work: Work):
    nodes = {(row["tree"], row["node"]): row for row in read(work, "nodes").iter_rows(named=True)}
    for row in read(work, "patches").iter_rows(named=True):
        edit = nodes[row["tree"], row["node"]]
        assert row["input_ids"][-len(edit["token_ids"]) :] == edit["token_ids"]
        prompt = nodes[row["tree"], 0]["token_ids"]
        assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
        assert first_error(read_sum(nodes[row["tree"], 0]["text"]), row["text"].split("\n")) is None


def test_pairs_share_their_prompt_and_differ_in_outcome(work: Work):
    pairs = read(work, "pairs")
    assert set(pairs["source"]) >= {"outcome", "retry"}
    assert (pairs["margin"] == 1).all()
    rewards = {(t, n): r for t, n, r in read(work, "verdicts").select("tree", "node", "reward").iter_rows()}
    for row in pairs.iter_rows(named=True):
        assert (rewards[row["tree"], row["chosen_node"]], rewards[row["tree"], row["rejected_node"]]) == (1, 0)


def test_credit_blames_the_slip(work: Work):
    """With one slip in every wrong answer SPO-tree ranks it below every right step, exactly."""
    scores = dict(read(work, "evals", "agreement").select("policy", "value").iter_rows())
    assert scores["credit/spo_tree"] == 1.0
    assert scores["step_labels/monte_carlo"] == 1.0
    assert scores["credit/grpo"] < 1.0


def test_evaluation_counts_right_answers(work: Work):
    evals = dict(read(work, "evals", "tiny").select("metric", "value").iter_rows())
    assert evals == {"pass@1": pytest.approx(0.5), "pass@2": pytest.approx(1.0)}


def test_a_failed_request_is_a_row_and_no_node(tmp_path: Path, pupil: Pupil):
    (tmp_path / "three.toml").write_text(SUITE)

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

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            engines.ENGINES,
            "scripted",
            lambda policy: Failing(pupil, fingerprint=engines.engine_fingerprint("scripted", policy)),
        )
        engines.close_engines()
        settings = Settings(tmp_path / "store", tmp_path / "policies", tmp_path / "release", tmp_path)
        work = make_work(settings, suite="three", round="r0", engine="scripted")
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=8))
        engines.close_engines()
    requests = read(work, "requests")
    failed = requests.filter(pl.col("error").is_not_null())
    assert 0 < failed.height < requests.height == 24
    assert failed["decoded_tokens"].null_count() == failed.height
    leaves = read(work, "nodes").filter(pl.col("finish").is_not_null())
    assert leaves.height == requests.height - failed.height

"""Scores of a whole round, made once, and the credit that stands on them; critics trained and found again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from environments.played_round import SEEDS, played
from scripted_round import read

from pipeline.comparison.lines import Line
from pipeline.credit import METHODS as EVERY_METHOD
from pipeline.credit.inputs import INPUTS
from pipeline.credit.tables import seen_by
from pipeline.credit_report import cost
from pipeline.credit_report.lines import lines_of
from pipeline.errors import BadConfig, BadModel
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.standing import audit_standing
from pipeline.stages.tasks import write_tasks
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from trainers import runs
from trainers.cli import main
from trainers.scores import PASSES
from trainers.scores.critic_recipe import CriticRecipe
from trainers.scores.critic_stage import split_tasks, train_critic
from trainers.scores.passes import LIKELIHOODS, Passes, ScoreConfig
from trainers.scores.rounds import batches
from trainers.scores.stage import asked_for, write_model_scores
from trainers.stages import policy_name

PATH = (
    'name = "gymnasium"\nid = "pipeline.environments.puzzles:NumberPath-v0"\n'
    'actions = ["add 3", "double", "subtract 1"]\nseconds = 30'
)
METHODS = (
    "t_reg",
    "oprl",
    "implicit_prm",
    "r_to_q",
    "attention_rhythm",
    "archer",
    "ma_rlhf",
    "hicra",
)
FAST = {"epochs": 4, "width": 16, "held_share": 0.3}


def steps_on(text: str, sample: int) -> str:
    return ("add 3", "double", "subtract 1")[(sample + text.count("<|assistant|>")) % 3]


def tune(work: Work) -> None:
    """Put a policy that differs from the round's where training would have put one."""
    folder = work.settings.policies / policy_name(work, "dpo")
    shutil.copytree(work.policy.path, folder)
    with runs.quiet():
        model = runs.load_model(work.policy)
        torch.manual_seed(0)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(1 + 0.02 * torch.randn_like(weights))
        model.save_pretrained(folder)


def score(work: Work, *what: str, **options):
    return write_model_scores(work, ScoreConfig(what=what, **options))


@pytest.fixture(scope="module")
def scored(made: Work):
    """The round with every score."""
    tune(made)
    critics = [train_critic(made, CriticRecipe(kind=kind, **FAST)) for kind in ("token", "utterance")]
    return made, critics, score(made, *PASSES)


def test_every_method_has_what_it_reads(scored):
    work, _, report = scored
    assert report.fresh == len([name for names in PASSES.values() for name in names])
    reports = write_credit(work, CreditConfig(METHODS))
    assert all(done.numbers["credited"] > 0 and done.numbers["nonzero_share"] > 0 for done in reports)
    assert all(found.passed for found in audit_standing(work.store))


def test_the_credit_report_of_methods_that_models_score(scored):
    work, _, _ = scored
    write_credit(work, CreditConfig(METHODS))
    write_agreement(work)
    nodes = read(work, "nodes")
    lines: dict[str, Line] = {line.name: line for line in lines_of(read(work, "evals", "agreement"))}
    for name, passes in {"hicra": 0, "archer": 1, "attention_rhythm": 1, "oprl": 1, "t_reg": 2, "ma_rlhf": 2}.items():
        line, method = lines[f"credit/{name}"], EVERY_METHOD[name]
        steps = line.figures["zero_share"].count
        read_tokens = nodes.filter(seen_by(method))["token_count"].sum()
        assert line.value("extra_passes_per_1k") == pytest.approx(1000 * passes * read_tokens / steps)
        branched = nodes.filter(origin="branch")["token_count"].sum() if "branch" in method.origins else 0
        assert line.value("extra_tokens_per_1k") == pytest.approx(1000 * branched / steps)
        assert line.figures["resample_spread"].count > 0


@pytest.mark.parametrize("what", [name for name in PASSES if set(PASSES[name]) & set(INPUTS)])
def test_passes_of_the_credit_report_are_those_that_are_run(scored, what):
    """Of a round that fits into a pack, the model runs as often as the report counts; what is done once a round is
    done by the first look at it."""
    work, _, _ = scored
    passes = Passes(work, ScoreConfig(max_tokens=1 << 16))
    (one,) = [passes.likelihoods([what])] if what in LIKELIHOODS else [getattr(passes, what)()]
    (batch,) = batches(work, list(work.shards()), columns=one.columns)
    one.say(batch)
    runs_of: list[int] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: runs_of.append(1) if type(module).__name__ == "LlamaModel" else None
    )
    with hook:
        one.say(batch)
    assert len(runs_of) == len({cost.PASSES[name] for name in one.names} - {""})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_poad_where_an_environment_pays(tmp_path):
    with played(tmp_path, PATH, SEEDS, steps_on) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=3))
        write_verdicts(work)
        recipe = CriticRecipe(reward="step_reward", gamma=0.95, **FAST)
        trained = train_critic(work, recipe)
        assert trained.numbers["held_out_error"] >= 0
        score(work, "critic")
        (report,) = write_credit(work, CreditConfig(("poad",)))
        assert report.numbers["credited"] > 0
        assert report.numbers["nonzero_share"] > 0


def test_current_shards_are_left_alone(scored):
    work, critics, report = scored
    again = score(work, *PASSES)
    assert again.fresh == 0
    assert (again.digest, again.rows, again.numbers) == (report.digest, report.rows, report.numbers)
    for kind, critic in zip(("token", "utterance"), critics, strict=True):
        left = train_critic(work, CriticRecipe(kind=kind, **FAST))
        assert (left.fresh, left.digest, left.numbers) == (0, critic.digest, critic.numbers)


def test_what_is_said_of_nodes(scored):
    work, _, _ = scored
    nodes = read(work, "nodes").select("tree", "node", "kind", "token_count", "parent")
    for name in [name for names in PASSES.values() for name in names]:
        rows = read(work, "scores", name).join(nodes, on=["tree", "node"])
        said = rows.filter(pl.col("kind") != "prompt")
        assert set(said["tree"]) == set(nodes["tree"])
        if name in PASSES["archer"]:
            assert said["value"].is_finite().all()
            continue
        assert (said["token_values"].list.len() == said["token_count"]).all()
        if name == "planning":
            assert set(said["token_values"].explode()) <= {0.0, 1.0}
        assert said["token_values"].explode().is_finite().all()
    grams = read(work, "scores", "planning")["text"].drop_nulls()
    assert grams.n_unique() == 1
    assert all(len(gram.split()) in (3, 4, 5) for gram in json.loads(grams[0]))
    heads = read(work, "scores", "waad").join(nodes.filter(pl.col("parent").is_null()), on=["tree", "node"])
    assert {tuple(json.loads(text)) for text in heads["text"]} == {("layers", "near", "far")}


def test_entropy_and_likelihood_of_one_policy_are_those_of_two_passes(scored, work):
    shutil.rmtree(work.settings.store / "scores")
    assert score(work, "entropy").fresh == 1
    alone = score(work, "reference_logprobs")
    made = scored[0]
    for name in ("entropy", "reference_logprobs"):
        assert read(work, "scores", name).equals(read(made, "scores", name))
    assert alone.numbers["reference_logprobs_share"] > 0.5


def test_a_pass_that_is_half_lost_is_made_whole(scored, work):
    for path in (work.settings.store / "scores").rglob("*"):
        if path.is_file() and "worse_logprobs" in str(path):
            path.unlink()
    assert score(work, "t_reg").fresh == 1
    assert len(read(work, "scores", "worse_logprobs")) == len(read(work, "scores", "better_logprobs"))


def test_what_is_refused(work):
    with pytest.raises(BadConfig, match="entropie"):
        asked_for(("entropie",))
    with pytest.raises(BadConfig, match="nothing is asked for"):
        asked_for((",",))
    assert asked_for(("entropy,t_reg", "entropy")) == ["entropy", "t_reg"]
    with pytest.raises(BadModel, match="critic 'none' does not exist"):
        score(work, "archer", critic="none")
    with pytest.raises(BadConfig, match="kind"):
        train_critic(work, CriticRecipe(kind="turn"))
    with pytest.raises(BadConfig, match="no step of round r0 of three was rewarded by an environment"):
        train_critic(work, CriticRecipe(reward="step_reward"))
    shutil.rmtree(work.settings.policies / policy_name(work, "dpo"), ignore_errors=True)
    with pytest.raises(BadModel, match="dpo --suite three --round r0` first, or name a policy with --tuned"):
        score(work, "tuned_logprobs")


def test_a_critic_of_another_kind(scored):
    work, _, _ = scored
    with pytest.raises(BadConfig, match="one of tokens"):
        score(work, "archer", critic=f"{work.suite.name}-{work.round}-token")


def test_tasks_are_split():
    tokens = {f"t{number:02d}": 10 for number in range(20)} | {"empty": 0}
    train, held = split_tasks(tokens, CriticRecipe(held_share=0.1))
    assert (len(train), len(held)) == (18, 2)
    assert not train & held
    assert sum(map(len, split_tasks(tokens, CriticRecipe(most_tokens=55)))) == 5
    assert split_tasks({"one": 3}, CriticRecipe()) == ({"one"}, set())
    assert split_tasks(tokens, CriticRecipe(held_share=0))[1] == set()


def test_commands(work, monkeypatch, capsys):
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    monkeypatch.setenv("BRANCHPOINT_POLICIES", str(work.settings.policies))
    options = ["--suite", "three", "--store", str(work.settings.store), "--json", "--quiet"]
    assert main(["score", *options, "--what", "entropy,attention"]) == 0
    assert {"entropy_mean", "waad_share"} <= set(json.loads(capsys.readouterr().out)["numbers"])


@pytest.mark.parametrize("kind", ["token", "utterance"])
def test_a_critic_with_its_own_model(work, kind):
    recipe = CriticRecipe(kind=kind, name="own", backbone="trained", **FAST | {"epochs": 1})
    assert train_critic(work, recipe).fresh == 1
    assert (work.settings.policies / "critics" / "own" / "backbone" / "config.json").is_file()
    what = {"token": "critic", "utterance": "archer"}[kind]
    report = score(work, what, critic="own")
    assert np.isfinite(report.numbers[f"{PASSES[what][0]}_mean"])

"""The stage of judges on a scripted round: rows where credit reads them, nothing asked twice, provenance, staleness."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from scripted_round import Pupil, copied, read, scripted

from pipeline import cli
from pipeline.errors import BadConfig
from pipeline.generation.engine import Request
from pipeline.labels.choice import choose_labels
from pipeline.labels.ledger import newest
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.label_agreement import beyond_chance, draw_label_agreement, write_label_agreement
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.scores import ScoresConfig, write_scores
from pipeline.stages.standing import audit_standing
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.trees import TreeConfig, write_trees
from pipeline.stages.verdicts import write_verdicts
from pipeline.stages.work import Work
from pipeline.store.audit import audit
from pipeline.tasks.arithmetic import read_sum, steps_right


class Grader(Pupil):
    """Solves sums as the pupil does; tells which steps are wrong, but for one prompt that it does not answer."""

    def __call__(self, request: Request) -> list[int]:
        text = self.tokens._tokenizer.decode(request.prompt.tolist())
        if "Is the last step correct?" in text:
            self.prompts.append(text)
            lines = [line.partition(": ")[2] for line in text.split("\n") if line.startswith("Step ")]
            lines[-1] = lines[-1].partition("<|")[0]
            right = steps_right(read_sum(text.split("problem: ")[1]), lines)[-1]
            answer = f"{lines[-1]} {'correct' if right else 'incorrect'}"
        elif "List the subgoals" in text:
            answer = '{"subgoals": ["add", "answer"]}'
        elif "steps of a solution, each between tags" in text:
            answer = '{"wrong_steps": []}' if request.sample else "I will not."
        elif "were achieved by" in text:
            answer = '{"achieved": ["answer"]}' if "Step:\n####" in text else "?"
        else:
            return super().__call__(request)
        return [*self.tokens.encode(answer).tolist(), 1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    grader = Grader()
    with scripted(tmp_path_factory.mktemp("round"), grader) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig(group=4))
        write_trees(work, TreeConfig(attempts=2, branches=2))
        write_verdicts(work)
        yield work, grader


@pytest.fixture
def work(made, tmp_path: Path) -> Work:
    return copied(made[0], tmp_path)


@pytest.fixture
def grader(made) -> Grader:
    made[1].prompts.clear()
    return made[1]


def test_labels_of_a_judge_and_the_credit_that_stands_on_them(work, grader):
    (report,) = write_judgements(work, JudgeConfig(("genprm",), per_task=0))
    labels = read(work, "step_labels", "genprm")
    steps = read(work, "nodes", "rollouts").filter(pl.col("kind") == "step")
    assert labels.height == steps.height == report.rows["step_labels"]
    assert report.numbers["unread"] == 0
    wrong = labels.filter(~pl.col("hard"))
    assert wrong.height > 0
    assert wrong["rationale"].str.ends_with("incorrect").all()
    (version,) = labels["version"].unique()
    assert version.startswith(f"0001/2-{work.policy.fingerprint}-")
    asked = read(work, "requests", "genprm")
    assert asked.height == len(grader.prompts) < labels.height, "steps that read the same are asked about once"
    assert labels["tokens"].sum() == asked["decoded_tokens"].sum()
    write_credit(work, CreditConfig(("capo", "tp_grpo"), labeller="genprm"))
    capo = read(work, "credit", "capo").join(labels, on=["tree", "node"])
    right, not_right = (capo.filter(pl.col("hard") == side)["advantage"].mean() for side in (True, False))
    assert not_right < right
    refuse_replaced(work, "credit")
    assert [found.detail for found in (*audit(work.store), *audit_standing(work.store)) if not found.passed] == []


def test_nothing_is_asked_twice(work, grader):
    write_judgements(work)
    first = len(grader.prompts)
    assert [report.fresh for report in write_judgements(work)] == [0]
    (report,) = write_judgements(work, JudgeConfig(params='{"k": 2}'))
    assert (report.fresh, len(grader.prompts)) == (1, 2 * first)
    labels = read(work, "step_labels", "genprm")
    assert newest(labels).height < labels.height, "what was said at first stands beside it"
    assert newest(labels)["version"].str.ends_with("-k=2").all()


def test_answers_that_cannot_be_read_stay_a_figure(work):
    """Of what is stored: a run that asks nothing tells the same."""
    first, again = (write_judgements(work, JudgeConfig(("capo",)))[0] for _ in range(2))
    labels = read(work, "step_labels", "capo")
    assert (first.fresh, again.fresh) == (1, 0)
    assert first.numbers == again.numbers
    assert first.numbers["unread"] == labels["unread"].sum() == 2 * labels["tree"].n_unique()
    assert (labels.filter(pl.col("hard").is_not_null())["k"] == 3).all()


def test_scores_of_a_judge_and_those_that_another_file_replaced(work, tmp_path):
    (report,) = write_judgements(work, JudgeConfig(("calm",), per_task=1))
    scores = read(work, "scores", "subgoals")
    roots, steps = scores.filter(pl.col("node") == 0), scores.filter(pl.col("node") > 0)
    assert set(roots["text"]) == {'["add", "answer"]'}
    assert set(steps["text"]) == {'["answer"]', None}
    assert report.rows["scores"] == scores.height
    assert report.numbers["untold"] == steps["text"].null_count() > 0
    refuse_replaced(work, "scores")
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"tree": roots["tree"][0], "node": 0, "text": "[]"}))
    write_scores(work, ScoresConfig("subgoals", str(path)))
    (again,) = write_judgements(work, JudgeConfig(("calm",), per_task=1))
    assert again.fresh == 1
    assert read(work, "scores", "subgoals").equals(scores)


def test_a_judge_without_room_for_its_prompt_says_nothing(work):
    (report,) = write_judgements(work, JudgeConfig(("lare",), params='{"candidates": 1, "retries": 0}'))
    assert report.numbers["scored_share"] == 0
    assert (report.numbers["trials"], report.numbers["rejected"]) == (1, 1)
    assert read(work, "scores", "latent_reward")["value"].null_count() == report.rows["scores"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (JudgeConfig(("gemprm",)), "judge 'gemprm' does not exist; did you mean 'genprm'?"),
        (JudgeConfig(()), "0 judges are given"),
        (JudgeConfig(("capo", "calm"), params='{"k": 1}'), "2 judges are given; name one or more; with parameters"),
        (JudgeConfig(("capo",), params='{"vote": "loud"}'), "capo vote 'loud' is not known"),
        (JudgeConfig(per_task=-1), "per_task is -1"),
    ],
)
def test_what_is_asked_wrongly(work, config, said):
    with pytest.raises(BadConfig, match=said):
        write_judgements(work, config)


def test_labels_of_judges_are_not_computed(work):
    with pytest.raises(BadConfig, match="labels of genprm come from elsewhere; run `branchpoint judge --judge genprm`"):
        write_step_labels(work, StepLabelConfig("genprm"))


class TestReport:
    def test_every_labeller_against_the_oracle(self, work, tmp_path, monkeypatch, capsys):
        write_judgements(work, JudgeConfig(("genprm",), per_task=0))
        for labeller in ("monte_carlo", "tool", "groundedprm"):
            write_step_labels(work, StepLabelConfig(labeller))
        report = write_label_agreement(work)
        assert report.numbers["genprm"] == report.numbers["tool"] == 1.0
        evals = read(work, "evals", "label_agreement")
        figures = {(row["policy"], row["metric"]): row["value"] for row in evals.iter_rows(named=True)}
        assert figures["step_labels/genprm", "first_error_f1"] == figures["step_labels/genprm", "label_auc"] == 1.0
        assert figures["step_labels/genprm", "kappa:tool"] == figures["step_labels/tool", "kappa:genprm"]
        assert figures["step_labels/tool", "tokens_per_label"] == 0 < figures["step_labels/genprm", "tokens_per_label"]
        assert 0 < figures["step_labels/tool", "labelled_share"] < 1 == figures["step_labels/genprm", "labelled_share"]
        assert beyond_chance(work) == (True, "4 labellers agree with the oracle beyond chance")
        assert draw_label_agreement(work).stat().st_size > 10_000
        assert write_label_agreement(work).fresh == 0
        monkeypatch.setenv("BRANCHPOINT_STORE", str(work.settings.store))
        assert cli.main(["report", "labels", "--picture", str(tmp_path / "labels.png")]) == 0
        assert "first error F1" in capsys.readouterr().out
        assert (tmp_path / "labels.png").exists()

    def test_labels_chosen_by_policy(self, work):
        for labeller in ("monte_carlo", "tool"):
            write_step_labels(work, StepLabelConfig(labeller))
        chosen = choose_labels(read(work, "step_labels"))
        assert chosen["labeller"].to_list().count("tool") == read(work, "step_labels", "tool").height
        assert chosen.select("tree", "node").is_duplicated().sum() == 0

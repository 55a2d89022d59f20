"""The credit report of a scripted round: what is stored, what the command says, what the asset shows."""

from __future__ import annotations

import base64
import json
import warnings
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from environments.played_round import SUMS, played
from scipy.stats import spearmanr
from scripted_round import Pupil, changed, copied, read, run, scripted

from assets.annotate import agreement
from assets.partitions import add_partitions
from assets.resources import Workplace
from pipeline import cli
from pipeline.credit_report import METRICS
from pipeline.credit_report.lines import Line, lines_of, table
from pipeline.credit_report.picture import draw_report
from pipeline.stages import side_by_side
from pipeline.stages.agreement import write_agreement
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.judge import JudgeConfig, write_judgements
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.scores import ScoresConfig, write_scores
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A round, made once."""
    with scripted(tmp_path_factory.mktemp("report"), Pupil()) as work:
        run(work)
        yield work


def figures(work: Work) -> dict[str, Line]:
    return {line.name: line for line in lines_of(read(work, "evals", "agreement"))}


def tasks_of(work: Work) -> list[str]:
    return pl.concat(work.shards().values())["task"].to_list()


def test_the_report_of_a_round(made: Work):
    lines = figures(made)
    assert set(lines) == {"credit/grpo", "credit/spo_tree", "credit/tempo", "step_labels/monte_carlo"}
    assert all(metric in METRICS for line in lines.values() for metric in line.figures)
    tree, group, labels = (lines[name] for name in ("credit/spo_tree", "credit/grpo", "step_labels/monte_carlo"))
    assert tree.value("first_error_accuracy") == labels.value("first_error_accuracy") == 1
    assert group.value("first_error_accuracy") == 0
    assert tree.figures["first_error_accuracy"].count == 6  # one attempt in two of twelve
    assert group.value("extra_tokens_per_1k") == 0
    branches = read(made, "nodes", "trees").filter("sampled")["token_count"].sum()
    steps = read(made, "credit", "spo_tree").filter(pl.col("node") > 0).height
    assert tree.figures["extra_tokens_per_1k"][:2] == (pytest.approx(1000 * branches / steps), steps)
    assert "calibration_error" not in group.figures
    assert 0 <= tree.value("calibration_error") < 0.5
    assert group.value("resample_spread") > tree.value("resample_spread") >= 0
    assert "zero_share" not in labels.figures
    assert "resample_spread" not in labels.figures


def test_numbers_begin_with_the_best(made: Work):
    numbers = write_agreement(made).numbers
    assert list(numbers.values()) == sorted(numbers.values(), reverse=True)
    assert numbers == {name: line.value("oracle_auc") for name, line in figures(made).items()}


def test_figures_are_those_of_the_stored_credit(made: Work):
    lines = figures(made)
    one, other = (read(made, "credit", name).filter(pl.col("node") > 0) for name in ("grpo", "spo_tree"))
    both = one.join(other, on=["tree", "node"])
    found = spearmanr(both["advantage"], both["advantage_right"]).statistic
    assert lines["credit/grpo"].alike["credit/spo_tree"][:2] == (pytest.approx(found), both.height)
    assert lines["credit/spo_tree"].alike["credit/grpo"].value == pytest.approx(found)
    zero = (other["advantage"].abs() < 1e-9).mean()
    assert lines["credit/spo_tree"].value("zero_share") == pytest.approx(zero)


def test_the_report_is_made_anew_where_credit_is_other(made: Work, tmp_path: Path):
    work = copied(made, tmp_path)
    assert write_agreement(work).fresh == 0
    for place in work.store.places("credit", stage="tempo"):
        work.store.drop("credit", place)
    assert write_agreement(work).fresh == 1
    assert "credit/tempo" not in figures(work)
    assert "credit/tempo" not in figures(work)["credit/grpo"].alike


def test_a_suite_without_an_oracle(made: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(side_by_side, "read_sum", lambda question: None)
    work, before = copied(made, tmp_path), figures(made)
    for place in work.store.places("evals", stage="agreement"):
        work.store.drop("evals", place)
    report = write_agreement(work)
    assert report.numbers == {}
    absent = {"oracle_auc", "first_error_accuracy"}
    for policy, line in figures(work).items():
        assert line.figures == {name: one for name, one in before[policy].figures.items() if name not in absent}
        assert line.alike == before[policy].alike
    columns, _ = table(list(figures(work).values()))
    assert columns[1] == "calibration"
    draw_report(list(figures(work).values()), tmp_path / "none.png", title="t")
    assert (tmp_path / "none.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_a_file_cost_nobody_knows_what(made: Work, tmp_path: Path):
    work, file = copied(made, tmp_path), tmp_path / "scores.jsonl"
    steps = read(work, "nodes", "rollouts").filter(pl.col("node") > 0)
    steps.select("tree", "node", value=pl.col("token_count") / 10).write_ndjson(file)
    write_scores(work, ScoresConfig("latent_reward", str(file)))
    write_credit(work, CreditConfig(("lare",)))
    write_agreement(work)
    line = figures(work)["credit/lare"].figures
    assert line["extra_tokens_per_1k"] == line["extra_passes_per_1k"] == (None, steps.height, None, None)
    assert line["resample_spread"].value == 0  # its own score, whatever it is compared to
    assert line["resample_spread"].count > 0


def test_branches_of_rollouts_are_beyond_the_plain_attempts(tmp_path: Path):
    with scripted(tmp_path, Pupil()) as work:
        write_tasks(work)
        write_rollouts(work, RolloutConfig("pppo"))
        nodes = read(work, "nodes", "rollouts")
        write_credit(work, CreditConfig(("grpo", "spo_tree")))
        write_agreement(work)
        found = figures(work)
    branches = nodes.filter("sampled", origin="branch")["token_count"].sum()
    steps = found["credit/spo_tree"].figures["zero_share"].count
    assert found["credit/spo_tree"].value("extra_tokens_per_1k") == pytest.approx(1000 * branches / steps)
    assert branches > 0 == found["credit/grpo"].value("extra_tokens_per_1k")


def judged(text: str, sample: int) -> str:
    if "List the subgoals" in text:
        return '{"subgoals": ["add"]}'
    return '{"achieved": ["add"]}' if "were achieved by" in text else f"#### {sample}"


def test_what_a_judge_decoded_is_counted_once(tmp_path: Path):
    with played(tmp_path, 'name = "tools"\ntools = ["calculator"]\nschemas = false', SUMS, judged) as work:
        write_tasks(work)
        write_episodes(work, EpisodeConfig(group=3))
        write_judgements(work, JudgeConfig(("calm",), per_task=0))
        write_credit(work, CreditConfig(("calm", "grpo")))
        write_agreement(work)
        found = {line.name: line for line in lines_of(work.store.read("evals", work.places("evals")))}
        asked = work.store.read("requests", work.places("requests", stage="calm"))
    calm = found["credit/calm"]
    tokens, steps = asked["decoded_tokens"].sum(), calm.figures["zero_share"].count
    assert calm.figures["extra_tokens_per_1k"][:2] == (1000 * tokens / steps, steps)
    assert tokens > 0
    assert calm.value("extra_passes_per_1k") == found["credit/grpo"].value("extra_tokens_per_1k") == 0
    assert calm.value("resample_spread") == 0


def test_shards_do_not_matter(made: Work, tmp_path: Path):
    with scripted(tmp_path, Pupil()) as work:
        smaller = changed(work, tokens=("max_tokens = 96", "max_tokens = 96\nshard_tasks = 1"))
        run(smaller)
        assert len(smaller.places("nodes", stage="rollouts")) == 3
        lines, whole = figures(smaller), figures(made)
        parts = list(side_by_side.slices(smaller, [], smaller.shards(), most=2))
    assert [task for part in parts for task in part.nodes["task"].unique()] == tasks_of(made)[::2]
    for policy, line in lines.items():
        for kept in ("figures", "alike"):
            one, other = getattr(line, kept), getattr(whole[policy], kept)
            assert {key: figure.value for key, figure in one.items()} == pytest.approx(
                {key: figure.value for key, figure in other.items()}
            )


def test_only_so_many_tasks_are_looked_at(made: Work):
    sources = side_by_side.read_sources(made)
    (part,) = side_by_side.slices(made, sources, made.shards(), most=2)
    assert part.nodes["task"].unique(maintain_order=True).to_list() == tasks_of(made)[::2]


def ask(work: Work, capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["report", *arguments, "--store", str(work.settings.store)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_prints_a_line_a_method(made: Work, capsys):
    code, said, _ = ask(made, capsys, "credit")
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == "credit of suite three, round r0"
    assert lines[2].split()[:3] == ["method", "AUC", "95"]
    assert [line.split()[0] for line in lines[4:8]] == ["spo_tree", "tempo", "step_labels/monte_carlo", "grpo"]
    assert lines[4].split()[1] == "1.000"
    assert lines[7].split()[5:7] == ["0.000", "-"]  # of whole attempts, without values
    assert sum(line.startswith(("AUC ", "first error ", "spread ")) for line in lines) == 3


def test_the_command_gives_json(made: Work, capsys):
    code, said, _ = ask(made, capsys, "credit", "--suite", "three", "--round", "r0", "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert rows[0]["policy"] == "credit/spo_tree"
    assert set(rows[0]) == {"suite", "round", "policy", "spearman", *METRICS}
    assert rows[0]["oracle_auc"]["value"] == 1.0
    assert rows[-1]["calibration_error"] is None
    assert rows[0]["spearman"]["credit/grpo"] == rows[-1]["spearman"]["credit/spo_tree"]


def test_the_command_draws(made: Work, capsys, tmp_path: Path):
    picture = tmp_path / "credit.png"
    assert ask(made, capsys, "credit", "--picture", str(picture))[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["credit.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("credits",), "report 'credits' does not exist; did you mean 'credit'? choose one of credit"),
        (("credit", "--suite", "thre"), "suite 'thre' does not exist; did you mean 'three'? choose one of three"),
        (("credit", "--round", "r1"), "round 'r1' does not exist; did you mean 'r0'? choose one of r0"),
        (("credit", "--pictur", "a.png"), "'--pictur' is not understood; did you mean '--picture'?"),
        (("credit", "--picture", "a.jpg"), "picture a.jpg is no PNG; give a name that ends in .png"),
        (("credit", "--picture", "/none/a.png"), "cannot write /none/a.png: No such file or directory; give another"),
    ],
)
def test_the_command_refuses_in_one_line(made: Work, capsys, arguments, message):
    code, out, err = ask(made, capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"branchpoint: {message}")


def test_a_round_without_a_report_says_what_to_run(made: Work, capsys, tmp_path: Path):
    work = copied(made, tmp_path)
    (place,) = work.store.places("evals", stage="agreement")
    old = work.store.read("evals", [place]).filter(pl.col("metric") == "oracle_auc")
    again = "run `branchpoint agreement --suite three --round r0`"
    for rows, message in (
        (old, f"the figures of round r0 of three are of an earlier version; {again} again"),
        (old.clear(), f"round r0 of three has no credit; run `branchpoint credit` first, then {again}"),
        (None, f"round r0 of three has no credit report; {again} first"),
    ):
        if rows is None:
            work.store.drop("evals", place)
        else:
            work.store.write("evals", rows, place, inputs={})
        assert ask(work, capsys, "credit") == (2, "", f"branchpoint: {message}\n")


def test_of_several_rounds_one_is_named(made: Work, capsys, tmp_path: Path):
    work = copied(made, tmp_path)
    (place,) = work.store.places("evals", stage="agreement")
    other = type(place)(place.suite, "r1", place.stage, place.shard)
    work.store.write("evals", work.store.read("evals", [place]), other, inputs={})
    code, _, err = ask(work, capsys, "credit")
    assert (code, err) == (
        2,
        "branchpoint: any of these may be meant: three r0, three r1; name one with --suite and --round\n",
    )
    assert ask(work, capsys, "credit", "--round", "r1")[0] == 0


@pytest.mark.filterwarnings("ignore")
def test_the_asset_shows_the_picture(made: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = copied(made, tmp_path)
    monkeypatch.setenv("BRANCHPOINT_SUITES", str(work.settings.suites))
    with warnings.catch_warnings(), dg.DagsterInstance.ephemeral() as instance:
        warnings.simplefilter("ignore")
        outcome = dg.materialize(
            [agreement],
            instance=instance,
            partition_key=add_partitions(instance, suite="three", round="r0"),
            resources={"workplace": Workplace(store=str(work.settings.store))},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    (done,) = outcome.asset_materializations_for_node("agreement")
    drawn = done.metadata["picture"].value.partition("base64,")[2].rstrip(")")
    assert base64.b64decode(drawn).startswith(b"\x89PNG")

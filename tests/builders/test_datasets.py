"""Datasets out of training rows: filters counted row by row, balance, mixtures, shapes, splits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from datasets import load_dataset
from exchange import imported
from scripted_round import Pupil, run, scripted

from pipeline.builders.mixture import balanced, lowest, row_keys, shared_out
from pipeline.builders.pair_figures import PairFigures, shared_tokens
from pipeline.builders.prm_rows import prm800k_rows
from pipeline.builders.recipe import Recipe, Source, check_recipe, read_filters, read_recipe
from pipeline.builders.row_filters import filter_rows, longer_side
from pipeline.builders.shapes import SHAPES, Told
from pipeline.errors import BadConfig
from pipeline.generation.policies import find_policy
from pipeline.generation.tokens import tokens_of
from pipeline.stages.asked import told_of
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.datasets import BuildConfig, write_dataset
from pipeline.stages.hygiene import HygieneConfig, write_hygiene
from pipeline.stages.prm_steps import write_prm_steps
from pipeline.stages.rl_prompts import write_rl_prompts
from pipeline.stages.rl_samples import RlSampleConfig, write_rl_samples
from pipeline.stages.unpaired import write_unpaired
from pipeline.stages.work import Work
from schemas import RlSamples
from schemas.base import column_types

PAIRS = pl.DataFrame(
    {
        "task": ["a", "a", "a", "b"],
        "source": ["outcome", "step", "outcome", "outcome"],
        "margin": [1.0, 1.0, 0.25, 1.0],
        "prompt_ids": [[1], [1], [1], [1, 2, 3]],
        "chosen_ids": [[1, 2], [1], [1], [1]],
        "rejected_ids": [[1], [1, 2, 3], [1], [1, 2]],
    }
)

NOTHING = Told("\n", pl.DataFrame(schema={"task": pl.String}))


class TestFilters:
    @pytest.mark.parametrize(
        ("filters", "dropped"),
        [
            ({"max_tokens": 3}, {"max_tokens": 2}),
            ({"min_tokens": 3}, {"min_tokens": 1}),
            ({"sources": ["step"]}, {"sources": 3}),
            ({"least_margin": 0.5}, {"least_margin": 1}),
            ({"length_ratio": 2}, {"length_ratio": 1}),
            ({"per_task": 1}, {"per_task": 2}),
            ({"sources": ["outcome"], "per_task": 1}, {"sources": 1, "per_task": 1}),
            ({"per_task": 1, "sources": ["outcome"]}, {"per_task": 2, "sources": 0}),
        ],
    )
    def test_every_row_left_out_is_counted(self, filters, dropped):
        found = filter_rows(PAIRS, "pairs", filters)
        assert found.dropped == dropped
        assert len(found.rows) == len(PAIRS) - sum(dropped.values())

    def test_refusals(self, tmp_path):
        for recipe, said in (
            (Recipe(filters={"pass": 1}), "pairs has no filter 'pass'"),
            (Recipe(filters={"max_tokens": "9"}), "max_tokens is '9'; give a value of type int"),
            (Recipe(filters={"max_tokens": True}), "max_tokens is True"),
            (Recipe("sft", filters={"least_margin": 1}), "sft has no filter 'least_margin'"),
            (Recipe("sft", balance=True), "no sides to balance"),
            (Recipe("odd"), "recipe shape 'odd' is not known"),
            (Recipe(held_out=1.0), "held_out is 1"),
            (Recipe(sources=(Source(share=-1),)), "a share is negative"),
            (Recipe(sources=()), "no source"),
        ):
            with pytest.raises(BadConfig, match=said):
                check_recipe(recipe)
        (tmp_path / "mix.toml").write_text('shape = "kto"\nmixture = 1\n')
        with pytest.raises(BadConfig, match="unknown field `mixture`"):
            read_recipe(tmp_path / "mix.toml")
        with pytest.raises(BadConfig, match="cannot be read"):
            read_recipe(tmp_path / "none.toml")
        with pytest.raises(BadConfig, match="no JSON object"):
            read_filters("[1]")


def test_figures_of_pairs():
    figures = PairFigures()
    figures.add(PAIRS[:2])
    figures.add(PAIRS[2:])
    found = figures.figures()
    assert shared_tokens(PAIRS).tolist() == [1, 1, 1, 1]
    assert shared_tokens(
        pl.DataFrame({"chosen_ids": [[1, 2, 3], [4]], "rejected_ids": [[1, 2, 9, 9], [5]]})
    ).tolist() == [2, 0]
    assert (found["pairs"], found["margin_mean"], found["margin_q50"]) == (4, 0.8125, 1.0)
    assert (found["chosen_longer_share"], found["rejected_longer_share"]) == (0.25, 0.5)
    assert (found["mean_chosen_less_rejected_tokens"], found["mean_shared_tokens"]) == (-0.5, 1.0)
    assert PairFigures().figures() == {}


class TestMixture:
    def test_shares(self):
        assert shared_out([100, 30, 7], [2, 1, 0]) == [60, 30, 7]
        assert shared_out([5, 5], [0, 0]) == [5, 5]

    def test_balance(self):
        keys = np.array([5, 1, 3, 2, 4], np.uint64)
        assert longer_side(PAIRS).tolist() == [1, -1, 0, -1]
        assert balanced(keys[:4], longer_side(PAIRS)).tolist() == [True, True, True, False]
        assert lowest(keys, 2).tolist() == [False, True, False, True, False]

    def test_what_is_drawn_hangs_on_the_row_alone(self):
        assert row_keys(["b", "a"])[1] == row_keys(["a"])[0] != row_keys(["a"], seed=1)[0]


def test_samples_in_the_columns_of_trainers():
    row = dict.fromkeys(column_types(RlSamples)) | {"task": "t", "row": "t/m/1", "tree": "t@r", "reward": 1.0}
    row |= {"prompt_ids": [7], "answer_ids": [1, 2], "loss_mask": [True, False], "logprobs": [-0.5, None]}
    rows = pl.DataFrame([row | {"advantages": [0.25, None]}], schema=column_types(RlSamples))
    assert SHAPES["verl"].shape(rows, NOTHING).drop("task", "row").row(0, named=True) == {
        "prompt_ids": [7],
        "response_ids": [1, 2],
        "response_mask": [1, 0],
        "response_logprobs": [-0.5, 0.0],
        "advantages": [0.25, 0.0],
        "reward_score": 1.0,
        "uid": "t@r",
    }
    trl = SHAPES["grpo_batch"].shape(rows, NOTHING).row(0, named=True)
    assert (trl["completion_ids"], trl["tool_mask"]) == ([1, 2], [1, 0])
    assert (trl["sampling_per_token_logps"], trl["advantages"]) == ([-0.5, 0.0], [0.25, 0.0])


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        for write in (write_unpaired, write_best_answers, write_prm_steps, write_rl_prompts, write_hygiene):
            write(made)
        write_credit(made, CreditConfig(("grpo",)))
        write_rl_samples(made, RlSampleConfig("grpo"))
        yield made


class TestBuild:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape_loads(self, work: Work, tmp_path, shape):
        report = write_dataset(work, BuildConfig(shape=shape, folder=str(tmp_path / "set")))
        rows = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
        stored = work.store.read(SHAPES[shape].table, work.places(SHAPES[shape].table))
        assert report.rows == {f"{shape} train": len(rows)}
        unfit = report.numbers[SHAPES[shape].unfit] if SHAPES[shape].fits else 0
        assert report.numbers["read"] == len(stored) == len(rows) + report.numbers["repeated"] + unfit
        assert set(rows["task"]) <= set(stored["task"])

    def test_texts_go_on_where_the_prompt_ends(self, work: Work):
        told = told_of(work)
        pairs = work.store.read("pairs", work.places("pairs")).filter(~pl.col("source").is_in(["retry"]))
        assert {"outcome", "intervention"} <= set(pairs["source"])
        tokens = tokens_of(find_policy("tiny", policies=work.settings.policies))
        for stored, shaped in zip(pairs.to_dicts(), SHAPES["dpo"].shape(pairs, told).to_dicts(), strict=True):
            said = tokens.decode([*stored["prompt_ids"], *stored["chosen_ids"]])
            question = told.tasks.filter(task=stored["task"])["question"][0]
            assert shaped["prompt"].startswith(question + "\n")
            assert (shaped["prompt"] + shaped["chosen"]).removeprefix(question + "\n") in said

    def test_whole_answers_are_messages(self, work: Work):
        told = told_of(work)
        rows = work.store.read("pairs", work.places("pairs"))
        fits = SHAPES["dpo_chat"].fits(rows, told)
        assert set(rows.filter(fits)["source"]) <= {"outcome", "retry"}
        assert set(rows.filter(~fits)["source"]) >= {"intervention"}
        row = SHAPES["dpo_chat"].shape(rows.filter(fits), told).row(0, named=True)
        question = told.tasks.filter(task=row["task"])["question"][0]
        assert row["prompt"] == work.pack.messages("solve", question=question)
        assert row["chosen"] == [{"role": "assistant", "content": rows.filter(fits)["chosen"][0]}]

    def test_verl_rows_say_their_split_and_place(self, work: Work, tmp_path):
        recipe = tmp_path / "v.toml"
        recipe.write_text('shape = "verl_prompts"\nheld_out = 0.5\nseed = 1\n')
        report = write_dataset(work, BuildConfig(recipe=str(recipe), folder=str(tmp_path / "set")))
        assert set(report.rows) == {"verl_prompts train", "verl_prompts held_out"}
        places = dict(told_of(work).tasks["task", "index"].iter_rows())
        for split in ("train", "held_out"):
            for row in load_dataset(str(tmp_path / "set"), split=split, cache_dir=str(tmp_path / "cache")):
                assert (row["extra_info"]["split"], row["extra_info"]["index"]) == (split, places[row["task"]])

    def test_undecided_attempts_are_counted(self, work: Work):
        rows = work.store.read("prm_steps", work.places("prm_steps")).head(2)
        rows = rows.with_columns(
            hard=pl.Series([[None, True], [True, None]]), steps=pl.Series([["a", "b"], ["c", "d"]])
        )
        assert SHAPES["prm"].fits(rows, NOTHING).to_list() == [False, True]
        assert SHAPES["prm"].shape(rows[1:], NOTHING)["completions"].to_list() == [["c"]]

    def test_soft_labels_as_far_as_they_are_known(self, work: Work):
        rows = work.store.read("prm_steps", work.places("prm_steps")).head(3)
        soft = [[0.5, 0.25], [1.0, None], [None, 0.5]]
        rows = rows.with_columns(soft=pl.Series(soft, dtype=pl.List(pl.Float32)), steps=pl.Series([["a", "b"]] * 3))
        shape = SHAPES["prm_soft"]
        assert shape.fits(rows, NOTHING).to_list() == [True, True, False]
        shaped = shape.shape(rows[:2], NOTHING)
        assert shaped["completions"].to_list() == [["a", "b"], ["a"]]
        assert shaped["labels"].to_list() == [[0.5, 0.25], [1.0]]
        assert shaped.schema["labels"] == pl.List(pl.Float32)

    def test_labels_of_a_shape_tell_its_rows_apart(self, work: Work, tmp_path):
        """An attempt of one step, of which two labellers differ by soft labels alone."""
        alone, (place, *_) = replace(work, settings=replace(work.settings, store=tmp_path)), work.places("prm_steps")
        one = work.store.read("prm_steps", [place]).head(1)
        one = one.with_columns(pl.col("steps", "step_nodes", "step_ends").list.head(1), hard=pl.lit([True]))
        for name, soft in (("one", 0.5), ("other", 0.25)):
            said = {"labeller": pl.lit(name), "row": pl.lit(name), "soft": pl.lit([soft], pl.List(pl.Float32))}
            alone.store.write("prm_steps", one.with_columns(**said), replace(place, stage=name), inputs={})
        for tasks in work.store.places("tasks"):
            alone.store.write("tasks", work.store.read("tasks", [tasks]), tasks, inputs={})
        kept = {
            shape: write_dataset(alone, BuildConfig(shape=shape, folder=str(tmp_path / shape))).rows[f"{shape} train"]
            for shape, of in SHAPES.items()
            if of.table == "prm_steps"
        }
        assert kept == {"prm": 1, "prm_soft": 2, "prm800k": 2, "math_shepherd": 1}

    def test_prm800k_rows_are_read_as_annotations(self, work: Work, tmp_path):
        """By our import and by the walk of TRL's script; an undecided step is rated 0, an unlabelled one not at all."""
        told, rows = told_of(work), work.store.read("prm_steps", work.places("prm_steps")).head(2)
        said = {
            "hard": [[True, None], [False, None]],
            "soft": [[0.75, 0.5], [0.0, None]],
            "steps": [["a", "b"], ["c", "d"]],
        }
        shaped = SHAPES["prm800k"].shape(rows.with_columns(**{name: pl.Series(said[name]) for name in said}), told)
        records = shaped.drop("task", "row").to_dicts()
        ratings = [[step["completions"][0]["rating"] for step in record["label"]["steps"]] for record in records]
        assert ratings == [[1, 0], [-1, None]]
        answers = dict(told.tasks["question", "answer"].iter_rows())
        assert all(answers[one["question"]["problem"]] == one["question"]["ground_truth_answer"] for one in records)
        (walked,) = prm800k_rows("q", records[0]["label"]["steps"])
        assert (walked.completions, walked.labels) == (["a", "b"], [True, False])
        foreign = imported.work_at(tmp_path)
        imported.bring_in(foreign, "prm800k", imported.as_lines(tmp_path / "a.jsonl", *records))
        nodes = imported.table(foreign, "nodes").select("tree", "node", "text")
        labels = imported.table(foreign, "step_labels").join(nodes, on=["tree", "node"])
        assert set(labels.select("text", "hard", "version").rows()) == {
            (text, hard, rows["labeller"][0]) for text, hard in (("a", True), ("b", None), ("c", False))
        }

    def test_prompts_are_what_the_policy_was_sent(self, work: Work):
        told, tokens = told_of(work), tokens_of(find_policy("tiny", policies=work.settings.policies))
        rows = work.store.read("rl_prompts", work.places("rl_prompts"))
        for stored, shaped in zip(rows.to_dicts(), SHAPES["grpo"].shape(rows, told).to_dicts(), strict=True):
            assert tokens.render(shaped["prompt"]).tolist() == stored["prompt_ids"]
        played = told._replace(tasks=told.tasks.with_columns(asked=pl.lit(None, told.tasks.schema["asked"])))
        assert not SHAPES["grpo"].fits(rows, played).any(), "an environment asks in words of its own"

    def test_a_question_of_two_suites_is_on_one_side(self, work: Work, tmp_path):
        settings = replace(work.settings, store=tmp_path / "store", suites=tmp_path)
        text = (work.settings.suites / "three.toml").read_text()
        (tmp_path / "three.toml").write_text(text)
        (tmp_path / "other.toml").write_text(text.replace('"three"', '"other"', 1))
        both = replace(work, settings=settings)
        for table in ("tasks", "nodes", "verdicts", "sft", "hygiene"):
            for place in work.store.places(table):
                rows = work.store.read(table, [place])
                both.store.write(table, rows, place, inputs={})
                names = pl.col("^(task|tree|episode|row|near_group|suite)$")
                again = rows.with_columns(names.str.replace("^three", "other"))
                both.store.write(table, again, replace(place, suite="other"), inputs={})
        mix = tmp_path / "mix.toml"
        sources = '[[sources]]\n[[sources]]\nsuite = "other"\n'
        mix.write_text(f'shape = "sft"\ndistinct = false\nheld_out = 0.5\nseed = 3\n{sources}')
        write_dataset(both, BuildConfig(recipe=str(mix), folder=str(tmp_path / "set")))
        sides = [{name.partition("/")[2] for name in load(tmp_path / "set", split)} for split in ("train", "held_out")]
        assert all(sides)
        assert not set.intersection(*sides)

    def test_what_any_round_withholds_is_left_out(self, work: Work, tmp_path):
        task = work.store.tasks("three", split="train")["task"][0]
        both = replace(work, settings=replace(work.settings, store=tmp_path / "store"))
        for table in ("tasks", "nodes", "verdicts", "sft", "hygiene"):
            for place in work.store.places(table):
                rows = work.store.read(table, [place])
                both.store.write(table, rows, place, inputs={})
                if table == "hygiene":
                    found = pl.when(pl.col("task") == task).then(pl.lit("secret")).alias("withheld")
                    rows = rows.with_columns(found)
                if table != "tasks":
                    both.store.write(table, rows, replace(place, round="r1"), inputs={})
        mix = tmp_path / "mix.toml"
        mix.write_text('shape = "sft"\nclean = true\n[[sources]]\n[[sources]]\nround = "r1"\n')
        report = write_dataset(both, BuildConfig(recipe=str(mix), folder=str(tmp_path / "set")))
        assert report.numbers["unclean"] == 2
        assert task not in load(tmp_path / "set", "train")

    def test_a_recipe(self, work: Work, tmp_path):
        (tmp_path / "mix.toml").write_text(
            'shape = "dpo"\nbalance = true\nheld_out = 0.4\n[filters]\nmax_tokens = 500\n'
            '[[sources]]\nshare = 3\nfilters = { sources = ["outcome"] }\n'
            '[[sources]]\nshare = 1\nfilters = { sources = ["step", "retry", "intervention"] }\n'
        )
        config = BuildConfig(recipe=str(tmp_path / "mix.toml"), folder=str(tmp_path / "set"))
        report = write_dataset(work, config)
        about = json.loads((tmp_path / "set" / "dataset.json").read_text())
        one, other = about["sources"]
        for source in about["sources"]:
            assert source["read"] == source["kept"] + sum(source["dropped"].values())
        assert one["kept"] == pytest.approx(3 * other["kept"], abs=2)
        assert sum(report.rows.values()) == one["kept"] + other["kept"] > 0
        assert report.notes[0].startswith("three/r0: ")
        figures = about["preference"]
        assert figures["pairs"] == one["kept"] + other["kept"]
        assert figures["chosen_longer_share"] == figures["rejected_longer_share"], "balanced"
        tasks = {split: set(load(tmp_path / "set", split)) for split in about["splits"]}
        assert len(tasks) < 2 or not set.intersection(*tasks.values())
        assert write_dataset(work, config).fresh == 0

    def test_the_same_bytes_again(self, work: Work, tmp_path):
        for name in ("a", "b"):
            write_dataset(work, BuildConfig("", "kto", balance=True, folder=str(tmp_path / name)))
        (one,), (other,) = (list((tmp_path / name / "data").iterdir()) for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()

    def test_withheld_tasks_are_left_out(self, work: Work, tmp_path):
        task = work.store.tasks("three", split="train").row(0, named=True)
        (tmp_path / "taken.txt").write_text(task["question"])
        try:
            write_hygiene(work, HygieneConfig(benchmarks=(str(tmp_path / "taken.txt"),)))
            report = write_dataset(work, BuildConfig(shape="sft", clean=True, folder=str(tmp_path / "set")))
        finally:
            write_hygiene(work)
        assert (report.numbers["read"], report.numbers["unclean"], report.rows) == (3, 1, {"sft train": 2})
        assert task["task"] not in load(tmp_path / "set", "train")

    def test_refusals(self, work: Work, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("x")
        with pytest.raises(BadConfig, match="is no dataset; move it away"):
            write_dataset(work, BuildConfig(folder=str(tmp_path / "mine")))
        for unnamed in (".", "/", f"{tmp_path}/x/.."):
            with pytest.raises(BadConfig, match="does not name the dataset's folder; end it with a name"):
                write_dataset(work, BuildConfig(folder=unnamed))
        with pytest.raises(BadConfig, match="no sft of three/r9"):
            write_dataset(work, BuildConfig(folder=str(tmp_path / "x"), recipe=recipe(tmp_path)))
        with pytest.raises(BadConfig, match="other options too"):
            write_dataset(work, BuildConfig(shape="sft", recipe=recipe(tmp_path)))
        with pytest.raises(BadConfig, match="no row of three/r0 is left: max_tokens leaves out 3"):
            write_dataset(work, BuildConfig(shape="sft", filters='{"max_tokens": 1}', folder=str(tmp_path / "x")))
        assert not (tmp_path / "x").exists()


def recipe(folder) -> str:
    (folder / "r9.toml").write_text('shape = "sft"\n[[sources]]\nround = "r9"\n')
    return str(folder / "r9.toml")


def load(folder, split: str) -> list[str]:
    return load_dataset(str(folder), split=split, cache_dir=str(folder.parent / "cache"))["task"]

"""Datasets out of training rows: filters counted row by row, balance, mixtures, shapes, splits."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from datasets import load_dataset
from scripted_round import Pupil, run, scripted

from pipeline.builders.mixture import balanced, lowest, row_keys, shared_out
from pipeline.builders.pair_figures import PairFigures, shared_tokens
from pipeline.builders.recipe import Recipe, Source, check_recipe, read_filters, read_recipe
from pipeline.builders.row_filters import filter_rows, longer_side
from pipeline.builders.shapes import SHAPES
from pipeline.errors import BadConfig
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
    assert SHAPES["verl"].shape(rows).drop("task", "row").row(0, named=True) == {
        "prompt_ids": [7],
        "response_ids": [1, 2],
        "response_mask": [1, 0],
        "response_logprobs": [-0.5, 0.0],
        "advantages": [0.25, 0.0],
        "reward_score": 1.0,
        "uid": "t@r",
    }
    trl = SHAPES["grpo_batch"].shape(rows).row(0, named=True)
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
        assert report.numbers["read"] == len(stored) == len(rows) + report.numbers["repeated"]
        assert set(rows["task"]) <= set(stored["task"])

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

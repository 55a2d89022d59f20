"""TRL's own preparation of data sets takes the rows as they are stored and as they are shaped."""

from __future__ import annotations

import polars as pl
import pytest
from datasets import Dataset
from scripted_round import Pupil, run, scripted

from pipeline.builders.shapes import SHAPES
from pipeline.generation.policies import find_policy
from pipeline.stages.asked import told_of
from pipeline.stages.best_answers import write_best_answers
from pipeline.stages.rl_prompts import write_rl_prompts
from pipeline.stages.unpaired import write_unpaired
from pipeline.stages.work import Work

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")
COMMON = {"report_to": "none", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4, "max_steps": 1}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        for write in (write_unpaired, write_best_answers, write_rl_prompts):
            write(made)
        yield made


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Model and tokenizer that are embedded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_policy("tiny", policies=tmp_path_factory.mktemp("none")).path
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def stored(work: Work, table: str) -> pl.DataFrame:
    return work.store.read(table, work.places(table))


def shaped(work: Work, shape: str) -> Dataset:
    of, told = SHAPES[shape], told_of(work)
    rows = stored(work, of.table)
    return Dataset.from_polars(of.shape(rows if of.fits is None else rows.filter(of.fits(rows, told)), told))


def test_dpo(work: Work, policy, tmp_path):
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = policy
    for rows in (Dataset.from_polars(stored(work, "pairs")), shaped(work, "dpo"), shaped(work, "dpo_chat")):
        trainer = DPOTrainer(
            model, args=DPOConfig(str(tmp_path), **COMMON), train_dataset=rows, processing_class=tokenizer
        )
        ready = trainer.train_dataset
        assert len(ready) == len(rows)
        assert all(tokenizer.decode(ids).endswith(tokenizer.eos_token) for ids in ready["chosen_ids"])


def test_kto(work: Work, policy, tmp_path):
    from trl import KTOConfig, KTOTrainer

    model, tokenizer = policy
    for rows in (Dataset.from_polars(stored(work, "unpaired")), shaped(work, "kto"), shaped(work, "kto_chat")):
        trainer = KTOTrainer(
            model, args=KTOConfig(str(tmp_path), **COMMON), train_dataset=rows, processing_class=tokenizer
        )
        ready = trainer.train_dataset
        assert len(ready) == len(rows)
        assert ready["label"] == rows["label"]
        assert all(ready["completion_ids"])


def test_sft(work: Work, policy, tmp_path):
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = policy
    rows = stored(work, "sft")
    for some, masked in (
        (Dataset.from_polars(rows), False),
        (shaped(work, "sft_tokens"), True),
        (shaped(work, "sft"), True),
        (shaped(work, "sft_chat"), True),
    ):
        trainer = SFTTrainer(
            model, args=SFTConfig(str(tmp_path), **COMMON), train_dataset=some, processing_class=tokenizer
        )
        assert len(trainer.train_dataset) == len(rows)
        batch = trainer.data_collator([trainer.train_dataset[0]])
        assert bool((batch["labels"] == -100).any()) == masked, "the prompt is trained where no mask is told"
        if "completion" not in some.column_names:
            assert batch["input_ids"][0].tolist() == rows["input_ids"][0].to_list()


def test_grpo(work: Work, policy, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = policy
    given: list[dict] = []

    def reward(completions, answer, verifier, **columns):
        given.append({"answer": answer, "verifier": verifier, **columns})
        return [float(index % 2) for index in range(len(completions))]

    rows = shaped(work, "grpo")
    args = GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=4, **COMMON)
    trainer = GRPOTrainer(model, reward, args=args, train_dataset=rows, processing_class=tokenizer)
    batch = [trainer.train_dataset[0]] * 2 + [trainer.train_dataset[1]] * 2
    ready = trainer._generate_and_score_completions(batch)
    assert ready["prompt_ids"].shape[0] == 4
    assert given[0]["answer"] == [row["answer"] for row in batch]
    assert given[0]["pass_rate"] == [row["pass_rate"] for row in batch]


def test_stepwise_rows_have_the_types_of_its_supervision(work: Work):
    from trl.data_utils import is_conversational

    from pipeline.stages.prm_steps import write_prm_steps

    write_prm_steps(work)
    rows = shaped(work, "prm")
    assert rows.features["labels"].feature.dtype == "bool"
    assert all(len(row["completions"]) == len(row["labels"]) > 0 for row in rows)
    assert not is_conversational(rows[0])

"""Trainers on a fresh two-layer Llama: what goes in is what is stored, and what comes out is a policy."""

import errno
import json
import math
import random
import shutil
import socket

import polars as pl
import pytest
import torch
from random_policy import one_thread, save_random_policy
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipeline.errors import BadConfig, BadInput, BadModel, StoreFull
from trainers import runs, saving
from trainers.data import PAIR_COLUMNS, PATCH_COLUMNS, pair_dataset, patch_dataset, token_digest
from trainers.dpo import dpo_trainer, train_dpo
from trainers.recipes import DpoRecipe, IntRecipe
from trainers.sft import sft_trainer, train_sft

FAST = {"steps": 20, "batch_size": 4, "learning_rate": 1e-3}
BARE = {**FAST, "sft_weight": 0.0}
both_ways = pytest.mark.parametrize("packed", [True, False])
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    called = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **facts: called.append(facts))
    monkeypatch.delenv("CI", raising=False)
    yield
    assert called == []


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy with weights drawn at random."""
    path = tmp_path_factory.mktemp("policies") / "fresh"
    save_random_policy(path, hidden=64, key_value_heads=2, positions=64)
    eos = LlamaConfig.from_pretrained(path).eos_token_id
    GenerationConfig(eos_token_id=[eos, 2], max_new_tokens=9).save_pretrained(path)
    return path


def draw(rng, length):
    return [rng.randrange(5, 290) for _ in range(length)]


@pytest.fixture(scope="module")
def pairs():
    """Six pairs of ragged lengths; no answer ends with the end token, one holds the padding token."""
    rng = random.Random(1)
    return pl.DataFrame(
        {
            "row": [f"pair {row}" for row in range(6)],
            "prompt_ids": [draw(rng, 4 + row) for row in range(6)],
            "chosen_ids": [[0, *draw(rng, 2 + row)] for row in range(6)],
            "rejected_ids": [draw(rng, 7 - row) for row in range(6)],
        },
        schema_overrides={name: pl.List(pl.Int32) for name in PAIR_COLUMNS},
    )


@pytest.fixture(scope="module")
def patches():
    """Six rows; three tokens of prompt and the last two tokens are not trained."""
    rng = random.Random(2)
    ids = [draw(rng, 8 + row) for row in range(6)]
    return pl.DataFrame(
        {
            "row": [f"patch {row}" for row in range(6)],
            "input_ids": ids,
            "labels": [[-100] * 3 + row[3:-2] + [-100] * 2 for row in ids],
        },
        schema_overrides={name: pl.List(pl.Int32) for name in PATCH_COLUMNS},
    )


def load(path):
    with runs.quiet():
        return AutoModelForCausalLM.from_pretrained(path)


@torch.no_grad()
def token_logprobs(model, ids):
    """`[T-1]`: log-probability of each token but the first, from logits."""
    logits = model(torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(ids) - 1), ids[1:]]


def preference(model, pairs):
    """Log-probability of each chosen answer less that of the rejected one."""
    return [
        (token_logprobs(model, prompt + chosen)[len(prompt) - 1 :].sum()).item()
        - (token_logprobs(model, prompt + rejected)[len(prompt) - 1 :].sum()).item()
        for prompt, chosen, rejected in pairs.select(PAIR_COLUMNS).iter_rows()
    ]


def negative_log_likelihood(model, patches):
    """Mean over all trained tokens."""
    found = [
        -logprob.item()
        for ids, labels in patches.select(PATCH_COLUMNS).iter_rows()
        for logprob, label in zip(token_logprobs(model, ids), labels[1:], strict=True)
        if label != -100
    ]
    return sum(found) / len(found)


def test_dpo_batch_has_the_stored_ids(policy, pairs, tmp_path):
    parent = runs.read_policy(policy)
    with runs.quiet():
        trainer = dpo_trainer(pairs, policy=parent, recipe=DpoRecipe(batch_size=6, packed=False), folder=tmp_path)
        batch = next(iter(trainer.get_train_dataloader()))
    seen = {
        (tuple(ids[kept == 1].tolist()), tuple(ids[answer == 1].tolist()))
        for ids, kept, answer in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    }
    assert seen == {
        (tuple(prompt + answer), tuple(answer))
        for prompt, *answers in pairs.select(PAIR_COLUMNS).iter_rows()
        for answer in answers
    }


@both_ways
def test_dpo_prefers_the_chosen(policy, pairs, tmp_path, packed):
    seen, recipe = [], DpoRecipe(**BARE, packed=packed)
    report = train_dpo(pairs, policy=policy, out=tmp_path / "dpo", recipe=recipe, on_progress=seen.append)
    assert report.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert report.last_loss < report.first_loss
    assert report.curves[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert report.curves[-1]["rewards/margins"] > 0.1
    before, after = preference(load(policy), pairs), preference(load(tmp_path / "dpo"), pairs)
    assert all(new > old + 1 for new, old in zip(after, before, strict=True))
    assert [(p.step, p.steps) for p in seen] == [(step, 20) for step in range(1, 21)]
    assert seen[-1].loss == report.last_loss
    assert (report.steps, report.rows, report.skipped) == (20, 6, 0)


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing"),
    [("sigmoid", 0.0), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0), ("sigmoid_norm", 0.0)],
)
def test_dpo_packed_is_as_trl(policy, pairs, tmp_path, capfd, loss_type, label_smoothing):
    runs_of, loss = {}, {"loss_type": loss_type, "label_smoothing": label_smoothing}
    for packed in (True, False):
        recipe = DpoRecipe(steps=3, batch_size=6, learning_rate=1e-3, packed=packed, beta=0.5, **loss)
        report = train_dpo(pairs, policy=policy, out=tmp_path / str(packed), recipe=recipe)
        runs_of[packed] = [(entry["loss"], entry["rewards/margins"], entry["grad_norm"]) for entry in report.curves]
    for ours, theirs in zip(runs_of[True], runs_of[False], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4, rel=2e-4)
    assert capfd.readouterr() == ("", "")


@both_ways
def test_dpo_added_likelihood(policy, pairs, tmp_path, packed):
    recipe = DpoRecipe(steps=1, batch_size=6, sft_weight=0.5, packed=packed)
    report = train_dpo(pairs, policy=policy, out=tmp_path / "rpo", recipe=recipe)
    model = load(policy)
    chosen = torch.cat(
        [
            token_logprobs(model, prompt + chosen)[len(prompt) - 1 :]
            for prompt, chosen, _ in pairs.select(PAIR_COLUMNS).iter_rows()
        ]
    )
    assert report.first_loss == pytest.approx(math.log(2) - 0.5 * chosen.mean().item(), abs=1e-5)


def test_dpo_leaves_long_pairs_out(policy, pairs, tmp_path):
    recipe = DpoRecipe(steps=1, batch_size=6, max_length=12)
    report = train_dpo(pairs, policy=policy, out=tmp_path / "short", recipe=recipe)
    lengths = [len(p) + max(len(c), len(r)) for p, c, r in pairs.select(PAIR_COLUMNS).iter_rows()]
    kept = sum(length <= 12 for length in lengths)
    assert 0 < kept < 6
    assert (report.rows, report.skipped) == (kept, 6 - kept)
    with pytest.raises(BadInput, match="raise max_length"):
        train_dpo(pairs, policy=policy, out=tmp_path / "none", recipe=DpoRecipe(max_length=2))


def test_sft_loss_is_that_of_the_labels(policy, patches, tmp_path):
    parent = runs.read_policy(policy)

    def loss(rows):
        with runs.quiet():
            trainer = sft_trainer(rows, policy=parent, recipe=IntRecipe(batch_size=6, packed=False), folder=tmp_path)
            batch = next(iter(trainer.get_train_dataloader()))
            ids = {tuple(row[mask == 1].tolist()) for row, mask in zip(batch["input_ids"], batch["attention_mask"])}
            assert ids == {tuple(row) for row in rows["input_ids"].to_list()}
            return trainer.compute_loss(trainer.model, batch).item()

    by_hand = negative_log_likelihood(load(policy), patches)
    assert loss(patches) == pytest.approx(by_hand, abs=1e-5)
    other_end = [[*row[:-2], 7, 8] for row in patches["input_ids"].to_list()]
    masked = patches.with_columns(pl.Series("input_ids", other_end, pl.List(pl.Int32)))
    assert loss(masked) == pytest.approx(by_hand, abs=1e-5)
    other_label = [[*row[:5], 7, *row[6:]] for row in patches["labels"].to_list()]
    trained = patches.with_columns(pl.Series("labels", other_label, pl.List(pl.Int32)))
    assert abs(loss(trained) - by_hand) > 1e-3


@both_ways
def test_sft_learns_the_rows(policy, patches, tmp_path, packed):
    recipe = IntRecipe(steps=30, batch_size=4, learning_rate=1e-3, packed=packed)
    report = train_sft(patches, policy=policy, out=tmp_path / "sft", recipe=recipe)
    before, after = (
        negative_log_likelihood(load(policy), patches),
        negative_log_likelihood(load(tmp_path / "sft"), patches),
    )
    assert after < before - 0.5
    assert report.last_loss < report.first_loss


def test_saved_folder_is_a_policy_like_its_parent(policy, patches, tmp_path):
    out = tmp_path / "policies" / "sft"
    for _ in range(2):  # the second replaces the first
        train_sft(patches, policy=policy, out=out, recipe=IntRecipe(**FAST))
        weights = (out / "model.safetensors").read_bytes()
        text = (out / "lineage.json").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["sft"]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (policy / name).read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((policy / "config.json").read_text())
    assert {path.suffix for path in out.iterdir()} == {".safetensors", ".json", ".jinja", ".md", ".png"}
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    model, parent = load(out), runs.read_policy(policy)
    assert model.dtype == torch.float32
    assert model.config.use_cache
    lineage = json.loads(text)
    assert lineage["parent_fingerprint"] == parent.fingerprint
    assert lineage["data_digest"] == token_digest(patches, PATCH_COLUMNS)
    assert lineage["config"]["steps"] == 20
    train_sft(patches, policy=policy, out=out, recipe=IntRecipe(**FAST))
    assert (out / "model.safetensors").read_bytes() == weights
    assert (out / "lineage.json").read_text() == text


def test_digest_is_of_the_tokens_and_their_order(pairs):
    digest = token_digest(pairs, PAIR_COLUMNS)
    assert token_digest(pl.concat([pairs, pairs])[6:], PAIR_COLUMNS) == digest
    assert token_digest(pairs.with_columns(row=pl.lit("x")), PAIR_COLUMNS) == digest
    assert token_digest(pairs.reverse(), PAIR_COLUMNS) != digest


def test_datasets_keep_ids(pairs, patches):
    for rows, columns, dataset in (
        (pairs, PAIR_COLUMNS, pair_dataset(pairs)),
        (patches, PATCH_COLUMNS, patch_dataset(patches)),
    ):
        assert dataset.column_names == list(columns)
        assert dataset[:] == rows.select(columns).to_dict(as_series=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({}, "no rows", id="no rows"),
        pytest.param({"input_ids": [[5, 320]], "labels": [[-100, 6]]}, "token 320 is outside", id="foreign token"),
        pytest.param({"input_ids": [[5] * 65], "labels": [[6] * 65]}, "65 tokens, the policy has 64", id="too long"),
        pytest.param({"input_ids": [[5, 6]], "labels": [[-100, -100]]}, "no token is trained", id="nothing trained"),
        pytest.param({"input_ids": [[5, 6]]}, "lack labels", id="no labels"),
    ],
)
def test_bad_rows(policy, tmp_path, change, words):
    columns = change or {"input_ids": [], "labels": []}
    rows = pl.DataFrame(columns, schema={name: pl.List(pl.Int32) for name in columns})
    with pytest.raises(BadInput, match=words):
        train_sft(rows, policy=policy, out=tmp_path / "out", recipe=IntRecipe(steps=1))
    assert list(tmp_path.iterdir()) == []


def test_no_pairs(policy, pairs, tmp_path):
    with pytest.raises(BadInput, match="no rows"):
        train_dpo(pairs[:0], policy=policy, out=tmp_path / "out", recipe=DpoRecipe())


def test_no_policy(policy, pairs, tmp_path):
    def train(path):
        with pytest.raises(BadModel, match=path.name) as caught:
            train_dpo(pairs, policy=path, out=tmp_path / "out", recipe=DpoRecipe(steps=1))
        assert len(str(caught.value).splitlines()) == 1

    train(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    train(tmp_path / "empty")
    shutil.copytree(policy, tmp_path / "broken")
    weights = (policy / "model.safetensors").read_bytes()
    (tmp_path / "broken" / "model.safetensors").write_bytes(weights[:5000])
    train(tmp_path / "broken")
    config = json.loads((policy / "config.json").read_text())
    (tmp_path / "broken" / "model.safetensors").write_bytes(weights)
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    train(tmp_path / "broken")


def test_out_is_something_else(policy, pairs, tmp_path):
    (tmp_path / "thesis.txt").write_text("four years")
    with pytest.raises(BadConfig, match="is no policy"):
        train_dpo(pairs, policy=policy, out=tmp_path, recipe=DpoRecipe(steps=1))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/policies/sft"])
def test_out_below_a_file_is_refused_before_training(policy, patches, tmp_path, out):
    (tmp_path / "notes.txt").write_text("four years")
    with pytest.raises((BadConfig, StoreFull), match=r"notes\.txt"):
        train_sft(patches, policy=policy, out=tmp_path / out, recipe=IntRecipe(**FAST), on_progress=pytest.fail)
    assert (tmp_path / "notes.txt").read_text() == "four years"


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        pytest.param(LlamaForCausalLM, SafetensorError(FULL), id="weights"),
        pytest.param(saving, OSError(errno.ENOSPC, "no space"), id="picture"),
    ],
)
def test_full_disk_is_one_line_and_keeps_what_was_there(policy, patches, tmp_path, monkeypatch, writer, error):
    """And what has been trained: once there is room, no step is taken again."""

    def refuse(*_, **__):
        raise error

    out = tmp_path / "policies" / "sft"
    train_sft(patches, policy=policy, out=out, recipe=IntRecipe(**FAST))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as full:
        full.setattr(writer, "plot_curves" if writer is saving else "save_pretrained", refuse)
        with pytest.raises(StoreFull, match=r"No space left on device.*BRANCHPOINT_POLICIES"):
            train_sft(patches, policy=policy, out=out, recipe=IntRecipe(steps=1))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    again = pytest.fail if writer is saving else None
    assert train_sft(patches, policy=policy, out=out, recipe=IntRecipe(steps=1), on_progress=again).steps == 1
    assert [path.name for path in out.parent.iterdir()] == ["sft"]


@pytest.mark.parametrize(
    "field",
    [
        {"loss_type": "sigmoyd"},
        {"beta": 0.0},
        {"label_smoothing": 0.5},
        {"label_smoothing": 0.1, "loss_type": "ipo"},
        {"label_smoothing": 0.1, "packed": False},
        {"sft_weight": -1.0},
        {"steps": 0},
        {"warmup_ratio": 1.0},
    ],
)
def test_bad_recipe(field):
    with pytest.raises(BadConfig, match=next(iter(field))):
        DpoRecipe(**field).check()


def test_diverging_run_stops(policy, patches, tmp_path):
    spoilt = shutil.copytree(policy, tmp_path / "spoilt")
    weights = load_file(spoilt / "model.safetensors")
    save_file({name: tensor * 1e30 for name, tensor in weights.items()}, spoilt / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadConfig, match="the loss is"):
        train_sft(patches, policy=spoilt, out=tmp_path / "out", recipe=IntRecipe(steps=20))
    shutil.rmtree(spoilt)
    assert list(tmp_path.iterdir()) == []

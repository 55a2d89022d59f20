"""Hygiene of a round, what may leave the store by it, and what a card says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scripted_round import Pupil, read, run, scripted

from pipeline.errors import BadConfig, BadTable
from pipeline.hygiene.benchmarks import Overlap
from pipeline.hygiene.examine import count_private, hygiene_rows
from pipeline.hygiene.leaving import TEXTS, Leaving, leaving
from pipeline.hygiene.near import Near
from pipeline.hygiene.report import COLUMNS, hygiene_facts, hygiene_section
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.hygiene import HygieneConfig, write_hygiene
from pipeline.stages.work import Work
from pipeline.store.layout import Place
from pipeline.store.write import validated
from schemas import TABLES, Hygiene, Nodes, Tasks
from schemas.base import column_types

KEY = f"ghp_{'a1B2' * 9}"
TASK = dict.fromkeys(column_types(Tasks)) | {"suite": "s", "band": "easy", "question": "?", "answer": "1"}


def tasks(*rows: tuple[str, str]) -> pl.DataFrame:
    """Tasks by name and split."""
    made = [TASK | {"task": name, "split": split, "verifier": "math"} for name, split in rows]
    return pl.DataFrame(made, schema=column_types(Tasks), orient="row")


def private(**secrets: tuple[int, int]) -> pl.DataFrame:
    """Secrets and personal data by task."""
    rows = [(task, *counts) for task, counts in secrets.items()]
    return pl.DataFrame(rows, schema={"task": pl.String, "secrets": pl.Int32, "personal": pl.Int32}, orient="row")


class TestRows:
    def test_reasons(self):
        rows = hygiene_rows(
            tasks(("a", "train"), ("b", "held_out"), ("c", "train"), ("d", "train"), ("e", "train"), ("f", "train")),
            near=Near(np.array([0, 0, 2, 3, 4, 4]), np.array([0.9, 0.9, np.nan, np.nan, 1.0, 1.0])),
            shared=[Overlap(None, 0.0)] * 2 + [Overlap("gsm8k", 0.25)] + [Overlap(None, 0.0)] * 3,
            private=[private(c=(1, 0), d=(1, 2)), private(d=(1, 0), e=(0, 1))],
            sources={"easy": "file x.jsonl"},
            licences={"file x.jsonl": "mit"},
            most_overlap=0.1,
        )
        Hygiene.validate(rows)
        assert dict(zip(rows["task"], rows["withheld"], strict=True)) == {
            "a": "near_held_out",
            "b": None,
            "c": "benchmark",
            "d": "secret",
            "e": "personal",
            "f": None,
        }
        assert rows["near_group"].to_list() == ["a", "a", "c", "d", "e", "e"]
        assert rows["near_count"].to_list() == [2, 2, 1, 1, 2, 2]
        assert rows["overlap"].to_list() == [None, None, 0.25, None, None, None]
        assert rows.select("secrets", "personal").row(3) == (2, 2)
        assert set(rows.select("source", "licence").rows()) == {("file x.jsonl", "mit")}

    def test_an_imported_task_has_the_licence_of_its_record(self):
        known, unknown = {"format": "messages", "licence": "MIT"}, {"format": "atif", "licence": None}
        info = [json.dumps({"source": source}) for source in (known, unknown)]
        rows = hygiene_rows(
            tasks(("a", "train"), ("b", "train")).with_columns(info=pl.Series(info)),
            near=Near(np.array([0, 1]), np.array([np.nan, np.nan])),
            shared=[Overlap(None, 0.0)] * 2,
            private=[],
            sources={},
            licences={"atif": "CC0-1.0", "messages": "none"},
            most_overlap=0.0,
        )
        assert rows.select("source", "licence").rows() == [("messages", "MIT"), ("atif", "CC0-1.0")]

    def test_a_text_counts_once_a_task(self):
        text = "bob@example.org, ann@example.org"
        texts = pl.DataFrame({"task": ["t", "t", "u"], "text": [text, text, "no"]})
        assert count_private(texts).rows() == [("t", 0, 2)]


def found(**withheld: str) -> pl.DataFrame:
    return pl.DataFrame({"task": [*withheld, "free"], "withheld": [*withheld.values(), None]})


def nodes() -> pl.DataFrame:
    row = dict.fromkeys(column_types(Nodes))
    row |= {"node": 1, "parent": 0, "context": 0, "depth": 1, "turn": 0, "agent": "solver", "kind": "step"}
    row |= {"origin": "sample", "sampled": True, "token_ids": [5, 6], "token_count": 2, "logprobs": [-1.0, -2.0]}
    row |= {"text": "ask bob@example.org", "request": "r", "policy": "p"}
    made = [row | {"task": task, "tree": task, "episode": task} for task in ("free", "mail", "key")]
    return pl.DataFrame(made, schema=column_types(Nodes), orient="row")


class TestLeaving:
    def test_withheld_tasks_take_all_their_rows_along(self):
        out = leaving(found(mail="personal", key="secret"))
        assert out.passed("nodes", nodes())["task"].to_list() == ["free"]
        assert out.tally == {("nodes", "kept"): 1, ("nodes", "withheld"): 2}

    def test_what_is_redacted_has_no_tokens(self):
        out = leaving(found(mail="personal", key="secret"), policy="redact")
        rows = validated("nodes", out.passed("nodes", nodes()))
        free, mail = rows.sort("task").to_dicts()
        assert (free["token_ids"], free["sampled"]) == ([5, 6], True)
        assert mail["text"] == "ask [email]"
        assert (mail["token_ids"], mail["token_count"], mail["logprobs"], mail["sampled"]) == ([], 0, None, False)
        assert out.tally["nodes", "tokens_withheld"] == out.tally["nodes", "redacted"] == 1
        assert out.tally["nodes", "withheld"] == 1

    def test_redacted_json_is_json(self):
        out = leaving(found(mail="personal"), policy="redact")
        said = json.dumps([{"record": {"to": "\nann@example.org", "card": 4111111111111111, "n": 2.5, "ok": True}}])
        rows = pl.DataFrame({"task": ["mail"], "text": [said], "token_values": [[0.5]]})
        (row,) = out.passed("scores", rows).to_dicts()
        assert json.loads(row["text"]) == [
            {"record": {"to": "\n[email]", "card": "[card number]", "n": 2.5, "ok": True}}
        ]
        assert row["token_values"] is None

    def test_training_rows_go_with_their_tokens(self):
        out = leaving(found(mail="personal"), policy="redact")
        rows = pl.DataFrame({"task": ["mail", "free"], "input_ids": [[1], [2]]})
        assert out.passed("sft", rows)["task"].to_list() == ["free"]

    def test_tables_without_tasks_pass(self):
        rows = pl.DataFrame({"policy": ["p"]})
        assert Leaving({"t": "secret"}).passed("evals", rows).equals(rows)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


class TestStage:
    def test_every_task_has_a_row(self, work: Work):
        report = write_hygiene(work, HygieneConfig(licences='{"sums": "apache-2.0"}'))
        rows = read(work, "hygiene")
        assert rows["task"].to_list() == sorted(work.store.tasks("three")["task"])
        assert set(rows["source"]) == {"reasoning_gym chain_sum"}
        assert set(rows["licence"]) == {"apache-2.0"}
        assert rows["withheld"].null_count() == len(rows) == report.rows["hygiene"] == 5
        assert write_hygiene(work, HygieneConfig(licences='{"sums": "apache-2.0"}')).fresh == 0
        assert write_hygiene(work).fresh == report.shards

    def test_benchmarks_and_texts_of_nodes(self, work: Work, tmp_path):
        task, other = work.store.tasks("three", split="train")["task"][:2]
        asked = dict(work.store.tasks("three")["task", "question"].iter_rows())
        (tmp_path / "sums.txt").write_text(asked[task])
        store = replace(work, settings=replace(work.settings, store=tmp_path / "store"))
        for table in ("tasks", "nodes", "verdicts", "variants"):
            for place in work.store.places(table):
                rows = work.store.read(table, [place])
                if table == "nodes" and place.stage == "rollouts":
                    leak = (pl.col("task") == other) & (pl.col("node") == 2)
                    rows = rows.with_columns(text=pl.when(leak).then(pl.lit("ask ann@example.org")).otherwise("text"))
                store.store.write(table, rows, place, inputs={})
        report = write_hygiene(store, HygieneConfig(benchmarks=(str(tmp_path / "sums.txt"),)))
        rows = {row["task"]: row for row in read(store, "hygiene").iter_rows(named=True)}
        assert (rows[task]["benchmark"], rows[task]["overlap"], rows[task]["withheld"]) == ("sums", 1.0, "benchmark")
        assert (rows[other]["personal"], rows[other]["withheld"]) == (1, "personal")
        assert report.numbers["withheld_benchmark"] == report.numbers["withheld_personal"] == 1
        place = Place("three", "r0", "hygiene", "train-000")
        assert str(tmp_path) not in str(store.store.entry("hygiene", place).inputs)

    @pytest.mark.parametrize(("table", "column"), [(table, one) for table, of in TEXTS.items() for one in sum(of, ())])
    def test_a_secret_is_found_wherever_words_leave(self, work: Work, tmp_path, table: str, column: str):
        task = work.store.tasks("three", split="train")["task"][0]
        said = json.dumps(["\n" + KEY]) if column in TEXTS[table].json else f"it is {KEY}"
        leaking = replace(work, settings=replace(work.settings, store=tmp_path / "store"))
        for name in ("tasks", "nodes", "verdicts", "requests"):
            for place in work.store.places(name):
                rows = work.store.read(name, [place])
                if (name, place.stage) in ((table, "tasks"), (table, "rollouts")):
                    number = pl.int_range(pl.len()).over("task")
                    there = (pl.col("task") == task) & (number == int(name == "nodes"))
                    rows = rows.with_columns(pl.when(there).then(pl.lit(said)).otherwise(column).alias(column))
                    if column == "error" and table == "verdicts":
                        rows = rows.with_columns(reward=pl.when(~there).then("reward"))
                leaking.store.write(name, rows, place, inputs={})
        key = {"task": task, "tree": f"{task}@r0", "node": 1}
        beside = {
            "scores": key | {"name": "source"},
            "step_labels": key | {"labeller": "human", "version": "1", "hard": True},
            "variants": {
                "task": task,
                "variant": "v",
                "tree": key["tree"],
                "kind": "retry",
                "source_leaf": 1,
                "author": "policy",
            },
        }
        if table in beside:
            types = column_types(TABLES[table])
            row = pl.DataFrame([dict.fromkeys(types) | beside[table] | {column: said}], schema=types, orient="row")
            leaking.store.write(table, row, Place("three", "r0", "retries", "train-000"), inputs={})
        write_hygiene(leaking)
        found = read(leaking, "hygiene").filter(pl.col("secrets") > 0)
        assert found.select("task", "withheld").rows() == [(task, "secret")]

    def test_what_is_said_later_asks_for_another_look(self, work: Work, tmp_path):
        later = replace(work, settings=replace(work.settings, store=tmp_path / "store"))
        for table in ("tasks", "nodes", "verdicts"):
            for place in work.store.places(table):
                later.store.write(table, work.store.read(table, [place]), place, inputs={})
        write_hygiene(later)
        refuse_replaced(later, "hygiene")
        types = column_types(TABLES["scores"])
        said = dict.fromkeys(types) | {"task": "t", "tree": "t@r0", "node": 1, "name": "source", "text": "[]"}
        rows = pl.DataFrame([said], schema=types, orient="row")
        later.store.write("scores", rows, Place("three", "r0", "source", "train-000"), inputs={})
        with pytest.raises(BadTable, match="before what is said of its nodes changed; run `branchpoint hygiene"):
            refuse_replaced(later, "hygiene")
        assert write_hygiene(later).fresh == 1
        refuse_replaced(later, "hygiene")

    def test_refusals(self, work: Work):
        for config, said in (
            (HygieneConfig(similarity=0.0), "similarity is 0"),
            (HygieneConfig(words=0), "words is 0"),
            (HygieneConfig(region="Mars"), "region 'Mars' is none"),
            (HygieneConfig(licences="[]"), "name no licence each"),
            (HygieneConfig(licences="{"), "are no JSON"),
        ):
            with pytest.raises(BadConfig, match=said):
                write_hygiene(work, config)

    def test_what_a_card_says(self, work: Work):
        write_hygiene(work)
        facts = hygiene_facts([read(work, "hygiene").select(COLUMNS)])
        assert (facts.tasks, facts.sources) == (5, {("reasoning_gym chain_sum", None): 5})
        text = hygiene_section(facts._replace(withheld={"secret": 1}, benchmarks={"gsm8k": 2}))
        assert "| `reasoning_gym chain_sum` | not stated | 5 |" in text
        assert "Held to be withheld, 1 tasks: a secret was found in its texts." in text
        assert "Tasks that share n-grams with `gsm8k`: 2." in text

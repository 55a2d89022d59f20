"""Packs as files: another trainer finds every row's tokens and weights in them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.cli import main
from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import Pairs, Sft
from schemas.base import column_types

SHARED = {"suite": "chain_sum", "tree": "chain_sum/t@r0", "prompt": ""}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    pairs = [
        {
            **SHARED,
            **{"task": task, "row": f"{task}/{end}", "chosen_node": 1, "rejected_node": 2, "source": "outcome"},
            **{"prompt_ids": [5, 6], "chosen_ids": [7, end], "rejected_ids": [7, 8, 9], "margin": 1.0},
            **{"chosen": "", "rejected": ""},
        }
        for task in ("a", "b")
        for end in (10, 11)
    ]
    store.write("pairs", pl.DataFrame(pairs, schema=column_types(Pairs), orient="row"), place("pairs"), inputs={})
    return store


def place(table):
    return Place("chain_sum", "r0", table, "train")


def test_every_answer_is_found(store, tmp_path, capsys):
    folder = tmp_path / "packs"
    arguments = ["pack", "pairs", str(folder), "--suite", "chain_sum", "--store", str(store.root), "--max-tokens", "8"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "36 path tokens, 14 unique, 2.6x, 2 packs\n"
    packs, unpack = (pl.read_parquet(folder / f"{name}.parquet") for name in ("packs", "unpack"))
    assert packs.columns == ["pack", "token_ids", "positions", "last", "parent", "weights"]
    found = {}
    for row in unpack.iter_rows(named=True):
        pack = packs.row(row["pack"], named=True)
        found[row["row"], row["answer"]] = [pack["token_ids"][place] for place in row["index"]], row["weights"]
    assert found == {
        (f"{task}/{end}", side): answer
        for task in ("a", "b")
        for end in (10, 11)
        for side, answer in (
            ("chosen", ([5, 6, 7, end], [0, 0, 1, 1])),
            ("rejected", ([5, 6, 7, 8, 9], [0, 0, -1, -1, -1])),
        )
    }
    for row in packs.iter_rows(named=True):
        assert dict(zip(row["token_ids"], row["weights"])) == {5: 0, 6: 0, 7: 0, 8: -2, 9: -2, 10: 1, 11: 1}
        assert np.array(row["last"])[0] == 6


def test_weights_of_branches_add_up(store, tmp_path):
    rows = [
        {
            **SHARED,
            "task": "a",
            "row": str(end),
            "node": end,
            "input_ids": [5, 6, end],
            "weights": [0.0, 0.5, 1.0],
            "answer": "",
        }
        for end in (7, 8, 9)
    ]
    store.write("sft", pl.DataFrame(rows, schema=column_types(Sft), orient="row"), place("sft"), inputs={})
    assert main(["pack", "sft", str(tmp_path), "--suite", "chain_sum", "--store", str(store.root), "--json"]) == 0
    (pack,) = pl.read_parquet(tmp_path / "packs.parquet").iter_rows(named=True)
    assert (pack["token_ids"], pack["weights"]) == ([5, 6, 7, 8, 9], [0, 1.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pairs", "--max-tokens", "5"], "a pack takes 5"),
        (["pairs", "--max-tokens", "0"], "max_tokens is 0"),
        (["patches"], "no patches"),
        (["pears"], "did you mean 'pairs'"),
    ],
)
def test_what_cannot_be_packed_is_one_line(store, tmp_path, capsys, arguments, words):
    assert (
        main(
            [
                "pack",
                arguments[0],
                str(tmp_path / "out"),
                "--suite",
                "chain_sum",
                "--store",
                str(store.root),
                *arguments[1:],
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()

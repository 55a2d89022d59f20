"""The macros that answer a question each, on trees small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from two_trees import forest, node, older, rows, write

from pipeline.statistics import pass_at_k
from pipeline.store.layout import Place
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types


@pytest.fixture
def store(tmp_path) -> Store:
    return forest(Store(tmp_path / "store"))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at(store, k):
    (row,) = rows(store, f"from pass_at({k})")
    assert row[:5] == ("sums", "r0", k, 2, 0)
    assert row[5] == pytest.approx(np.mean(pass_at_k([3, 3], [2, 1], k)))


@pytest.mark.parametrize(("k", "tasks"), [(4, (0, 2)), (0, (0, 2)), (-1, (0, 2))])
def test_pass_at_is_unknown_without_enough_samples(store, k, tasks):
    assert rows(store, f"from pass_at({k})") == [("sums", "r0", k, *tasks, None)]


def test_first_error(store):
    every = dict.fromkeys(column_types(TABLES["step_labels"])) | {"task": "t", "tree": "t", "version": "1"}
    said = [
        *((1, "monte_carlo", "1", True, 0.75), (2, "monte_carlo", "1", True, 1.0), (6, "monte_carlo", "1", False, 0.0)),
        *((3, "monte_carlo", "1", False, 0.25), (4, "monte_carlo", "1", False, 0.25), (3, "judge", "9", False, None)),
        *((3, "judge", "10", True, None), (2, "judge", "1", None, 0.5)),
    ]
    keys = ("node", "labeller", "version", "hard", "soft")
    write(store, "step_labels", [every | dict(zip(keys, row, strict=True)) for row in said], stage="labels")
    found = rows(store, "from first_error('t')")
    assert [row for row in found if row[2] == "monte_carlo"] == [
        (2, 1.0, "monte_carlo", 2, None, 1, 0.75),
        (4, 0.0, "monte_carlo", 2, 3, 3, 0.25),
        (5, 1.0, "monte_carlo", 0, None, None, None),
        (6, 0.0, "monte_carlo", 2, 6, 6, 0.0),
    ]
    assert [row for row in found if row[2] == "judge"] == [
        (2, 1.0, "judge", 1, None, 2, 0.5),
        (4, 0.0, "judge", 1, None, None, None),
        (5, 1.0, "judge", 0, None, None, None),
        (6, 0.0, "judge", 0, None, None, None),
    ]
    assert len(found) == 8
    assert rows(store, "select distinct labeller, labelled, first_wrong, lowest from first_error('u')") == [
        (None, 0, None, None)
    ]


def test_disagreement(store):
    every = dict.fromkeys(column_types(TABLES["credit"])) | {"task": "t", "tree": "t"}
    given = {
        "grpo": {1: 1.0, 2: 1.0, 3: -1.0, 4: -1.0, 5: None, 6: 2.0},
        "tempo": {1: 0.1, 2: -0.2, 3: 0.3, 4: 0.0, 5: 0.1, 6: -0.1},
    }
    for method, advantages in given.items():
        credit = [every | {"node": n, "method": method, "advantage": value} for n, value in advantages.items()]
        write(store, "credit", credit, stage=method)
    found = rows(store, "from disagreement('grpo', 'tempo')")
    first, second = (
        np.sqrt(np.mean(np.square([1, 1, 1, 1, 2]))),
        np.sqrt(np.mean(np.square([0.1, 0.2, 0.3, 0, 0.1, 0.1]))),
    )
    gaps = {2: 1 / first + 0.2 / second, 3: 1 / first + 0.3 / second, 6: 2 / first + 0.1 / second}
    assert [row[4] for row in found] == sorted(gaps, key=gaps.get, reverse=True)
    assert {row[4]: row[7] for row in found} == pytest.approx(gaps, rel=1e-6)
    assert {row[:4] for row in found} == {("sums", "r0", "t", "t")}
    assert {row[8] for row in found} == {3 / 5}
    assert [row[5:7] for row in found if row[4] == 6] == [(2.0, pytest.approx(-0.1))]
    assert [row[4] for row in rows(store, "from disagreement('tempo', 'grpo')")] == [row[4] for row in found]
    assert rows(store, "from disagreement('grpo', 'grpo'); from disagreement('grpo', 'none')") == []


def request(key: str, decoded: int | None, *, reused: bool | None) -> dict:
    every = dict.fromkeys(column_types(TABLES["requests"]))
    every |= {"task": "t", "stage": "rollouts", "sample_index": 0, "policy": "p", "engine": "vllm", "sampling": "{}"}
    every |= {"prompt_tokens": 1, "attempts": 1, "seconds": 0.5}
    return every | {"request": key, "decoded_tokens": decoded, "reused": reused}


def sampled(number: int, parent: int, **columns: object) -> dict:
    """A sampled node of three tokens."""
    tokens = {"token_ids": [7, 8, 9], "token_count": 3, "logprobs": [-1.0] * 3, "request": "a", "policy": "p"}
    return node(number, parent, "sample", tree="w", leaf=True) | {"sampled": True} | tokens | columns


def test_waste(store):
    assert rows(store, "select round, path_tokens, unique_tokens, sharing from waste()") == [("r0", 17, 11, 17 / 11)]
    assert rows(store, "select paid_tokens, kept_tokens, paid_per_kept, engine_seconds from waste()") == [(None,) * 4]
    write(
        store, "nodes", [node(0, None, "prompt", tree="w"), sampled(1, 0), sampled(2, 0)], stage="rollouts", round="r1"
    )
    asked = [request("a", 3, reused=False), request("b", 9, reused=False), request("c", 100, reused=True)]
    write(store, "requests", [*asked, request("d", None, reused=False)], stage="rollouts", round="r1")
    assert rows(store, "from waste() where round = 'r1'") == [("sums", "r1", 8, 7, 8 / 7, 12, 3, 4.0, 1.5)]
    write(store, "requests", [request("e", 3, reused=None)], stage="trees", round="r1")
    assert rows(store, "select sharing, paid_tokens, kept_tokens, paid_per_kept from waste() where round = 'r1'") == [
        (8 / 7, None, None, None)
    ]


def test_waste_is_unknown_where_tokens_were_not_counted(store):
    older(Place("sums", "r0", "trees", "train-000").path(store.root, "nodes"), "nodes")
    assert rows(store, "from waste()") == [("sums", "r0", *[None] * 7)]

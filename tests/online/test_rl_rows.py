"""Rows for online RL out of nodes, credit and verdicts, written down by hand."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.builders.rl_samples import rl_rows
from schemas import Credit, Nodes, Verdicts
from schemas.base import column_types

#      0          the prompt
#    1   2        two first steps; 1 is shared
#   3 4   5       their ends; 5 is a tool's words and then the policy's
#     6           what another method made: not credited
TOKENS = {0: [9, 9], 1: [1, 2], 2: [3], 3: [4], 4: [5, 6], 5: [7, 8], 6: [1]}
PARENT = {0: None, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 4}
LOGPROBS = {1: [-0.5, -1.0], 2: [-0.25], 3: [-2.0], 4: [-1.5, -1.0], 5: [None, -3.0], 6: [-1.0]}
ENDS = (3, 4, 5, 6)


def node(number: int, **other: object) -> dict:
    above, depth = PARENT[number], 0
    while above is not None:
        above, depth = PARENT[above], depth + 1
    row = dict.fromkeys(column_types(Nodes))
    row |= {"task": "t", "tree": "t@r0", "episode": "t@r0", "node": number, "parent": PARENT[number], "context": 0}
    row |= {"depth": depth, "turn": 0, "agent": "solver", "kind": "step", "origin": "sample", "sampled": True}
    row |= {"token_ids": TOKENS[number], "token_count": len(TOKENS[number]), "logprobs": LOGPROBS.get(number)}
    row |= {"text": "", "policy": "p", "request": "q", "finish": "stop" if number in ENDS else None}
    if number == 0:
        row |= {"kind": "prompt", "origin": "prompt", "sampled": False, "policy": None, "request": None}
    return row | other


def credit(number: int, advantage: float | None, **other: object) -> dict:
    row = {"task": "t", "tree": "t@r0", "node": number, "method": "m", "value": None, "advantage": advantage}
    return row | {"weight": None, "mask": None, "token_advantages": None, "degenerate": None} | other


def frame(table: type, rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=column_types(table), orient="row")


def built(said: list[dict], *, nodes: dict[int, dict] | None = None, shared: str = "branches") -> dict[int, dict]:
    """Rows by leaf."""
    forest = frame(Nodes, [node(number, **(nodes or {}).get(number, {})) for number in TOKENS])
    verdict = {"task": "t", "tree": "t@r0", "node": 3, "verifier": "v", "version": "1", "reward": 1.0}
    verdicts = frame(Verdicts, [dict.fromkeys(column_types(Verdicts)) | verdict])
    rows = rl_rows(forest, frame(Credit, said), verdicts, suite="s", method="m", shared=shared)
    return {row["node"]: row for row in rows.iter_rows(named=True)}


PLAIN = [credit(0, 0.0), *(credit(n, n / 10) for n in (1, 2, 3, 4, 5))]


def test_an_attempt_has_its_tokens_their_logprobs_and_the_credit_of_their_nodes():
    found = built(PLAIN)
    assert found.keys() == {3, 4, 5}
    assert found[3]["prompt_ids"] == [9, 9]
    assert found[3]["answer_ids"] == [1, 2, 4]
    assert found[3]["logprobs"] == [-0.5, -1.0, -2.0]
    assert found[3]["advantages"] == pytest.approx([0.1, 0.1, 0.3])
    assert found[3]["row"] == "t@r0/m/3"
    assert (found[3]["reward"], found[4]["reward"]) == (1.0, None)


def test_a_token_that_was_not_sampled_is_in_no_loss():
    row = built(PLAIN)[5]
    assert row["loss_mask"] == [True, False, True]
    assert row["advantages"][1] is None
    assert row["logprobs"] == [-0.25, None, -3.0]


def test_a_list_of_token_advantages_takes_the_place_of_the_nodes():
    said = [*PLAIN[:4], credit(4, 0.4, token_advantages=[0.7, None]), PLAIN[5]]
    assert built(said)[4]["advantages"] == pytest.approx([0.1, 0.1, 0.7, None])


@pytest.mark.parametrize(
    ("other", "advantages"),
    [
        pytest.param({"weight": 2.0}, [0.2, 0.2, 0.3], id="a weight multiplies"),
        pytest.param({"mask": False}, [None, None, 0.3], id="a mask leaves out"),
        pytest.param({"advantage": None}, [None, None, 0.3], id="unknown is not zero"),
    ],
)
def test_what_a_method_says_of_a_node(other, advantages):
    said = [PLAIN[0], {**credit(1, 0.1), **other}, *PLAIN[2:]]
    row = built(said)[3]
    assert row["advantages"] == pytest.approx(advantages)
    assert row["loss_mask"] == [one is not None for one in advantages]


def test_what_branches_share_is_trained_in_each_or_once():
    both, once = built(PLAIN), built(PLAIN, shared="once")
    assert both[4]["loss_mask"] == [True] * 4
    assert once[3]["loss_mask"] == [True] * 3
    assert once[4]["loss_mask"] == [False, False, True, True]
    assert once[4]["logprobs"] == both[4]["logprobs"]


def test_attempts_without_a_trained_token_are_left_out():
    said = [credit(n, None) for n in (0, 1, 3, 4)] + [PLAIN[2], PLAIN[5]]
    assert built(said).keys() == {5}
    assert built([]) == {}


def test_a_distilled_retry_is_trained_and_says_where_its_logprobs_are_from():
    copied = {5: {"origin": "retry", "sampled": False, "copied_from": 4, "request": None}}
    row = built(PLAIN, nodes=copied)[5]
    assert row["record"] == "distilled_retry"
    assert row["loss_mask"] == [True, False, True]
    assert built(PLAIN)[5]["record"] is None

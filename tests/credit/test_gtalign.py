"""GTAlign: reading replies that may hold anything, the game they state, and rewards."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.credit.columns import Trees
from pipeline.credit.gtalign import (
    GTAlignParams,
    gtalign,
    gtalign_credit,
    normalised_by_source,
    read_replies,
)
from pipeline.credit.payoff import (
    CELLS,
    PriceShift,
    best_product_cells,
    block,
    pareto_cells,
    payoff_array,
    preferred_cells,
    read_payoff,
    shifted_payoff,
    welfare_actions,
    well_formed,
)
from pipeline.errors import BadConfig

NA = float("nan")


def payoff(*pairs) -> dict:
    """Cells in order, each (LLM, user); the last pair is repeated."""
    pairs = [*pairs, *[pairs[-1]] * (6 - len(pairs))]
    return {cell: {"LLM": llm, "user": user} for cell, (llm, user) in zip(CELLS, pairs, strict=True)}


FLAT = payoff((1, 1))
WRITTEN = json.dumps(FLAT)


def reply(*, thinking="t", matrix=WRITTEN, analyze="a", response="r") -> str:
    parts = {"thinking": thinking, "payoff": matrix, "analyze": analyze, "response": response}
    return "".join(f"<{tag}>{said}</{tag}>" for tag, said in parts.items())


def names(cells) -> list[str]:
    return [cell for cell, kept in zip(CELLS, cells, strict=True) if kept]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        pytest.param(reply(), True, id="four blocks"),
        pytest.param(reply().replace("><", ">\n \t<"), True, id="blanks between"),
        pytest.param(reply(thinking="a\n<b></thinking> x", response="</thinking>\n"), True, id="tags inside"),
        pytest.param(reply(thinking="", analyze="", response=""), True, id="empty"),
        pytest.param(" " + reply(), False, id="a blank before"),
        pytest.param(reply() + " ", False, id="a blank after, on the line"),
        pytest.param(reply() + "more", False, id="more after, on the line"),
        pytest.param(reply() + "\nmore", True, id="more after, on a new line"),
        pytest.param(reply() + "x</response>", True, id="a later end on the line"),
        pytest.param(reply().replace("<analyze>", "x<analyze>"), False, id="text between"),
        pytest.param(reply().replace("thinking>", "analyze>"), False, id="no thinking"),
        pytest.param(
            "<payoff>p</payoff><thinking>t</thinking><analyze>a</analyze><response>r</response>", False, id="order"
        ),
        pytest.param("", False, id="nothing"),
    ],
)
def test_well_formed(text, good):
    assert well_formed(text) is good


def test_blocks():
    assert block("x<a> 1 <a>2 </a></a>", "a") == "1 <a>2"
    assert block("</a><a>1", "a") is None
    assert block("<a></a>", "a") == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WRITTEN, id="JSON"),
        pytest.param(f"\n {WRITTEN} ", id="blanks around"),
        pytest.param(str(FLAT), id="a Python literal"),
        pytest.param(WRITTEN.replace('"', "“"), id="typographic quotes"),
        pytest.param(str(FLAT).replace("'", "’"), id="single typographic quotes"),
    ],
)
def test_payoffs_that_can_be_read(text):
    assert read_payoff(text) == FLAT


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param(json.dumps({cell: FLAT[cell] for cell in CELLS[1:]}), id="a cell too few"),
        pytest.param(json.dumps(FLAT | {"more": 1}), id="a key too many"),
        pytest.param(json.dumps(FLAT | {"DQ_AQ": {"LLM": 1}}), id="a number too few"),
        pytest.param(json.dumps(FLAT | {"DQ_AQ": {"LLM": 1, "user": 1, "x": 1}}), id="a number too many"),
        pytest.param(json.dumps(FLAT | {"DQ_AQ": [1, 1]}), id="a list for a cell"),
        pytest.param(json.dumps(payoff((True, 1))), id="a truth value"),
        pytest.param(json.dumps(payoff(("1", 1))), id="text for a number"),
        pytest.param(json.dumps(payoff((None, 1))), id="null"),
        pytest.param(json.dumps(payoff((math.nan, 1))), id="NaN"),
        pytest.param(json.dumps(payoff((1, math.inf))), id="infinite"),
        pytest.param(json.dumps(payoff((10**400, 1))), id="an endless integer"),
        pytest.param(WRITTEN.replace("1", "9" * 5000, 1), id="an integer too long to convert"),
        pytest.param(str(FLAT).replace("1", "1+2j", 1), id="a complex number"),
        pytest.param(str(FLAT).replace("1", "abs(-1)", 1), id="a call"),
        pytest.param(str(FLAT).replace("1", "__import__('os').getpid()", 1), id="code"),
        pytest.param(f"```json\n{WRITTEN}\n```", id="a fence"),
        pytest.param("{'\\d': 1 is 1}", id="what Python warns of"),
        pytest.param("{[]: 1}", id="a key that cannot be one"),
        pytest.param("\0", id="a null byte"),
        pytest.param("[" * 9000, id="deep"),
        pytest.param("-" * 9000 + "1", id="deep without brackets"),
        pytest.param("+".join("1" * 4900), id="a long sum"),
        pytest.param("lambda:" * 1400 + "1", id="deep code"),
        pytest.param(WRITTEN + " " * 10_000, id="long"),
    ],
)
def test_payoffs_that_cannot(text):
    assert read_payoff(text) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<" * 1_000_000, id="<"),
        pytest.param("<thinking>" * 100_000, id="thinking"),
        pytest.param("<thinking>" + "</thinking>" * 90_000, id="ends of thinking"),
        pytest.param("<thinking></thinking>" + " " * 1_000_000, id="blanks"),
        pytest.param("<thinking>" + "</thinking> <payoff>" * 25_000 + "</payoff> <analyze>" * 25_000, id="seams"),
        pytest.param(reply() + "</response> " * 80_000, id="ends of response"),
        pytest.param("<payoff>" * 60_000 + "</payoff>" * 55_000, id="payoffs"),
        pytest.param(f"<payoff>{'[' * 1_000_000}</payoff><response></response>", id="brackets"),
    ],
)
def test_hostile_text_takes_no_time(text):
    begun = time.perf_counter()
    read_replies([text])
    assert time.perf_counter() - begun < 5


def rewards(texts, verdicts, **params):
    harmful = params.pop("harmful", None)
    harmful = None if harmful is None else np.array(harmful)
    return gtalign(
        read_replies(texts), np.array(verdicts, dtype=np.float64), harmful=harmful, params=GTAlignParams(**params)
    )


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_rewards_are_their_definition():
    text = reply(thinking="x" * 100, matrix=json.dumps(payoff((1, 2), (3, 3.1), (1, 1))), response="one two three")
    found = rewards([text], [1])
    before, words = text.index("<response>"), len(text.split())
    spread = (2 + 1) / 12
    user = 1e-4 + 0.5 + 0.2 * sigmoid(0.005 * (3 - 20)) * sigmoid(0.005 * (500 - 3)) + 0.3 * math.exp(-before / 500)
    llm = 1e-4 + 0.2 + 0.2 * spread + 0.4
    llm += 0.2 * sigmoid(0.005 * (words - 500)) * sigmoid(0.005 * (1000 - words))
    np.testing.assert_allclose(
        (found.spread[0], found.user[0], found.llm[0], found.reward[0], found.linear[0], found.gap[0]),
        (spread, user, llm, math.sqrt(user * llm), (user + llm) / 2, abs(user - llm)),
    )


@pytest.mark.parametrize(
    ("text", "form", "scored"),
    [
        pytest.param(reply().replace("thinking>", "x>"), False, True, id="no thinking"),
        pytest.param(reply().replace("analyze>", "x>"), False, True, id="no analysis"),
        pytest.param(reply() + "more", False, True, id="text after"),
        pytest.param(reply(response=""), True, True, id="an empty response"),
        pytest.param(reply().replace("response>", "x>"), False, False, id="no response"),
        pytest.param(reply().replace("payoff>", "x>"), False, False, id="no payoff"),
        pytest.param(reply(matrix="{}"), False, False, id="unreadable"),
        pytest.param(reply(thinking="<payoff>x</payoff>"), False, False, id="the first payoff block counts"),
        pytest.param("", False, False, id="nothing"),
    ],
)
def test_what_is_scored(text, form, scored):
    replies, found = read_replies([text]), rewards([text], [1])
    assert (replies.well_formed[0], replies.scored[0]) == (form, scored)
    assert all((column[0] > 0) == scored for column in (found.user, found.llm, found.reward, found.linear))
    assert found.llm[0] - (1e-4 + 0.4) * scored == pytest.approx(0.2 * form, abs=0.03)


def test_equal_payoffs_have_no_spread():
    assert rewards([reply(), reply(matrix=json.dumps(payoff((0, 0))))], [0, 0]).spread.tolist() == [0, 0]
    assert rewards([reply(matrix=json.dumps(payoff((-1, 1))))], [0]).spread.tolist() == [1]


def test_text_after_and_longer_reasoning():
    found = rewards([reply(), reply() + "more", reply(thinking="t" * 200)], [1, 1, 1])
    assert found.user[1] == found.user[0] > found.user[2]


def test_verdicts_are_clipped_and_may_be_unknown():
    found = rewards([reply()] * 4 + [""], [7, 1, NA, -3, NA])
    assert found.user[0] == found.user[1]
    assert np.isnan(found.reward).tolist() == [False, False, True, False, False]
    assert found.user[0] - found.user[3] == pytest.approx(0.5)


@pytest.mark.parametrize(("verdict", "for_user", "for_llm"), [(0, 1, 0), (0.5, 1, 1), (1, 0, 1)])
def test_harmful_prompts(verdict, for_user, for_llm):
    found, nothing = rewards([reply()], [verdict], harmful=[True]), rewards([reply()], [0])
    assert found.user[0] - nothing.user[0] == pytest.approx(0.5 * for_user)
    assert found.llm[0] - nothing.llm[0] == pytest.approx(0.4 * for_llm)


def test_ablations():
    whole = rewards([reply()], [1])
    for welfare, wanted in (("linear", whole.linear), ("user", whole.user), ("llm", whole.llm)):
        assert rewards([reply()], [1], welfare=welfare).reward == wanted
    with pytest.raises(BadConfig, match="fair"):
        GTAlignParams(welfare="fair")
    with pytest.raises(BadConfig, match="softmax"):
        GTAlignParams(normalisation="softmax")


NUMBERS = st.floats(-5, 5) | st.sampled_from([0, 1, -1, 1e308, -1e308])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=6, max_size=6), st.floats(0, 1), st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_mutual_reward_is_at_most_the_mean(pairs, verdict, thinking):
    found = rewards([reply(thinking=thinking, matrix=json.dumps(payoff(*pairs)))], [verdict])
    assert found.reward[0] <= found.linear[0] + 1e-12
    assert 0 <= found.spread[0] <= 1 + 1e-12
    cells = payoff_array([payoff(*pairs)])
    assert pareto_cells(cells).any()
    assert best_product_cells(cells).any()
    assert pareto_cells(cells)[0, preferred_cells(cells)[0]]


def test_pareto_and_product():
    cells = payoff_array([payoff((-3, -3), (1, 2), (2, 1), (0, 0)), payoff((1, 6), (2, 3), (3, 2), (1, 1)), None])
    assert [names(row) for row in pareto_cells(cells)] == [["DQ_CQ", "DQ_DA"], ["DQ_AQ", "DQ_CQ", "DQ_DA"], []]
    assert [names(row) for row in best_product_cells(cells)] == [["DQ_AQ"], ["DQ_AQ", "DQ_CQ", "DQ_DA"], []]
    assert preferred_cells(cells).tolist() == [1, 0, -1]  # of equal sums the one better for the user; the largest sum


def test_a_cell_as_good_for_one_and_better_for_the_other_dominates():
    assert names(pareto_cells(payoff_array([payoff((2, 2), (2, 1), (1, 2), (2, 2 + 1e-12), (0, 0))]))[0]) == [
        "DQ_AQ",
        "VQ_AQ",
    ]


def test_equal_products_are_equal_however_they_round():
    assert 1.1 * 3 != 3.3
    assert names(best_product_cells(payoff_array([payoff((1.1, 3), (3.3, 1), (0, 0))]))[0]) == ["DQ_AQ", "DQ_CQ"]


@pytest.mark.parametrize(
    ("shift", "llm", "user"),
    [
        pytest.param(PriceShift(llm=-2, user=5), [-1, -1, -1], [2, 1.5, 1], id="for the model"),
        pytest.param(PriceShift(user=-0.5), [1.5, 1, 2], [0.5, 0.5, 0.5], id="for the user"),
        pytest.param(PriceShift(), [1, 1, 1], [1, 1, 1], id="for none"),
    ],
)
def test_prices(shift, llm, user):
    found = shifted_payoff(payoff((1.04, 1.04)), shift)
    assert [found[cell]["LLM"] for cell in CELLS] == llm * 2
    assert [found[cell]["user"] for cell in CELLS] == user * 2


def test_actions_come_in_the_order_written():
    written = dict(reversed(payoff((2, 2), (0, 0), (1, 4), (2, 2), (0, 0)).items()))
    assert welfare_actions(written) == ["AQ", "DA"]


def scaled(values, sources, normalisation="zscore"):
    return normalised_by_source(
        np.array(values, dtype=np.float64),
        np.array(sources, dtype=np.int64),
        GTAlignParams(normalisation=normalisation),
    )


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        ("zscore", [-1, 1, 0, 0]),
        ("minmax", [0, 1, 0, 0]),
        ("robust", [-1 / 1.4826, 1 / 1.4826, 0, 0]),
        ("rank", [0, 1, 0.5, 0.5]),
    ],
)
def test_normalised(normalisation, expected):
    np.testing.assert_allclose(scaled([0, 2, 3, 3], [0, 0, 1, 1], normalisation), expected, atol=1e-5)
    assert scaled([4], [2], normalisation).tolist() == [0]
    np.testing.assert_array_equal(np.isnan(scaled([NA, 1, 2], [0, 0, 0], normalisation)), [True, False, False])


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.7]), st.integers(0, 2)), max_size=10),
    st.sampled_from(["zscore", "minmax", "robust", "rank"]),
    st.randoms(),
)
@settings(max_examples=50, deadline=None)
def test_sources_do_not_mix(rows, normalisation, random):
    values, sources = [value for value, _ in rows], [source for _, source in rows]
    found = scaled(values, sources, normalisation)
    assert np.isfinite(found).all()
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_allclose(
        scaled([values[i] for i in order], [sources[i] for i in order], normalisation), found[order], atol=1e-9
    )
    own = [i for i in order if sources[i] == 1]
    np.testing.assert_allclose(scaled([values[i] for i in own], [0] * len(own), normalisation), found[own], atol=1e-9)


def test_credit_on_trees():
    half = reply().index("<payoff>")
    trees = Trees(
        parent=np.array([-1, 0, 1, 1, 0, -1], np.int32),
        depth=np.array([0, 1, 2, 2, 1, 0], np.int32),
        tree=np.array([0, 0, 0, 0, 0, 1], np.int32),
        reward=np.array([NA, NA, 1, 0, NA, NA]),
        tokens=np.zeros(0, np.int32),
        token_offsets=np.zeros(7, np.int64),
        given={"text": pl.Series(["prompt", reply()[:half], reply()[half:], "nothing", None, "prompt"])},
    )
    found = gtalign_credit(trees)
    good = rewards([reply()], [1]).reward[0]
    np.testing.assert_allclose(found.value, [NA, good / 2, good, 0, NA, NA])
    np.testing.assert_allclose(found.advantage, [0, 0, 1, -1, NA, 0], atol=1e-4)

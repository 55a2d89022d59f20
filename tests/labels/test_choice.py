"""Which label a policy takes, and the ledger that the labels stand in."""

import polars as pl
import pytest

from pipeline.errors import BadConfig, BadTable
from pipeline.labels.choice import ChoicePolicy, choose_labels
from pipeline.labels.ledger import newest, with_entries, with_voices
from pipeline.labels.rows import label_rows
from schemas import StepLabels


def label(labeller: str, hard: bool | None, *, node: int = 1, version: str = "0001/1", **columns) -> pl.DataFrame:
    soft = columns.pop("soft", None if hard is None else float(hard))
    row = pl.DataFrame([{"task": "t", "tree": "t@r0", "node": node, "hard": hard, "soft": soft, **columns}])
    return label_rows(row, labeller=labeller, version=version)


SURE = {"soft": 0.9, "low": 0.6, "high": 0.98, "k": 10}
UNSURE = {"soft": 0.6, "low": 0.3, "high": 0.8, "k": 10}


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        pytest.param([("tool", False, {}), ("human", True, {}), ("monte_carlo", True, SURE)], "tool", id="tool first"),
        pytest.param(
            [("human", False, {}), ("monte_carlo", True, SURE), ("capo", True, {})], "human", id="then people"
        ),
        pytest.param([("monte_carlo", True, SURE), ("genprm", False, {})], "monte_carlo", id="then a sure interval"),
        pytest.param([("monte_carlo", True, UNSURE), ("genprm", False, {})], "genprm", id="else a judge"),
        pytest.param([("tool", None, {}), ("capo", True, {})], "capo", id="undecided is passed over"),
        pytest.param([("monte_carlo", True, UNSURE)], None, id="nobody"),
        pytest.param([("other", True, {})], None, id="not in the order"),
    ],
)
def test_what_the_default_policy_takes(labels, taken):
    rows = pl.concat([label(name, hard, **columns) for name, hard, columns in labels])
    chosen = StepLabels.validate(choose_labels(rows))
    assert chosen["labeller"].to_list() == ([taken] if taken else [])


def test_a_sure_interval_gives_the_side_that_it_lies_on():
    low = {"soft": 0.1, "low": 0.02, "high": 0.4, "k": 10}
    rows = pl.concat([label("monte_carlo", True, **low), label("monte_carlo", True, node=2, **SURE)])
    assert choose_labels(rows)["hard"].to_list() == [False, True]
    loose = ChoicePolicy(("monte_carlo",), threshold=0.05, excluded=False)
    assert choose_labels(rows, loose)["hard"].to_list() == [True, True]


def test_a_policy_says_what_it_is():
    assert str(ChoicePolicy()) == "tool over human over monte_carlo whose interval excludes 0.5 over judge"
    with pytest.raises(BadConfig, match="name each once"):
        ChoicePolicy(("tool", "tool"))


def test_versions_of_a_labeller_are_not_mixed_silently():
    rows = pl.concat(
        [
            label("monte_carlo", True, version="0001/2-verifier1", **SURE),
            label("monte_carlo", True, node=2, version="0001/2-verifier2", **SURE),
        ]
    )
    with pytest.raises(BadTable, match="of monte_carlo are of versions 2-verifier1 and 2-verifier2; label the whole"):
        choose_labels(rows)
    people = pl.concat([label("human", True, version="0001/ada"), label("human", True, node=2, version="0001/alan")])
    assert choose_labels(people).height == 2


class TestLedger:
    def entries(self, rows: pl.DataFrame) -> list[tuple]:
        return list(StepLabels.validate(rows).select("node", "version", "hard").iter_rows())

    def test_what_is_said_again_is_no_new_entry(self):
        once = with_entries(label("tool", True).clear(), label("tool", True, version="1"))
        assert self.entries(once) == [(1, "0001/1", True)]
        assert with_entries(once, label("tool", True, version="1")).equals(once)

    def test_what_changes_is_added_and_what_was_said_stays(self):
        rows = with_entries(label("tool", True).clear(), label("tool", True, version="1"))
        rows = with_entries(rows, label("tool", False, version="1"))
        rows = with_entries(rows, label("tool", False, version="2"))
        assert self.entries(rows) == [(1, "0001/1", True), (1, "0002/1", False), (1, "0003/2", False)]
        assert self.entries(newest(rows)) == [(1, "0003/2", False)]

    def test_what_is_said_no_more_becomes_unknown(self):
        both = pl.concat([label("tool", True, version="1"), label("tool", False, node=2, version="1")])
        rows = with_entries(with_entries(both.clear(), both), label("tool", True, version="1"))
        assert self.entries(rows) == [(1, "0001/1", True), (2, "0001/1", False), (2, "0002/1", None)]
        assert with_entries(rows, label("tool", True, version="1")).equals(rows)

    def test_the_tenth_thousandth_entry_is_newer_than_the_second(self):
        rows = pl.concat([label("tool", True, version="0002/1"), label("tool", False, version="10000/1")])
        assert newest(rows)["hard"].to_list() == [False]

    def test_entries_of_earlier_versions_get_numbers(self):
        rows = with_entries(label("tool", True, version="1"), label("tool", False, version="2"))
        assert self.entries(rows) == [(1, "0001/1", True), (1, "0002/2", False)]

    def test_people_have_entries_of_their_own(self):
        said = pl.concat([label("human", True, version="ada"), label("human", False, version="alan")])
        rows = with_voices(said.clear(), said)
        assert self.entries(rows) == [(1, "0001/ada", True), (1, "0002/alan", False)]
        rows = with_voices(
            rows, pl.concat([label("human", False, version="ada"), label("human", False, version="alan")])
        )
        assert self.entries(rows)[2:] == [(1, "0003/ada", False)]

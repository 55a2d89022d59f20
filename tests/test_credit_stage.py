"""The stage of credit: a list of methods, batches of any size, parameters, and what it refuses before it writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_round import Pupil, copied, run, scripted

from pipeline.credit import METHODS
from pipeline.credit.columns import CreditColumns, Method
from pipeline.credit.inputs import INPUTS
from pipeline.credit.tables import columns_for, trees_from_nodes
from pipeline.errors import BadConfig, BadTable
from pipeline.stages import credit as stage
from pipeline.stages.credit import CreditConfig, batches, credited, read_params, write_credit
from pipeline.stages.work import Work
from pipeline.store import write as writing
from pipeline.store.batches import ahead, beside
from pipeline.store.write import group_edges
from schemas import Credit


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory):
    """A whole round, made once."""
    with scripted(tmp_path_factory.mktemp("round"), Pupil()) as made:
        run(made)
        yield made


@pytest.fixture
def torn(work: Work, tmp_path, monkeypatch) -> Work:
    """The same round with a row group a task."""
    mine = copied(work, tmp_path)
    monkeypatch.setattr(writing, "group_edges", partial(group_edges, max_rows=1))
    for table in ("nodes", "verdicts"):
        for place in mine.places(table):
            entry = mine.store.entry(table, place)
            mine.store.write(table, mine.store.read(table, [place]), place, inputs=entry.inputs)
    return mine


def of(work: Work, method: str) -> pl.DataFrame:
    return work.store.read("credit", work.places("credit", stage=method))


def changed_at(work: Work) -> dict[str, int]:
    """When the file of each method was written."""
    return {at.stage: at.path(work.store.root, "credit").stat().st_mtime_ns for at in work.places("credit")}


@dataclass(frozen=True, slots=True)
class Nothing:
    """Parameters of a method that has none."""

    scale: float = 1.0


def needing(*needs: str) -> Method:
    def say(trees, params):
        return CreditColumns(advantage=np.zeros(len(trees.parent)))

    return Method(say, origins=("prompt", "sample", "branch"), params=Nothing, needs=needs)


class TestStage:
    def test_a_tree_of_equal_rewards_is_flagged(self, work):
        (batch,) = batches(work, METHODS["grpo"], work.places("verdicts")[0].shard)
        alike, unjudged = batch.verdicts["tree"].unique().sort()[:2]
        rewards = pl.when(tree=alike).then(1.0).when(tree=unjudged).then(None).otherwise("reward")
        verdicts = batch.verdicts.with_columns(reward=rewards.cast(pl.Float32))
        rows = credited("grpo", METHODS["grpo"], METHODS["grpo"].params(), batch._replace(verdicts=verdicts))
        assert set(rows.filter(tree=alike)["degenerate"]) == {True}
        assert set(rows.filter(tree=alike)["advantage"].drop_nulls()) == {0.0}
        assert set(rows.filter(tree=unjudged)["degenerate"]) == {None}
        assert False in set(rows["degenerate"])

    def test_a_report_a_method_and_nothing_else_is_touched(self, work, tmp_path):
        mine = copied(work, tmp_path)
        before = {
            place.stage: place.path(mine.store.root, "credit").stat().st_mtime_ns for place in mine.places("credit")
        }
        mine.places("credit", stage="grpo")[0].path(mine.store.root, "credit").unlink()
        reports = write_credit(mine, CreditConfig(("grpo", "tempo", "grpo")))
        assert [(report.stage, report.fresh) for report in reports] == [("grpo", 1), ("tempo", 0)]
        after = {
            place.stage: place.path(mine.store.root, "credit").stat().st_mtime_ns for place in mine.places("credit")
        }
        assert {name for name in before if after[name] != before[name]} == {"grpo"}
        assert of(mine, "grpo").equals(of(work, "grpo"))

    @pytest.mark.parametrize("name", ["grpo", "spo_tree", "tempo"])
    def test_any_batch_size_gives_the_same(self, work, torn, name):
        method, shard = METHODS[name], work.places("nodes", stage="rollouts")[0].shard
        for rows in (1, 10**6):
            read = list(batches(torn, method, shard, rows=rows))
            assert len(read) == (3 if rows == 1 else 1)
            found = pl.concat([credited(name, method, method.params(), batch) for batch in read])
            assert found.equals(of(work, name))

    def test_parameters_are_in_the_file_and_redo_the_method(self, work, tmp_path):
        mine = copied(work, tmp_path)
        (report,) = write_credit(mine, CreditConfig(("grpo",), '{"convention": "rloo_verl"}'))
        assert report.fresh == 1
        entry = mine.store.entry("credit", mine.places("credit", stage="grpo")[0])
        assert '"convention": "rloo_verl"' in entry.inputs["config"]
        assert entry.inputs["method"] == "grpo 1"
        assert not of(mine, "grpo").equals(of(work, "grpo"))

    def test_a_method_across_tasks_sees_the_whole_shard(self, torn, monkeypatch):
        config, found = CreditConfig(("grpo",), '{"convention": "grpo_trl_scale_batch"}'), []
        for rows in (1, 10**6):
            monkeypatch.setattr(stage, "BATCH_ROWS", rows)
            write_credit(torn, config)
            found.append(of(torn, "grpo"))
            torn.places("credit", stage="grpo")[0].path(torn.store.root, "credit").unlink()
        assert found[0].equals(found[1])
        assert found[0]["advantage"].abs().sum() > 0

    @pytest.mark.parametrize(
        ("needs", "said"),
        [
            pytest.param(
                ("state",), "nodes: state_key is null from tree .*, node 0 on; gather rollouts from", id="states"
            ),
            pytest.param(("step_reward",), "nodes: step_reward is null from tree .*, node 0 on; gather", id="rewards"),
        ],
    )
    def test_what_a_method_lacks_is_named_before_anything_is_written(self, work, tmp_path, monkeypatch, needs, said):
        mine = copied(work, tmp_path)
        monkeypatch.setitem(METHODS, "needy", needing(*needs))
        with pytest.raises(BadTable, match=said):
            write_credit(mine, CreditConfig(("needy",)))
        assert mine.places("credit", stage="needy") == []
        assert not list(mine.store.root.rglob("*.part"))

    def test_labels_come_from_the_labeller_that_the_parameters_name(self, work, tmp_path, monkeypatch):
        mine = copied(work, tmp_path)
        seen = {}

        def say(trees, params):
            seen["soft"] = trees.given["step_soft"]
            return CreditColumns(advantage=np.nan_to_num(trees.given["step_soft"]))

        method = Method(say, origins=("prompt", "sample", "branch"), params=Nothing, needs=("step_soft",))
        monkeypatch.setitem(METHODS, "soft", method)
        write_credit(mine, CreditConfig(("soft",)))
        labels = mine.store.read("step_labels", mine.places("step_labels"))
        both = of(mine, "soft").join(labels, on=["tree", "node"]).filter(pl.col("soft").is_not_null())
        assert both.height == labels["soft"].count() > 0
        assert (both["advantage"] - both["soft"]).abs().max() < 1e-6
        for place in mine.places("step_labels"):
            place.path(mine.store.root, "step_labels").unlink()
        with pytest.raises(BadTable, match="there are no step_labels; run `branchpoint step-labels`"):
            write_credit(mine, CreditConfig(("soft",)))
        with pytest.raises(BadConfig, match="labeller 'nobody' does not exist; choose of monte_carlo"):
            write_credit(mine, CreditConfig(("soft",), labeller="nobody"))


class TestParams:
    def test_those_given_replace_the_published_ones(self):
        assert read_params("tempo", '{"eps": 1, "normalize_by_std": false}').eps == 1
        assert read_params("tempo", "") == METHODS["tempo"].params()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            pytest.param("{", "are no JSON object; give any of normalize_by_std, eps, ddof", id="no JSON"),
            pytest.param("[1]", "are no JSON object", id="a list"),
            pytest.param('{"epsilon": 1}', "tempo has no parameter 'epsilon'; it has normalize", id="name"),
            pytest.param('{"eps": "1"}', "tempo: eps is '1'; give it as its default is, 1e-06", id="text"),
            pytest.param('{"normalize_by_std": 1}', "normalize_by_std is 1; give it as", id="truth"),
            pytest.param('{"eps": true}', "eps is True", id="a truth for a number"),
            pytest.param('{"ddof": 1.5}', "ddof is 1.5", id="fraction"),
            pytest.param('{"eps": NaN}', "eps is nan", id="no number"),
            pytest.param('{"eps": 1e999}', "eps is inf", id="infinity"),
        ],
    )
    def test_refusals(self, text, said):
        with pytest.raises(BadConfig, match=said):
            read_params("tempo", text)

    def test_what_is_not_set_has_a_type_too(self):
        assert read_params("attention_rhythm", '{"tau_waad": null}').tau_waad is None
        assert read_params("attention_rhythm", '{"tau_waad": 1}').tau_waad == 1
        with pytest.raises(BadConfig, match="tau_waad is 'x'; give a float"):
            read_params("attention_rhythm", '{"tau_waad": "x"}')

    def test_one_method_with_parameters(self, work):
        with pytest.raises(BadConfig, match="parameters are given for several methods; name one"):
            write_credit(work, CreditConfig(("grpo", "tempo"), "{}"))
        with pytest.raises(BadConfig, match="credit method 'gold' does not exist; choose of grpo"):
            write_credit(work, CreditConfig(("gold",)))


NODES = pl.DataFrame(
    {
        "task": ["a", "a", "a", "b", "b"],
        "tree": ["a@r0", "a@r0", "a@r0", "b@r0", "b@r0"],
        "node": [0, 1, 3, 0, 1],
        "parent": [None, 0, 1, None, 0],
        "depth": [0, 1, 2, 0, 1],
        "origin": ["prompt", "sample", "sample", "prompt", "sample"],
        "token_count": [1, 2, 1, 1, 0],
        "token_ids": [[9], [1, 2], [3], [9], []],
        "logprobs": [None, [-0.5, -1.0], [-0.25], None, []],
        "turn": [0, 1, 2, 0, 1],
        "agent": ["solver", "solver", "editor", "solver", "reflector"],
        "kind": ["prompt", "step", "step", "prompt", "step"],
        "sampled": [False, True, True, False, None],
        "state_key": [None, "x", "x", None, "x"],
        "step_reward": [None, 1.5, None, None, -2.0],
        "text": ["q", "s", "t", "q", "u"],
        "tool_calls": [None, "[]", None, None, None],
        "finish": [None, None, "length", None, "stop"],
    },
    schema_overrides={"node": pl.Int32, "parent": pl.Int32, "depth": pl.Int32, "token_count": pl.Int32},
)
VERDICTS = pl.DataFrame({"tree": ["a@r0", "z@r0"], "node": [3, 0], "reward": [1.0, 0.5]})
ALL = tuple(name for name in INPUTS if INPUTS[name].source.startswith("nodes."))


class TestInputs:
    def test_each_is_read_off_its_column(self):
        trees = trees_from_nodes(NODES, VERDICTS, needs=ALL)
        assert trees.parent.tolist() == [-1, 0, 1, -1, 3]
        assert trees.tokens.tolist() == [9, 1, 2, 3, 9]
        assert trees.given["turn"].tolist() == [0, 1, 2, 0, 1]
        assert trees.given["agent"].tolist() == [0, 0, 2, 0, 1]
        assert trees.given["kind"].tolist() == [0, 1, 1, 0, 1]
        assert trees.given["sampled"].tolist() == [False, True, True, False, False]
        assert trees.given["origin"].tolist() == [0, 1, 1, 0, 1]
        assert trees.given["finish"].tolist() == [-1, -1, 1, -1, 0]
        assert trees.given["step_reward"].tolist() == [0, 1.5, 0, 0, -2]
        assert trees.given["text"].to_list() == ["q", "s", "t", "q", "u"]
        np.testing.assert_array_equal(trees.given["logprobs"], [np.nan, -0.5, -1.0, -0.25, np.nan])
        states = trees.given["state"]
        assert states[0] == states[3] == -1
        assert states[1] == states[2] >= 0
        assert states[4] not in (-1, states[1]), "equal states of two tasks are not one"
        assert trees_from_nodes(NODES, VERDICTS, needs=()).tokens is None

    def test_scores_are_laid_beside_the_nodes_they_name(self):
        scores = {
            "critic_q": pl.DataFrame({"tree": ["b@r0", "z@r0", "a@r0"], "node": [1, 0, 3], "value": [0.5, 9.0, None]}),
            "waad": pl.DataFrame({"tree": ["b@r0", "a@r0"], "node": [0, 1], "token_values": [[4.0], [1.0, None]]}),
            "subgoals": pl.DataFrame({"tree": ["a@r0"], "node": [3], "text": ['["key"]']}),
        }
        given = trees_from_nodes(NODES, VERDICTS, needs=tuple(scores), scores=scores).given
        np.testing.assert_array_equal(given["critic_q"], [np.nan, np.nan, np.nan, np.nan, 0.5])
        np.testing.assert_array_equal(given["waad"], [np.nan, 1.0, np.nan, np.nan, 4.0])
        assert given["subgoals"].to_list() == [None, None, '["key"]', None, None]

    @pytest.mark.parametrize(
        ("name", "rows", "said"),
        [
            pytest.param("critic_q", None, "there are no scores critic_q", id="no file"),
            pytest.param(
                "critic_q",
                {"tree": ["a@r0"] * 2, "node": [1, 1], "value": [0.5, 0.25]},
                "tree a@r0, node 1 has 2 rows",
                id="two for a node",
            ),
            pytest.param(
                "waad",
                {"tree": ["a@r0"], "node": [1], "token_values": [[1.0]]},
                "tree a@r0, node 1: token_values is not as long",
                id="a list too short",
            ),
        ],
    )
    def test_scores_at_fault_are_named(self, name, rows, said):
        scores = {} if rows is None else {name: pl.DataFrame(rows, schema_overrides={"tree": pl.String})}
        with pytest.raises(BadTable, match=said):
            trees_from_nodes(NODES, VERDICTS, needs=(name,), scores=scores)

    def test_categories_are_as_good_as_strings(self):
        batch = NODES.to_arrow()
        coded = batch.set_column(1, "tree", batch["tree"].cast(pa.string()).dictionary_encode())
        found = trees_from_nodes(pl.DataFrame(coded), VERDICTS)
        assert found.parent.tolist() == [-1, 0, 1, -1, 3]
        np.testing.assert_array_equal(found.reward, [np.nan, np.nan, 1, np.nan, np.nan])

    def test_columns_that_a_method_reads(self):
        assert columns_for(needing("state", "tokens"))[-2:] == ["state_key", "token_ids"]
        assert "text" not in columns_for(needing())

    @pytest.mark.parametrize(
        ("nodes", "verdicts", "needs", "said"),
        [
            pytest.param(
                NODES.with_columns(parent=pl.Series([None, 0, 2, None, 0], dtype=pl.Int32)),
                VERDICTS,
                (),
                r"nodes: tree a@r0, node 3: its parent 2 is not there; ",
                id="orphan",
            ),
            pytest.param(
                NODES.with_columns(parent=pl.Series([None, 3, 1, None, 0], dtype=pl.Int32)),
                VERDICTS,
                (),
                r"nodes: tree a@r0, node 1: its parent must stand before it; ",
                id="cycle",
            ),
            pytest.param(
                NODES.with_columns(depth=pl.Series([0, 1, 5, 0, 1], dtype=pl.Int32)),
                VERDICTS,
                (),
                r"nodes: tree a@r0, node 3: its depth is not its parent's plus one; ",
                id="depth",
            ),
            pytest.param(
                NODES,
                VERDICTS.with_columns(reward=pl.Series([float("nan"), 0.5])),
                (),
                r"verdicts: reward of tree a@r0, node 3 is not a number; ",
                id="reward is no number",
            ),
            pytest.param(
                NODES,
                pl.concat([VERDICTS, VERDICTS]),
                (),
                r"verdicts: tree a@r0, node 3 has 2 rows; expected one; ",
                id="two verdicts",
            ),
            pytest.param(
                NODES.with_columns(logprobs=pl.Series([None, [-0.5], [-0.25], None, []])),
                VERDICTS,
                ("logprobs",),
                r"nodes: tree a@r0, node 1: logprobs is not as long as its tokens; ",
                id="log-probabilities too few",
            ),
            pytest.param(NODES.drop("turn"), VERDICTS, ("turn",), "nodes have no turn; run the stage", id="no column"),
            pytest.param(NODES, VERDICTS, ("step_soft",), "step_labels have no soft; run", id="labels"),
            pytest.param(NODES.reverse(), VERDICTS, (), "tree b@r0, node 0: does not come after", id="not in order"),
            pytest.param(
                NODES[[0, 3, 4, 1, 2]],
                VERDICTS,
                (),
                "rows of tree a@r0 do not lie together",
                id="torn apart",
            ),
        ],
    )
    def test_refusals_name_table_row_and_remedy(self, nodes, verdicts, needs, said):
        with pytest.raises(BadTable, match=said):
            trees_from_nodes(nodes, verdicts, needs=needs)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_beside_gives_each_batch_the_rows_of_its_tasks(data):
    def table(tasks: str) -> pa.Table:
        return pa.table({"task": pa.array(list(tasks), pa.string()), "at": pa.array(range(len(tasks)), pa.int32())})

    def cut(tasks: str) -> list[pa.Table]:
        """Slices of whole tasks."""
        groups = [letter * tasks.count(letter) for letter in sorted(set(tasks))]
        found, held = [], ""
        for group in groups:
            held += group
            if data.draw(st.booleans()):
                found, held = [*found, held], ""
        return [table(some) for some in [*found, held] if some]

    words = st.text(st.sampled_from("abcdefg"), max_size=14).map(lambda text: "".join(sorted(text)))
    first, other = data.draw(words), data.draw(words)
    seen = set()
    for batch, (rows,) in beside(iter(cut(first)), iter(cut(other))):
        tasks = set(batch["task"].to_pylist())
        seen |= tasks
        got = [] if rows is None else rows["task"].to_pylist()
        for task in tasks:
            assert got.count(task) == other.count(task)
        assert got == sorted(got)
    assert seen == set(first)


def test_what_is_made_ahead_is_the_same_and_so_is_its_error():
    def numbers():
        yield from (1, 2)
        raise BadTable("three", remedy="stop")

    made = ahead(numbers())
    assert [next(made), next(made)] == [1, 2]
    with pytest.raises(BadTable, match="three; stop"):
        next(made)
    assert list(ahead(iter(()))) == []


def test_credit_rows_are_of_the_table(work):
    Credit.validate(of(work, "tempo"))

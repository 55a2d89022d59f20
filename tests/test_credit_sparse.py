"""Credit of rounds in which one task alone has labels, scores, states and step rewards: the same in batches and shards
of any size; what no task has is refused before anything is written.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import NamedTuple

import polars as pl
import pytest
from scripted_round import Pupil, changed, copied, read, scripted

from pipeline.credit import METHODS
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.credit.lacking import always_known
from pipeline.errors import BadTable
from pipeline.stages import credit as stage
from pipeline.stages.credit import CreditConfig, batches, write_credit
from pipeline.stages.rollouts import RolloutConfig, write_rollouts
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store import write as writing
from pipeline.store.write import group_edges
from schemas import Scores, StepLabels
from schemas.base import column_types

NEEDY = [name for name, method in METHODS.items() if not all(map(always_known, method.needs))]
OF_TASKS = [name for name in NEEDY if not METHODS[name].across_tasks(METHODS[name].params())]
TEXTS = {"useful": "[1, 0]", "subgoals": '["a"]', "reference_calls": '[{"name": "search"}]'}


class Rounds(NamedTuple):
    """The same rollouts of three tasks: as drawn, and given more; that again with a shard a task."""

    plain: Work
    sparse: Work
    shards: Work


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp
    with scripted(folder("round"), Pupil()) as plain, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "group_edges", partial(group_edges, max_rows=1))
        drawn(plain)
        sparse = copied(plain, folder("sparse"))
        shards = changed(copied(plain, folder("shards")), size=("max_tokens", "shard_tasks = 1\nmax_tokens"))
        drawn(shards)
        for work in (sparse, shards):
            enrich(work)
        yield Rounds(plain, sparse, shards)


def drawn(work: Work) -> None:
    write_tasks(work)
    write_rollouts(work, RolloutConfig(group=4))


def enrich(work: Work) -> None:
    """Give the second of three tasks all that a method may need."""
    known = read(work, "nodes")["task"].unique().sort()[1]
    for place in work.places("nodes"):
        entry, nodes = work.store.entry("nodes", place), work.store.read("nodes", [place])
        step = (pl.col("task") == known) & (pl.col("kind") == "step")
        paid = pl.when(step).then(pl.col("node") % 3).cast(pl.Float32)
        nodes = nodes.with_columns(state_key=pl.when(step).then(pl.col("depth").cast(pl.String)), step_reward=paid)
        work.store.write("nodes", nodes, place, inputs=entry.inputs)
        some = nodes.filter(task=known)
        write_labels(work, place.shard, some, hard=pl.col("node") % 5 != 0, soft=pl.col("node") % 4 / 4)
        for name, one in INPUTS.items():
            if one.table == SCORES:
                write_scores(work, place.shard, name, some)


def write_labels(work: Work, shard: str, nodes: pl.DataFrame, *, version: str = "0001/1", **said) -> None:
    rows = nodes.filter(kind="step").select("task", "tree", "node", labeller=pl.lit("monte_carlo"), **columns(said))
    rows = rows.with_columns(version=pl.lit(version))
    at = work.place("monte_carlo", shard)
    before = work.store.read("step_labels", [at])
    rows = pl.concat([before, filled(rows, StepLabels)]).sort("task", "tree", "node", "version")
    work.store.write("step_labels", rows, at, inputs={})


def write_scores(work: Work, shard: str, name: str, nodes: pl.DataFrame) -> None:
    flags = pl.Series(Random(name).choices((0.0, 1.0), k=64))
    said = {
        "value": pl.when(kind="step").then(pl.col("depth") - 1) if name == "budget" else flags.gather(nodes["node"]),
        "token_values": pl.lit(-0.5).repeat_by("token_count"),
        "text": TEXTS.get(name),
    }
    column = INPUTS[name].column
    rows = nodes.select("task", "tree", "node", name=pl.lit(name), **columns({column: said[column]}))
    work.store.write(SCORES, filled(rows, Scores), work.place(name, shard), inputs={})


def columns(said: dict) -> dict[str, pl.Expr]:
    return {name: value if isinstance(value, pl.Expr | pl.Series) else pl.lit(value) for name, value in said.items()}


def filled(rows: pl.DataFrame, table: type) -> pl.DataFrame:
    """All columns of a table, those not said null."""
    types = column_types(table)
    rest = {name: pl.lit(None) for name in types if name not in rows.columns}
    return rows.with_columns(**rest).select(*types).cast(types)


def credited(work: Work, name: str) -> pl.DataFrame:
    """What the stage writes, in the order of the table; the files are removed again."""
    write_credit(work, CreditConfig((name,)))
    found = read(work, "credit", name)
    for place in work.places("credit", stage=name):
        work.store.drop("credit", place)
    return found


@pytest.mark.parametrize("name", NEEDY)
def test_any_batch_size_gives_the_same(rounds, name, monkeypatch):
    method, (shard,) = METHODS[name], rounds.sparse.shards()
    read_as = list(batches(rounds.sparse, method, shard, rows=1))
    assert len(read_as) == 3
    assert all(len(batch.nodes) for batch in read_as)
    found = []
    for rows in (1, 10**6):
        monkeypatch.setattr(stage, "BATCH_ROWS", rows)
        found.append(credited(rounds.sparse, name))
    assert found[0].equals(found[1])
    steps = found[0].join(read(rounds.sparse, "nodes").filter(kind="step"), on=["tree", "node"], how="semi")
    known = steps.filter(task=steps["task"].unique().sort()[1])
    if name != "brpo":  # there are no summaries
        assert known["advantage"].n_unique() + known["token_advantages"].n_unique() > 2


@pytest.mark.parametrize("name", OF_TASKS)
def test_any_shards_give_the_same(rounds, name):
    assert len(rounds.shards.shards()) == 3
    assert credited(rounds.shards, name).equals(credited(rounds.sparse, name))


@pytest.mark.parametrize("name", NEEDY)
def test_what_no_task_has_is_refused(rounds, name):
    with pytest.raises(BadTable, match=r"; (run|make|gather) "):
        write_credit(rounds.plain, CreditConfig((name,)))
    assert rounds.plain.places("credit") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("capo", "step_labels: hard is null from tree .*@r0, node 1 on; run `branchpoint", id="withdrawn"),
        pytest.param("lare", "there are no scores latent_reward; make them with `branchpoint", id="no rows"),
        pytest.param("gigpo", "nodes: state_key is null from tree .*@r0, node 0 on; gather rollouts", id="nulls"),
    ],
)
def test_files_that_say_nothing_are_refused(rounds, tmp_path, name, said):
    mine = copied(rounds.plain, tmp_path)
    (shard,), nodes = mine.shards(), read(mine, "nodes")
    write_labels(mine, shard, nodes, hard=True)
    write_labels(mine, shard, nodes, version="0002/1")
    write_scores(mine, shard, "latent_reward", nodes.clear())
    with pytest.raises(BadTable, match=said):
        write_credit(mine, CreditConfig((name,)))
    assert mine.places("credit") == []

"""Stage: a process reward model as a labeller. It reads what is there; nothing is drawn.

Its scores are entries of the ledger of step labels: the labeller is `prm`, and who speaks is the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.credit.tables import TREE_COLUMNS, trees_from_nodes
from pipeline.errors import BadConfig
from pipeline.labels.ledger import with_entries
from pipeline.labels.prm import Prm, find_prm
from pipeline.labels.rows import label_rows
from pipeline.report import Progress, Report
from pipeline.stages.earlier import GENERATING, judged_from, rollout_shards
from pipeline.stages.step_labels import earlier_entries, figures
from pipeline.stages.work import Shards, Work, inputs
from schemas import Verdicts
from schemas.base import column_types

LABELLER = "prm"
VERSION = "1"
COLUMNS = (*TREE_COLUMNS, "context", "token_ids")


@dataclass(frozen=True, slots=True)
class PrmScoresConfig:
    """prm: name, or folder of a process reward model. threshold: chance of being right below which a step is labelled
    wrong.
    """

    prm: str = ""
    threshold: float = 0.5


def write_prm_scores(work: Work, config: PrmScoresConfig = PrmScoresConfig()) -> Report:
    """Score every step of the round that stands under its task's own prompt.

    Raises:
        BadConfig: the threshold is no chance.
        BadModel: there is no such model, or it does not know the tokens.
    """
    if not 0 <= config.threshold <= 1:
        raise BadConfig(f"threshold {config.threshold} is no chance", remedy="give one from 0 to 1")
    prm = find_prm(config.prm, policies=work.settings.policies)
    shards = Shards(work, LABELLER, ("step_labels",))
    made_from = inputs(VERSION, prm=prm.fingerprint, threshold=str(config.threshold))

    def say(done: int, total: int) -> None:
        work.on_progress(Progress(LABELLER, "paths of the shard", done, total, 0, 0, shards.seconds))

    for shard, _, said in shards.stale(
        rollout_shards(work, columns=()), lambda shard: {**made_from, **judged_from(work, shard, of="step_labels")}
    ):
        places = [work.place(stage, shard) for stage in GENERATING]
        nodes = work.store.read("nodes", places, columns=COLUMNS).sort("tree", "node")
        now = prm_labels(nodes, prm, threshold=config.threshold, on_progress=say)
        shards.write(shard, said, step_labels=with_entries(earlier_entries(work, LABELLER, shard, said), now))
    return shards.finish(**figures(shards.read("step_labels")))


def prm_labels(
    nodes: pl.DataFrame, prm: Prm, *, threshold: float, on_progress: Callable[[int, int], None]
) -> pl.DataFrame:
    """Rows of the step_labels table: `soft` is the model's chance that the step is right, `hard` whether that reaches
    the threshold. `k` and the interval are null: nothing was sampled.

    Each path is read once, from the prompt to its end; a step that several share is scored in the first.

    Args:
        nodes: COLUMNS of whole trees, sorted by tree and node. Those in another context than the task's own prompt,
            those without tokens, and what was shown between turns, have no row.
        on_progress: told how many of how many paths are read.
    """
    from pipeline.labels.prm_model import score_steps

    nodes = nodes.filter((pl.col("context") == 0) & pl.col("kind").is_in(("step", "prompt")))
    trees = trees_from_nodes(nodes, pl.DataFrame(schema=column_types(Verdicts)))
    ends = np.flatnonzero(trees.leaves() & (trees.parent >= 0))
    paths, sizes, offsets = trees.paths(ends), trees.token_counts(), trees.token_offsets
    root = np.flatnonzero(trees.parent < 0)[trees.tree[ends]]
    new = np.zeros(len(paths.nodes), bool)
    new[np.unique(paths.nodes, return_index=True)[1]] = True
    new &= (sizes > 0)[paths.nodes] & (nodes["kind"] == "step").to_numpy()[paths.nodes]
    attempts, places = [], []
    for number, first in enumerate(root):
        span = slice(paths.offsets[number], paths.offsets[number + 1])
        whole = np.concatenate(([first], paths.nodes[span]))
        attempts.append(np.concatenate([trees.tokens[offsets[row] : offsets[row + 1]] for row in whole]))
        places.append((np.cumsum(sizes[whole])[1:] - 1)[new[span]])

    scores = score_steps(prm, attempts, places, on_progress=lambda done: on_progress(done, len(ends)))
    soft = pl.Series(scores).fill_nan(None)
    rows = nodes[paths.nodes[new]].select("task", "tree", "node", soft=soft, hard=soft >= threshold)
    return label_rows(rows.sort("task", "tree", "node"), labeller=LABELLER, version=f"{prm.name}-{prm.fingerprint}")

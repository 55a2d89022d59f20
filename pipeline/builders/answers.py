"""Whole answers to the task itself, as prompt and answer with their verdict: what rows without a counterpart are of.

Columns in, columns out: all answers of a batch of trees at once. Token ids come from the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.store.paths import context_paths, path_values

NODE_COLUMNS = (
    "task",
    "tree",
    "node",
    "parent",
    "context",
    "depth",
    "kind",
    "origin",
    "text",
    "token_ids",
    "token_count",
    "policy",
    "finish",
)
VERDICT_COLUMNS = ("task", "tree", "node", "version", "reward")


def judged_answers(
    nodes: pl.DataFrame, verdicts: pl.DataFrame, *, origins: Sequence[str], separator: str, turns: bool = False
) -> pl.DataFrame:
    """The judged answers under the task's own prompt, a turn each.

    Args:
        nodes: `NODE_COLUMNS` of whole trees.
        verdicts: `tree`, `node`, `reward`, at most one row a node.
        origins: of the leaves.
        separator: closes a step, in text.
        turns: keep answers in several turns too, in which the policy read what it had not written.

    Returns:
        `task, tree, node, policy, reward, prompt, prompt_ids, answer, answer_ids`, sorted by tree and node; empty
        answers are left out. `answer` is the text of the last turn. `said` is as long as `answer_ids`: 1 where a token
        is of an answer, 0 where it was shown to it.

    Raises:
        ValueError: a parent or a context is missing.
    """
    nodes = nodes.sort("tree", "node")
    rewards = nodes.select("tree", "node").join(
        verdicts.select("tree", "node", "reward"), on=["tree", "node"], how="left", maintain_order="left"
    )["reward"]
    ends = nodes["origin"].is_in(list(origins)) & nodes["finish"].is_not_null() & (nodes["kind"] == "step")
    leaves = np.flatnonzero((ends & rewards.is_not_null()).to_numpy())
    paths = context_paths(nodes, leaves)
    prompts, members = paths.nodes[paths.offsets[:-1]], paths.members()
    below = np.ones(len(paths.nodes), bool)
    below[paths.offsets[:-1]] = False
    shown = pl.col("kind") == "prompt"
    steps = pl.DataFrame({"member": members[below]}).with_columns(nodes["text", "kind"][paths.nodes[below]])
    latest = shown.cum_sum(reverse=True) == 0
    texts = steps.group_by("member", maintain_order=True).agg(
        answer=pl.col("text").filter(latest).str.join(separator), turns=shown.sum()
    )
    whole = pl.DataFrame({"member": np.arange(len(leaves))}).join(texts, on="member", how="left")
    found = nodes[leaves].select("task", "tree", "node", "policy")
    lengths = nodes["token_count"].to_numpy()[paths.nodes]
    said = np.repeat((nodes["kind"] != "prompt").to_numpy()[paths.nodes], lengths).astype(np.float32)
    ends = np.concatenate(([0], np.cumsum(lengths)))[paths.offsets]
    rest = pl.col("prompt_ids").list.len()
    return (
        found.with_columns(
            whole["answer", "turns"],
            reward=rewards.gather(leaves),
            prompt=nodes["text"].gather(prompts),
            prompt_ids=nodes["token_ids"].gather(prompts),
            ids=pl.Series(path_values(nodes, paths, "token_ids"), dtype=pl.List(pl.Int32)),
            said=pl.Series(pa.LargeListArray.from_arrays(ends, said)),
            own=nodes["parent"].gather(prompts).is_null(),
        )
        .with_columns(pl.col("said").list.slice(rest), answer_ids=pl.col("ids").list.slice(rest))
        .filter("own", pl.lit(turns) | (pl.col("turns") == 0), pl.col("answer_ids").list.len() > 0)
        .select("task", "tree", "node", "policy", "reward", "prompt", "prompt_ids", "answer", "answer_ids", "said")
    )


def distinct_answers(answers: pl.DataFrame) -> pl.DataFrame:
    """The first of the answers of a tree that are the same tokens, in the order given."""
    key = answers.select("tree", "answer_ids").hash_rows()
    return answers.filter(key.is_first_distinct())

"""Drift: which stored tokens would be others if their text were encoded today. A report, never a failure.

A store is token-exact, so drift changes nothing in it; it tells what would be lost by going through text. Every prompt
is rendered again from its task and the prompt pack, every answer is decoded and encoded again. Copies of an answer are
those of the answer and are not counted again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from pipeline.errors import BadConfig, BadModel
from pipeline.lineage.at_hand import AtHand
from pipeline.lineage.compare import Compared, compare_answers, compare_prompts
from pipeline.lineage.prompts import Outline, Row, ask_again
from pipeline.prompts import PromptPack
from pipeline.report import OnProgress, Progress, silent
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.store.store import Store

if TYPE_CHECKING:
    from pipeline.lineage.codec import Codec

_COLUMNS = (
    "task",
    "tree",
    "node",
    "parent",
    "context",
    "kind",
    "agent",
    "sampled",
    "copied_from",
    "token_ids",
    "text",
    "request",
)
_OUTLINE = ("tree", "node", "parent", "context", "kind", "text")
_ROWS, _ANSWERS = 20_000, 512
"""Nodes read at once, and answers compared at once: tokens are Python's integers here, which are large."""
NO_PACK = "prompts of a suite whose prompt pack is not at hand"


class Differing(NamedTuple):
    """Rows of one kind of drift. share: of the rows looked at."""

    rows: int
    share: float
    first: Compared


@dataclass(slots=True)
class Drift:
    """What was found in a suite and round.

    policy:         name of the policy whose tokenizer and template were used; None where none was at hand.
    looked_at:      rows compared: prompts; answers, each of one request; texts that were written, not sampled.
    counts, firsts: those that differ and the first of them, by key of KINDS.
    not_looked_at:  rows that could not be compared, by reason.
    """

    suite: str
    round: str
    policy: str | None
    looked_at: dict[str, int] = field(default_factory=lambda: {"prompts": 0, "answers": 0, "written": 0})
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, Compared] = field(default_factory=dict)
    not_looked_at: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows looked at."""
        return sum(self.looked_at.values())

    @property
    def kinds(self) -> dict[str, Differing]:
        """What differs, the most frequent first."""
        ordered = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        return {
            kind: Differing(self.counts[kind], self.counts[kind] / self.rows, self.firsts[kind]) for kind in ordered
        }

    def leave_out(self, reason: str, rows: int) -> None:
        """Count rows that cannot be compared."""
        if rows:
            self.not_looked_at[reason] = self.not_looked_at.get(reason, 0) + rows

    def note(self, what: str, found: Sequence[Compared | None]) -> None:
        """Count rows that were compared; None: the same."""
        self.looked_at[what] += len(found)
        for one in found:
            if one is not None:
                self.counts[one.kind] = self.counts.get(one.kind, 0) + 1
                self.firsts.setdefault(one.kind, one)


def find_drift(
    store: Store,
    at_hand: AtHand,
    *,
    suite: str | None = None,
    round: str | None = None,
    on_progress: OnProgress = silent,
) -> Iterator[Drift]:
    """Compare every prompt and answer of a store with what today's tokenizer, template and prompts make of it.

    A suite and round at a time, in bounded memory. Where the policy that sampled is not at hand, and none is named,
    nothing of the round is looked at.

    Raises:
        BadTable: a file is damaged.
    """
    places = store.places("nodes", suite=suite, round=round)
    for (of_suite, of_round), group in groupby(places, key=lambda place: (place.suite, place.round)):
        yield _round(store, at_hand, list(group), Drift(of_suite, of_round, None), on_progress)


def _round(store: Store, at_hand: AtHand, places: list[Place], drift: Drift, on_progress: OnProgress) -> Drift:
    fingerprint = next(
        filter(None, (store.entry("nodes", place).inputs.get("policy") for place in places)), "of no name"
    )
    codec = _codec(at_hand, fingerprint)
    if isinstance(codec, str):
        drift.leave_out(codec, sum(store.rows("nodes", place) for place in places))
        return drift
    drift.policy, pack = at_hand.reader(fingerprint).name, at_hand.pack(drift.suite)
    started, shards = time.monotonic(), sorted({place.shard for place in places})
    for number, shard in enumerate(shards):
        at = Place(drift.suite, EVERY_ROUND, "tasks", shard)
        tasks = {row["task"]: row for row in store.read("tasks", [at]).iter_rows(named=True)}
        of_shard = [place for place in places if place.shard == shard]
        for batch in store.batches("nodes", of_shard, columns=_COLUMNS, rows=_ROWS):
            nodes = pl.from_arrow(batch)
            _prompts(drift, codec, nodes, tasks, pack)
            _answers(drift, codec, nodes)
        on_progress(Progress("drift", "shards", number + 1, len(shards), 0, 0, time.monotonic() - started))
    return drift


def _codec(at_hand: AtHand, fingerprint: str) -> Codec | str:
    """The tokenizer to compare with, or why there is none."""
    policy = at_hand.reader(fingerprint)
    if policy is None:
        return f"nodes of policy {fingerprint}, which is not at hand; name one with --policy"
    try:
        from pipeline.lineage.codec import open_codec

        return open_codec(policy)
    except ImportError as error:
        return f"nodes, since transformers cannot be imported: {error}"
    except (BadModel, BadConfig) as error:
        return f"nodes, since {error}"


def _prompts(drift: Drift, codec: Codec, nodes: pl.DataFrame, tasks: dict[str, Row], pack: PromptPack | None) -> None:
    prompts = list(nodes.filter(pl.col("kind") == "prompt").iter_rows(named=True))
    if pack is None:
        drift.leave_out(NO_PACK, len(prompts))
        return
    later = {prompt["tree"] for prompt in prompts if prompt["parent"] is not None}
    outlines: dict[str, Outline] = {}
    for row in nodes.filter(pl.col("tree").is_in(list(later))).select(_OUTLINE).iter_rows(named=True):
        outlines.setdefault(row["tree"], {})[row["node"]] = row
    by_role: dict[str, list[tuple[Row, list]]] = {}
    for prompt in prompts:
        asked = ask_again(prompt, outlines.get(prompt["tree"], {}), tasks.get(prompt["task"]), pack)
        if asked.missing:
            drift.leave_out(asked.missing, 1)
        else:
            by_role.setdefault(asked.role, []).append((prompt, asked.messages))
    for role, some in by_role.items():
        try:
            now = list(codec.render_all([messages for _, messages in some]))
        except BadModel:
            drift.leave_out(f"prompts to {role} that the chat template refuses", len(some))
        else:
            drift.note("prompts", compare_prompts(codec, [prompt for prompt, _ in some], now))


def _answers(drift: Drift, codec: Codec, nodes: pl.DataFrame) -> None:
    """Join the nodes of each request, which follow each other, and compare."""
    made = nodes.filter((pl.col("kind") != "prompt") & pl.col("copied_from").is_null())
    begins = ~(
        (pl.col("tree") == pl.col("tree").shift())
        & (pl.col("request") == pl.col("request").shift())
        & (pl.col("parent") == pl.col("node").shift())
        & (pl.col("node") == pl.col("node").shift() + 1)
    ).fill_null(False)
    answers = (
        made.with_columns(answer=begins.cum_sum())
        .group_by("answer", maintain_order=True)
        .agg(
            pl.col("task", "tree", "sampled").first(),
            pl.col("node", "text"),
            pl.col("token_ids").alias("steps"),
        )
    )
    for sampled, what in ((True, "answers"), (False, "written")):
        for some in answers.filter(pl.col("sampled") == sampled).iter_slices(_ANSWERS):
            drift.note(what, compare_answers(codec, some.to_dicts()))

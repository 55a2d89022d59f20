"""Stage: edits by hand. A person or a tool writes a step anew, and both arms are drawn as for any intervention.

A shard says of itself which edits it is made with. One more is put to them, and all are laid out again in their order:
what was drawn is in the ledger, so an edit costs its own continuations alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pipeline.errors import BadConfig, BadInput, BadTable, check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.arms import Edited, arm_columns, draw_arms, put_edit
from pipeline.stages.earlier import BEFORE, Earlier, rollout_shards
from pipeline.stages.growing import Grower, Growth, Rewards, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.varying import TABLES, Case, rate, sampled_tokens, variant_row, variants_frame
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.answers import read_index
from pipeline.variants.intervene import Proposal, keep_reason, states_answer

STAGE = "intervene"
VERSION = "2"

Author = Literal["person", "tool"]


@dataclass(frozen=True, slots=True)
class InterveneConfig:
    """tree: in which a step is written anew. node: that step. text: what stands in its place. file: JSON Lines with
    several edits instead, each with tree, node, text. author: who wrote them. continuations: drawn in each arm.
    anew: earlier edits of the shards are forgotten; of all shards, where no edit is given.
    """

    tree: str = ""
    node: int = -1
    text: str = ""
    file: str = ""
    author: Author = "person"
    continuations: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    anew: bool = False


class Edit(NamedTuple):
    """A step to be written anew, and how its arms are drawn."""

    tree: str
    node: int
    text: str
    author: str
    continuations: int
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class _Laid:
    """What a shard is made with."""

    edits: tuple[Edit, ...]


def write_interventions_by_hand(work: Work, config: InterveneConfig = InterveneConfig()) -> Report:
    """Put edits into the forest, each with continuations of it and of the step it replaces.

    Raises:
        BadConfig, BadInput: an edit names no step of a judged attempt, or is not one step that could be trained on.
        BadTable: earlier edits were laid on nodes that have changed since.
    """
    check_counts(config, continuations=1)
    check_words(config, of="intervene", author=get_args(Author))
    fresh = _edits(config)
    by_shard = rollout_shards(work)
    shard_of = {f"{task}@{work.round}": name for name, rows in by_shard.items() for task in rows["task"]}
    for edit in fresh:
        if edit.tree not in shard_of:
            raise BadConfig(
                f"round {work.round} of suite {work.suite.name} has no tree {edit.tree!r}",
                remedy='`branchpoint sql "from nodes"` lists them',
            )
    shards = Shards(work, STAGE, TABLES)
    wanted = {shard_of[edit.tree] for edit in fresh} or {place.shard for place in work.places("nodes", stage=STAGE)}
    with work.sampler(STAGE) as sampler:
        for name in sorted(wanted):
            known = [] if config.anew else _known(work, name)
            laid = _Laid(tuple(dict.fromkeys([*known, *(edit for edit in fresh if shard_of[edit.tree] == name)])))
            for growth in growing_shards(shards, {name: by_shard[name]}, sampler, version=VERSION, config=laid):
                _lay(growth, laid)
    variants = shards.read("variants")
    return shards.finish(
        edits=variants.height,
        kept=variants["dropped"].null_count(),
        pass_rate_with=rate(variants, "with"),
        pass_rate_without=rate(variants, "without"),
        mean_effect=variants["effect"].mean(),
        tokens=sampled_tokens(shards),
    )


def _edits(config: InterveneConfig) -> list[Edit]:
    """The edits that are given, by options or in a file."""
    drawn = (config.author, config.continuations, config.temperature, config.top_p)
    if config.anew and not (config.file or config.tree):
        return []
    if bool(config.file) == bool(config.tree):
        raise BadConfig("one of tree and file must be given", remedy="give --tree, --node and --text, or --file")
    if not config.file:
        return [Edit(config.tree, config.node, config.text, *drawn)]
    try:
        lines = Path(config.file).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{config.file} cannot be read: {error}", remedy="give a file of JSON Lines") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            edit = Edit(row["tree"], read_index(row["node"]), row["text"], *drawn)
            if not isinstance(edit.tree, str) or edit.node is None or not isinstance(edit.text, str):
                raise TypeError("tree and text are texts, node is a whole number")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                f"{config.file}, line {number} is no edit: {type(error).__name__} {error}",
                remedy='write {"tree": "...", "node": 3, "text": "..."} a line',
            ) from error
        found.append(edit)
    return found


def _known(work: Work, shard: str) -> list[Edit]:
    """The edits that a shard already has, in their order.

    Raises:
        BadTable: they were laid on nodes that have changed since, and their numbers may mean other steps.
    """
    entry = work.store.entry("variants", work.place(STAGE, shard))
    if entry is None:
        return []
    if entry.inputs["nodes"] != Earlier(work, shard).digests(BEFORE[STAGE]):
        raise BadTable(
            f"the edits of {work.suite.name}, round {work.round}, {shard} were laid on nodes that have changed since",
            remedy="give those that still hold once more, with --anew; the others are forgotten",
        )
    said = json.loads(entry.inputs["config"])
    alike = [said[name] for name in Edit._fields if name in said]  # version 1 drew all edits of a shard alike
    return [Edit(*edit, *alike) for edit in said["edits"]]


def _lay(growth: Growth, laid: _Laid) -> None:
    """Put all the edits of a shard in, draw their arms and write them."""
    grower = growth.grower
    work, trees = grower.work, {tree.tree: tree for tree in growth.trees.values()}
    before = [work.place(stage, growth.shard) for stage in BEFORE[STAGE]]
    rewards = rewards_by_node(work.store.read("verdicts", before))
    sources = [_source(trees[edit.tree], edit, growth, rewards) for edit in laid.edits]
    edits = [put_edit(grower, trees[edit.tree], edit.node, edit.text) for edit in laid.edits]
    alike: dict[tuple[int, Sampling], list[Edited]] = {}
    for edit, put in zip(laid.edits, edits, strict=True):
        sampling = Sampling(edit.temperature, edit.top_p, work.suite.max_tokens)
        alike.setdefault((edit.continuations, sampling), []).append(put)
    for (continuations, sampling), some in alike.items():
        draw_arms(grower, some, sampling, continuations=continuations)
    verdicts = growth.judge()
    rewards |= rewards_by_node(verdicts)
    rows = [
        _row(trees[edit.tree], source, edit, arm_columns(put, rewards), number)
        for number, (edit, source, put) in enumerate(zip(laid.edits, sources, edits, strict=True))
    ]
    growth.write(verdicts, variants=variants_frame(rows))


def _source(tree: Tree, edit: Edit, growth: Growth, rewards: Rewards) -> Attempt:
    """The attempt whose step is edited: the first through it; its reward is NaN where it was not judged.

    Raises:
        BadConfig: there is none, or the edit is not one step that could be trained on.
    """
    where = f"node {edit.node} of {edit.tree}"
    for leaf, row in tree.known.items():
        if row["finish"] is not None and row["kind"] == "step" and edit.node in (steps := tree.path(leaf)[1:]):
            break
    else:
        raise BadConfig(f"{where} is no step of an attempt", remedy=f"`branchpoint show {edit.tree}` lists them")
    _check_text(growth.grower, edit, growth.tasks[tree.task], where)
    return Attempt(leaf, tuple(steps), rewards.get((tree.tree, leaf), float("nan")))


def _check_text(grower: Grower, edit: Edit, task: dict[str, Any], where: str) -> None:
    said = f"the edit of {where}"
    if edit.text.encode(errors="replace").decode() != edit.text:
        raise BadConfig(f"{said} is no Unicode text", remedy="write it in UTF-8")
    if not edit.text.strip():
        raise BadConfig(f"{said} is empty", remedy="write the step that shall stand there")
    if grower.work.suite.separator in edit.text:
        raise BadConfig(f"{said} is more than one step", remedy="write a single step, without the separator")
    if not grower.tokens.safe(edit.text):
        raise BadConfig(f"{said} spells a control token", remedy="write it otherwise")
    if states_answer(edit.text, task["answer"]):
        raise BadConfig(f"{said} states the final answer", remedy="write a step that leads there")


def _row(tree: Tree, source: Attempt, edit: Edit, columns: dict[str, Any], number: int) -> dict[str, Any]:
    blamed = source.steps.index(edit.node)
    dropped = keep_reason(
        Proposal(blamed, edit.text, None), outcome=source.reward, successes=columns["with_successes"] or 0
    )
    return variant_row(
        Case(tree, source),
        {
            "variant": f"{tree.tree}/{edit.author}/{edit.node}/{number}",
            "kind": "intervention",
            "author": edit.author,
            "blamed_step": blamed,
            "edit": edit.text,
            "dropped": dropped,
            **columns,
        },
    )

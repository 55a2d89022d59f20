"""Stage: edits by hand. A person or a tool writes a step anew, and both arms are drawn as for any intervention.

The edits of a shard are kept in its variants. One more is put to them, and all are laid out again in their order: what
was drawn is in the ledger, so an edit costs its own continuations alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pipeline.errors import BadConfig, BadInput, check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.arms import arm_columns, draw_arms, put_edit
from pipeline.stages.earlier import rollout_shards
from pipeline.stages.growing import Grower, Growth, growing_shards
from pipeline.stages.judging import rewards_by_node
from pipeline.stages.varying import TABLES, Case, rate, sampled_tokens, variant_row, variants_frame
from pipeline.stages.work import Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.answers import read_index
from pipeline.variants.intervene import states_answer

STAGE = "intervene"
VERSION = "1"

Author = Literal["person", "tool"]


@dataclass(frozen=True, slots=True)
class InterveneConfig:
    """tree: in which a step is written anew. node: that step. text: what stands in its place. file: JSON Lines with
    several edits instead, each with tree, node, text. author: who wrote them. continuations: drawn in each arm.
    """

    tree: str = ""
    node: int = -1
    text: str = ""
    file: str = ""
    author: Author = "person"
    continuations: int = 8
    temperature: float = 1.0
    top_p: float = 1.0


class Edit(NamedTuple):
    """A step to be written anew."""

    tree: str
    node: int
    text: str
    author: str


@dataclass(frozen=True, slots=True)
class _Laid:
    """What a shard is made with."""

    edits: tuple[Edit, ...]
    continuations: int
    temperature: float
    top_p: float


def write_interventions_by_hand(work: Work, config: InterveneConfig = InterveneConfig()) -> Report:
    """Put edits into the forest, each with continuations of it and of the step it replaces.

    Raises:
        BadConfig, BadInput: an edit names no step of a judged attempt, or is not one step that could be trained on.
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
    wanted = {shard_of[edit.tree] for edit in fresh}
    with work.sampler(STAGE) as sampler:
        for name in sorted(wanted):
            known = _known(work, name)
            more = [edit for edit in dict.fromkeys(fresh) if shard_of[edit.tree] == name and edit not in known]
            laid = _Laid((*known, *more), config.continuations, config.temperature, config.top_p)
            for growth in growing_shards(shards, {name: by_shard[name]}, sampler, version=VERSION, config=laid):
                _lay(growth, laid)
    variants = shards.read("variants")
    return shards.finish(
        edits=variants.height,
        pass_rate_with=rate(variants, "with"),
        pass_rate_without=rate(variants, "without"),
        mean_effect=variants["effect"].mean(),
        tokens=sampled_tokens(shards),
    )


def _edits(config: InterveneConfig) -> list[Edit]:
    """The edits that are given, by options or in a file."""
    if bool(config.file) == bool(config.tree):
        raise BadConfig("one of tree and file must be given", remedy="give --tree, --node and --text, or --file")
    if not config.file:
        return [Edit(config.tree, config.node, config.text, config.author)]
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
            edit = Edit(row["tree"], read_index(row["node"]), row["text"], config.author)
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
    """The edits that a shard already has, in their order."""
    found: dict[int, Edit] = {}
    for row in work.store.read("variants", [work.place(STAGE, shard)]).iter_rows(named=True):
        _, node, number = row["variant"].rsplit("/", 2)
        found[int(number)] = Edit(row["tree"], int(node), row["edit"], row["author"])
    return [found[number] for number in sorted(found)]


def _lay(growth: Growth, laid: _Laid) -> None:
    """Put all the edits of a shard in, draw their arms and write them."""
    grower = growth.grower
    trees = {tree.tree: tree for tree in growth.trees.values()}
    sources = [_source(trees[edit.tree], edit, growth) for edit in laid.edits]
    edits = [put_edit(grower, trees[edit.tree], edit.node, edit.text) for edit in laid.edits]
    sampling = Sampling(laid.temperature, laid.top_p, grower.work.suite.max_tokens)
    draw_arms(grower, edits, sampling, continuations=laid.continuations)
    verdicts = growth.judge()
    rewards = rewards_by_node(verdicts)
    rows = [
        _row(trees[edit.tree], source, edit, arm_columns(put, rewards), number)
        for number, (edit, source, put) in enumerate(zip(laid.edits, sources, edits, strict=True))
    ]
    growth.write(verdicts, variants=variants_frame(rows))


def _source(tree: Tree, edit: Edit, growth: Growth) -> Attempt:
    """The attempt whose step is edited: the first through it; its reward is NaN where it is no judged rollout.

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
    return Attempt(leaf, tuple(steps), growth.rewards.get((tree.tree, leaf), float("nan")))


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
    return variant_row(
        Case(tree, source),
        {
            "variant": f"{tree.tree}/{edit.author}/{edit.node}/{number}",
            "kind": "intervention",
            "author": edit.author,
            "blamed_step": source.steps.index(edit.node),
            "edit": edit.text,
            **columns,
        },
    )

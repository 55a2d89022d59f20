"""Stage: edits by hand. A person or a tool writes a step anew, and both arms are drawn as for any intervention.

A shard says of itself which edits it is made with. One more is put to them: what was drawn is in the ledger, so an edit
costs its own continuations alone. An edit of an episode is a turn, and both arms are played to the end; those that were
played stand, and are not gone again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal, get_args

import polars as pl

from pipeline.environments.protocol import Opened
from pipeline.errors import BadConfig, BadTable, check_counts, check_words
from pipeline.generation.engine import Sampling
from pipeline.generation.engines import open_tokens
from pipeline.report import Report
from pipeline.stages.arms import Edited, arm_columns, draw_arms, put_edit
from pipeline.stages.earlier import BEFORE, Earlier, rollout_shards
from pipeline.stages.edits import Edit, Given, read_edits, together
from pipeline.stages.episode_arms import EditCase, check_most, play_arms
from pipeline.stages.growing import Growth, Rewards, growing_shards
from pipeline.stages.judging import is_answer, rewards_by_node
from pipeline.stages.playing import environment_of
from pipeline.stages.replaying import opened_again, replays_of, turns_of
from pipeline.stages.varying import TABLES, finished, rate, variant_row, variants_frame
from pipeline.stages.work import MISSED, Shards, Work
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree, read_trees
from pipeline.variants.intervene import Proposal, keep_reason, states_answer

STAGE = "intervene"
VERSION = "3"

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


@dataclass(frozen=True, slots=True)
class _MadeWith:
    """What a shard is made with. environment: name, version and options, of episodes; empty: it has none."""

    edits: tuple[Edit, ...]
    environment: str


def write_interventions_by_hand(work: Work, config: InterveneConfig = InterveneConfig()) -> Report:
    """Put edits into the forest, each with continuations of it and of the step it replaces.

    Raises:
        BadConfig, BadInput: an edit names no step of an attempt, or is not another one that could be trained on. No
            edit was put in then.
        BadTable: earlier edits were laid on nodes that have changed since.
    """
    check_counts(config, continuations=1)
    check_words(config, of="intervene", author=get_args(Author))
    given, opened = _given(config), {}
    if work.suite.environment is not None:
        check_most(config.continuations)
        opened = opened_again(work, STAGE)
    by_shard, shards = rollout_shards(work), Shards(work, STAGE, TABLES)
    planned = _planned(work, given, by_shard, anew=config.anew)
    with work.sampler(STAGE) as sampler:
        for name, edits in planned.items():
            made_with = _MadeWith(edits, environment_of(work, opened[name]) if opened else "")
            for growth in growing_shards(shards, {name: by_shard[name]}, sampler, version=VERSION, config=made_with):
                _lay(growth, edits, opened.get(name))
    shards.cover(work.places("nodes", stage=STAGE))
    variants = shards.read("variants")
    return finished(
        shards,
        variants,
        of="edit by hand",
        edits=variants.height,
        kept=variants["dropped"].null_count(),
        pass_rate_with=rate(variants, "with"),
        pass_rate_without=rate(variants, "without"),
        mean_effect=variants["effect"].mean(),
    )


def _given(config: InterveneConfig) -> list[Given]:
    """The edits that are given, by options or in a file; none where all shall be forgotten."""
    drawn = (config.author, config.continuations, config.temperature, config.top_p)
    typed, usual = (config.tree, config.node, config.text), InterveneConfig()
    if config.anew and not config.file and typed == (usual.tree, usual.node, usual.text):
        return []
    if bool(config.file) == bool(config.tree):
        raise BadConfig("one of tree and file must be given", remedy="give --tree, --node and --text, or --file")
    return read_edits(config.file, *drawn) if config.file else [Given(Edit(*typed, *drawn))]


def _planned(
    work: Work, given: Sequence[Given], by_shard: dict[str, pl.DataFrame], *, anew: bool
) -> dict[str, tuple[Edit, ...]]:
    """By shard, the edits that it shall be made with; those that are given are checked."""
    shard_of = {f"{task}@{work.round}": name for name, rows in by_shard.items() for task in rows["task"]}
    fresh: dict[str, list[Given]] = {}
    for one in given:
        if one.edit.tree not in shard_of:
            raise BadConfig(
                f"{one.at}round {work.round} of suite {work.suite.name} has no tree {one.edit.tree!r}",
                remedy='`branchpoint sql "from nodes"` lists them',
            )
        fresh.setdefault(shard_of[one.edit.tree], []).append(one)
    if not given:
        fresh = {place.shard: [] for place in work.places("nodes", stage=STAGE)}
    found = {}
    for name, some in sorted(fresh.items()):
        known = [] if anew else _known(work, name)
        _check(work, name, by_shard[name], some)
        found[name] = together([*known, *(one.edit for one in some)])
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


def _check(work: Work, shard: str, tasks: pl.DataFrame, given: Sequence[Given]) -> None:
    """Refuse edits of a shard that cannot be put in.

    Raises:
        BadConfig: one names no step of an attempt, or is not another one that could be trained on.
    """
    wanted = {one.edit.tree for one in given}
    before = [work.place(stage, shard) for stage in BEFORE[STAGE]]
    trees = read_trees(work.store.read("nodes", before).filter(pl.col("tree").is_in(wanted)), by="tree")
    episodes = work.suite.environment is not None
    attempts = {name: attempts_through(tree, {}, episodes=episodes) for name, tree in trees.items()}
    answers = dict(tasks.select("task", "answer").iter_rows())
    for edit, at in given:
        where = f"node {edit.node} of {edit.tree}"
        if edit.node not in attempts.get(edit.tree, {}):
            remedy = f"`branchpoint show {edit.tree}` lists them"
            raise BadConfig(f"{at}{where} is no step of an attempt", remedy=remedy)
        tree = trees[edit.tree]
        _check_text(work, edit, tree[edit.node]["text"], answers[tree.task], f"{at}the edit of {where}")


def _check_text(work: Work, edit: Edit, replaced: str, answer: str, said: str) -> None:
    if edit.text.encode(errors="replace").decode() != edit.text:
        raise BadConfig(f"{said} is no Unicode text", remedy="write it in UTF-8")
    if not edit.text.strip():
        raise BadConfig(f"{said} is empty", remedy="write the step that shall stand there")
    if edit.text.strip() == replaced.strip():
        raise BadConfig(f"{said} is the step that it replaces", remedy="write another one")
    if work.suite.environment is None and work.suite.separator in edit.text:
        raise BadConfig(f"{said} is more than one step", remedy="write a single step, without the separator")
    if not open_tokens(work.policy).safe(edit.text):
        raise BadConfig(f"{said} spells a control token", remedy="write it otherwise")
    if states_answer(edit.text, answer):
        raise BadConfig(f"{said} states the final answer", remedy="write a step that leads there")


def attempts_through(tree: Tree, rewards: Rewards, *, episodes: bool) -> dict[int, Attempt]:
    """By step, the attempt of which it is edited: the first through it that failed, else the first. Its reward is NaN
    where it was not judged. What is told with guidance is no attempt of an episode.

    Args:
        episodes: whether steps are turns.
    """
    found: dict[int, Attempt] = {}
    for leaf, row in tree.known.items():
        if not is_answer(row):
            continue
        steps = turns_of(tree, leaf) if episodes else tuple(tree.path(leaf)[1:])
        if episodes and any(tree[later]["turn"] <= tree[step]["turn"] for step, later in pairwise(steps)):
            continue  # an episode told again below another
        attempt = Attempt(leaf, steps, rewards.get((tree.tree, leaf), float("nan")))
        for step in steps:
            first = found.setdefault(step, attempt)
            if attempt.reward < 1 and not first.reward < 1:
                found[step] = attempt
    return found


def _lay(growth: Growth, edits: tuple[Edit, ...], opened: Opened | None) -> None:
    """Put all the edits of a shard in, draw their arms and write them.

    Args:
        opened: what its episodes were played in; None: they are no episodes.
    """
    work, trees = growth.grower.work, {tree.tree: tree for tree in growth.trees.values()}
    before = [work.place(stage, growth.shard) for stage in BEFORE[STAGE]]
    rewards = rewards_by_node(work.store.read("verdicts", before))
    named = {edit.tree for edit in edits}
    attempts = {name: attempts_through(trees[name], rewards, episodes=opened is not None) for name in named}
    stand = 0 if opened is None else _standing(growth, edits)
    own = [work.place(STAGE, growth.shard)] if stand else []
    fresh = edits[stand:]
    cases = [_case(trees[edit.tree], edit, attempts[edit.tree][edit.node]) for edit in fresh]
    if opened is None:
        verdicts = _draw(growth, fresh, cases)
    else:
        verdicts = pl.concat([work.store.read("verdicts", own), *_play(growth, fresh, cases, opened)])
    rewards |= rewards_by_node(verdicts)
    rows = work.store.read("variants", own).to_dicts()
    rows += [
        _row(edit, case, rewards, stand + place) for place, (edit, case) in enumerate(zip(fresh, cases, strict=True))
    ]
    growth.write(verdicts, variants=variants_frame(rows))


def _standing(growth: Growth, edits: tuple[Edit, ...]) -> int:
    """How many edits, the first ones, stand in the store as they would be played again; puts what was played into the
    trees. 0: none does, or answers of some are missed."""
    work, place = growth.grower.work, growth.grower.work.place(STAGE, growth.shard)
    entry = work.store.entry("nodes", place)
    if entry is None or MISSED in entry.inputs or not work.store.is_current(TABLES, place, entry.inputs):
        return 0
    said, now = ({**parts, **json.loads(parts["config"])} for parts in (entry.inputs, growth.made_from))
    laid, wanted = said.pop("edits"), now.pop("edits")
    del said["config"], now["config"]
    if said != now or laid != wanted[: len(laid)]:
        return 0
    trees = {tree.tree: tree for tree in growth.trees.values()}
    for row in work.store.read("nodes", [place]).sort("tree", "node").iter_rows(named=True):
        trees[row["tree"]].nodes.append(row)
    growth.grower.asked |= dict(work.store.read("requests", [place]).select("request", "task").iter_rows())
    return len(laid)


def _case(tree: Tree, edit: Edit, source: Attempt) -> EditCase:
    return EditCase(tree, source, proposal=Proposal(source.steps.index(edit.node), edit.text, None))


def _draw(growth: Growth, edits: tuple[Edit, ...], cases: list[EditCase]) -> pl.DataFrame:
    """Draw the arms of edits of answers in one turn. Returns the verdicts on their ends."""
    grower = growth.grower
    alike: dict[tuple[int, Sampling], list[Edited]] = {}
    for edit, case in zip(edits, cases, strict=True):
        case.edited = put_edit(grower, case.tree, edit.node, edit.text)
        sampling = Sampling(edit.temperature, edit.top_p, grower.work.suite.max_tokens)
        alike.setdefault((edit.continuations, sampling), []).append(case.edited)
    for (continuations, sampling), some in alike.items():
        draw_arms(grower, some, sampling, continuations=continuations)
    return growth.judge()


def _play(growth: Growth, edits: tuple[Edit, ...], cases: list[EditCase], opened: Opened) -> list[pl.DataFrame]:
    """Play the arms of edits of episodes; one whose way leads elsewhere now is dropped. Returns the verdicts on their
    ends.

    They are hung in the order of the edits, so that one more changes no number.
    """
    verdicts = []
    both = zip(edits, cases, strict=True)
    for (continuations, temperature, top_p), run in groupby(both, key=lambda one: one[0].drawn):
        with closing(replays_of(growth, opened, temperature=temperature, top_p=top_p)) as replays:
            play_arms(replays, replays.go_again(case for _, case in run), continuations=continuations)
        verdicts.append(replays.verdicts())
    return verdicts


def _row(edit: Edit, case: EditCase, rewards: Rewards, number: int) -> dict[str, Any]:
    columns = arm_columns(case.edited, rewards) if case.edited else {}
    dropped = case.dropped or keep_reason(
        case.proposal, outcome=case.source.reward, successes=columns.get("with_successes") or 0
    )
    return variant_row(
        case,
        {
            "variant": f"{case.tree.tree}/{edit.author}/{edit.node}/{number}",
            "kind": "intervention",
            "author": edit.author,
            "blamed_step": case.proposal.first_error,
            "edit": edit.text,
            "dropped": dropped,
            **columns,
        },
    )

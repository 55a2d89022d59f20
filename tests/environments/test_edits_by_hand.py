"""Edits by hand of turns of episodes: both arms are played on from the same tokens."""

from __future__ import annotations

import json

import pytest
from environments import played_round
from environments.corridor import ANEW, COUNTED, WAYS, all_faults, corridor, forest, own_turns, variants_of
from environments.played_round import Script, nodes_of
from varied_round import reflection

from pipeline.errors import BadConfig
from pipeline.stages import episode_arms
from pipeline.stages.arms import FIRST_SAMPLE
from pipeline.stages.episode_arms import MOST
from pipeline.stages.intervene import InterveneConfig, write_interventions_by_hand
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.replaying import turns_of
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.work import Work
from pipeline.trees.grow import Tree
from pipeline.variants.checks import draws_apart


def says(text: str, sample: int) -> str:
    """Goes left, then right; goes left in a continuation."""
    if sample in ANEW:
        return "left"
    return "right" if text.count("<|assistant|>") > 1 else "left"


@pytest.fixture(scope="module", params=[True, False], ids=["copies", "replays"])
def work(request, tmp_path_factory):
    with corridor(tmp_path_factory.mktemp("edits"), says, group=1, copies=request.param) as work:
        yield work


def first_tree(work: Work) -> Tree:
    return min(forest(work).values(), key=lambda one: one.tree)


def episodes_of(tree: Tree) -> list[tuple[int, ...]]:
    """The turns of each, as the policy played them."""
    return [turns_of(tree, node) for node, row in tree.known.items() if row["finish"] and row["origin"] == "sample"]


def put(work: Work, node: int, text: str, **options):
    config = {"continuations": 3} | options
    return write_interventions_by_hand(
        work, InterveneConfig(tree=first_tree(work).tree, node=node, text=text, **config)
    )


def by_hand(work: Work, text: str = "left", **options):
    return put(work, 3, text, **{"anew": True} | options)


def test_both_arms_are_played_to_the_end(work):
    numbers = by_hand(work, author="tool").numbers
    assert all_faults(work) == []
    assert [numbers[name] for name in ("edits", "kept", "pass_rate_with", "pass_rate_without", "mean_effect")] == [
        *(1, 1, 1, 0, 1)
    ]
    (row,) = variants_of(work)
    assert (row["author"], row["blamed_step"], row["edit"], row["dropped"]) == ("tool", 1, "left", None)
    assert (row["with_count"], row["without_count"]) == (3, 3)
    tree = forest(work)[row["task"]]
    assert [tree[row["first_node"]][name] for name in ("origin", "agent")] == ["intervention", "editor"]
    drawn = nodes_of(work).filter(origin="continuation", kind="step")
    ends = [own_turns(tree, node) for node in drawn.drop_nulls("finish")["node"]]
    assert sorted(ends) == [["left", "left", "left"]] * 3 + [["left", "right", "left"]] * 3
    assert write_pairs(work).numbers["from_intervention"] > 0


def test_one_more_edit_pays_for_itself_alone(work):
    by_hand(work)
    asked = len(Script.last.asked)
    by_hand(work, text="fly", anew=False, continuations=2)
    first, second = sorted(variants_of(work), key=lambda row: row["variant"])
    assert (first["with_count"], second["with_count"]) == (3, 1)  # an edit that ends its episode is its continuation
    assert second["without_count"] == 2
    assert len(Script.last.asked) == asked
    assert all_faults(work) == []
    assert by_hand(work, text="fly", anew=False, continuations=2).fresh == 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"node": 2}, "is no step of an attempt"),  # what was seen
        ({"text": " "}, "is empty"),
        ({"text": "left "}, "is the step that it replaces"),
        ({"continuations": MOST + 1}, "continuations is"),
        ({"text": "<|end|>"}, "spells a control token"),
    ],
)
def test_what_is_no_turn_is_refused(work, given, why):
    tree = min(forest(work))
    turn = nodes_of(work).filter(kind="step", origin="sample")["node"][0]
    fields = {"tree": forest(work)[tree].tree, "node": turn, "text": "left\nleft"} | given
    with pytest.raises(BadConfig, match=why):
        write_interventions_by_hand(work, InterveneConfig(**fields))


def test_an_episode_that_leads_elsewhere_now_is_dropped(tmp_path):
    with corridor(tmp_path, says, group=1, drifts="text") as work:
        edits = [
            {"tree": tree.tree, "node": node, "text": "left"}
            for tree in forest(work).values()
            for node in [turns_of(tree, max(tree.known))[1]]
        ]
        (tmp_path / "edits.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in edits))
        numbers = write_interventions_by_hand(work, InterveneConfig(file=str(tmp_path / "edits.jsonl"))).numbers
        assert all_faults(work) == []
        assert (numbers["edits"], numbers["kept"]) == (3, 2)
        (why,) = {row["dropped"] for row in variants_of(work)} - {None}
        assert why.startswith("not replayable: ")


def test_no_draw_is_hung_twice(tmp_path):
    """Two episodes take the same turns, each is edited, at its first turn too; what is said of an edit stays."""
    with corridor(tmp_path, says, group=2) as work:
        one, other = episodes_of(first_tree(work))
        put(work, one[1], "left")
        said = variants_of(work)
        put(work, other[1], "left")
        put(work, other[0], "jump", temperature=0.5)
        put(work, one[0], "jump")
        put(work, one[2], "left")
        put(work, one[1], "jump")
        assert all_faults(work) == []  # requests are of one node each, among others
        found = variants_of(work)
        assert len(found) == 6
        assert [row for row in found if row["variant"] == said[0]["variant"]] == said
        assert {row["with_count"] for row in found} == {3, 1}
        assert write_interventions_by_hand(work, InterveneConfig(anew=True)).numbers["edits"] == 0


def test_a_draw_that_is_hung_twice_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_arms, "_first_sample", lambda case, written: FIRST_SAMPLE)
    with corridor(tmp_path, says, group=2) as work:
        for _, turn, _ in episodes_of(first_tree(work)):
            put(work, turn, "left")
        assert not draws_apart(work.store, "variants", work.places("variants")).passed
        assert all_faults(work, but="draws_apart") == []


def test_edits_one_by_one_or_in_one_go(tmp_path):
    with corridor(tmp_path, says, group=2) as work:
        one, other = episodes_of(first_tree(work))
        edits = [(one[1], "left"), (other[1], "fly"), (one[0], "jump"), (other[1], "left")]
        for node, text in edits:
            last = put(work, node, text)
        lines = [json.dumps({"tree": first_tree(work).tree, "node": node, "text": text}) for node, text in edits]
        (tmp_path / "edits.jsonl").write_text("\ufeff" + "\n".join(lines))
        put(work, one[1], "jump", anew=True)
        config = InterveneConfig(file=str(tmp_path / "edits.jsonl"), continuations=3, anew=True)
        assert write_interventions_by_hand(work, config).digest == last.digest


def test_what_was_played_is_not_gone_again(tmp_path):
    with corridor(tmp_path, says, group=2, copies=False) as work:
        ((_, turn, _), _), steps = episodes_of(first_tree(work)), set()
        for text in ("left", "go left", "turn left", "left then"):
            COUNTED["steps"] = 0
            put(work, turn, text)
            steps.add(COUNTED["steps"])
        assert len(steps) == 1
        assert len(variants_of(work)) == 4


def test_an_edit_by_the_policy_too(tmp_path):
    """The stage has edited one episode; a person edits the equal turn of the other, and that of the first."""

    def say(text: str, sample: int) -> str:
        if "trusted reference" in text:
            return json.dumps({"step_checks": [], "first_error_index": 1, "intervention": "left"})
        return says(text, sample)

    rows = [{"question": f"Play. (number {n})", "answer": "out", "solution": "left"} for n in (10, 12)]
    (tmp_path / "ways.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with corridor(tmp_path, say, group=2, bands=WAYS) as work:
        write_interventions(work, InterventionConfig(continuations=3))
        one, other = episodes_of(first_tree(work))
        asked = len(Script.last.asked)
        put(work, one[1], "left")
        assert len(Script.last.asked) == asked
        put(work, other[1], "left")
        assert len(Script.last.asked) > asked
        edited = next(node for node, row in first_tree(work).known.items() if row["origin"] == "intervention")
        put(work, edited, "jump")
        assert all_faults(work) == []


def test_an_edit_that_is_asked_for_again(work):
    """It is the same, with the most continuations."""
    by_hand(work)
    by_hand(work, anew=False, continuations=5, author="tool")
    by_hand(work, anew=False, continuations=2)
    (row,) = variants_of(work)
    assert (row["author"], row["with_count"], row["without_count"]) == ("person", 5, 5)
    assert all_faults(work) == []


def test_an_edit_without_room_is_not_compared(work):
    report = by_hand(work, text="left " * 4000)
    (row,) = variants_of(work)
    assert (row["dropped"], row["with_count"], row["without_count"]) == ("no room for the turn", None, None)
    assert not nodes_of(work)["origin"].is_in(["continuation", "intervention"]).any()
    assert "1 of 1: no room for the turn" in report.notes[0]


def test_a_turn_that_was_guided_is_no_turn(tmp_path):
    def say(text: str, sample: int) -> str:
        if "Reflect on" in text:
            return reflection(retry_from_step=1)
        return "left" if "earlier attempt" in text else says(text, sample)

    with corridor(tmp_path, say, group=1) as work:
        write_retries(work, RetryConfig())
        tree = first_tree(work)
        of = {row["origin"]: node for node, row in tree.known.items() if row["kind"] == "step"}
        with pytest.raises(BadConfig, match="is no step of an attempt"):
            put(work, of["guided_retry"], "jump")
        put(work, of["retry"], "jump")
        assert all_faults(work) == []


def test_all_edits_are_looked_at_before_any_is_paid_for(tmp_path, monkeypatch):
    monkeypatch.setattr(played_round, "SUITE", f"{played_round.SUITE}shard_tasks = 1\n")
    file = tmp_path / "edits.jsonl"
    with corridor(tmp_path, says, group=1) as work:
        trees = sorted(forest(work))
        edits = [{"tree": f"{tree}@r0", "node": 3, "text": "left"} for tree in trees]
        file.write_text("".join(f"{json.dumps(one)}\n" for one in [*edits[:2], edits[2] | {"text": "right"}]))
        asked = len(Script.last.asked)
        with pytest.raises(BadConfig, match=r"edits.jsonl, line 3: the edit of node 3 of .* is the step that it"):
            write_interventions_by_hand(work, InterveneConfig(file=str(file)))
        assert len(Script.last.asked) == asked
        assert variants_of(work) == []
        for one in edits:
            report = write_interventions_by_hand(work, InterveneConfig(one["tree"], 3, "left", continuations=2))
        assert (report.numbers["edits"], report.shards) == (3, 3)  # of all there are

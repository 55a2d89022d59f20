"""InT in environments: one turn written anew, and both arms played on from the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from environments.corridor import (
    ANEW,
    COUNTED,
    WAYS,
    Corridor,
    all_faults,
    corridor,
    forest,
    forget_thoughts,
    not_sent,
    own_turns,
    variants_of,
)
from environments.played_round import SEEDS, SUMS, TINY, Script, nodes_of, played, verdicts_of

from pipeline.errors import BadConfig
from pipeline.generation.engine import failed
from pipeline.generation.scripted import ScriptedEngine
from pipeline.labels.intervention import intervention
from pipeline.labels.monte_carlo import monte_carlo
from pipeline.stages.episode_arms import MOST
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.interventions import InterventionConfig, write_interventions
from pipeline.stages.pairs import write_pairs
from pipeline.stages.patches import PatchConfig, write_patches
from pipeline.stages.prm_steps import write_prm_steps
from pipeline.stages.step_labels import StepLabelConfig, write_step_labels
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work

EDITOR = "trusted reference"
THREE = InterventionConfig(continuations=3)


def edit(wrong: object = 1, text: object = "left") -> str:
    return json.dumps({"step_checks": [], "first_error_index": wrong, "intervention": text})


def says(answer: str = edit(), *, on: str = "left"):
    """Goes left, then right; goes `on` in a continuation. An editor gives the answer."""

    def say(text: str, sample: int) -> str:
        if EDITOR in text:
            return answer
        if sample in ANEW:
            return on
        return "right" if text.count("<|assistant|>") > 1 else "left"

    return say


@contextmanager
def ways(folder: Path, say, **options) -> Iterator[Work]:
    """A round in the corridor, of tasks with a reference solution."""
    rows = [
        {"question": f"Play. (number {number})", "answer": "out", "solution": "left\nleft\nleft"}
        for number in (10, 11, 12)
    ]
    (folder / "ways.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with corridor(folder, say, bands=WAYS, **options) as work:
        yield work


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    with ways(tmp_path_factory.mktemp("edited"), says()) as work:
        report = write_interventions(work, THREE)
        yield SimpleNamespace(work=work, report=report, asked=list(Script.last.asked))


class TestEdited:
    def test_the_checks_hold(self, edited):
        assert all_faults(edited.work) == []
        numbers = edited.report.numbers
        assert (numbers["kept"], numbers["pass_rate_with"], numbers["pass_rate_without"]) == (3, 1, 0)
        assert numbers["mean_effect"] == 1

    def test_both_arms_depart_after_the_same_nodes(self, edited):
        trees, found = forest(edited.work), variants_of(edited.work)
        assert len(found) == 3
        for row in found:
            tree = trees[row["task"]]
            source, new = tree.path(row["source_leaf"]), row["first_node"]
            assert (row["blamed_step"], row["edit"], row["dropped"]) == (1, "left", None)
            assert (row["with_count"], row["with_successes"], row["without_count"]) == (3, 3, 3)
            assert tree.path(new) == [*source[:3], new]
            assert row["pivot"] == source[2]
            assert [tree[new][name] for name in ("origin", "agent", "sampled")] == ["intervention", "editor", False]
            (seen,) = tree.children(new)  # what was seen then stands there once
            for shown, turns in ((seen, ["left", "left", "left"]), (source[4], ["left", "right", "left"])):
                drawn = [node for node in tree.children(shown) if tree[node]["origin"] == "continuation"]
                assert len({tree[node]["request"] for node in drawn}) == 3
                assert [own_turns(tree, node) for node in drawn] == [turns] * 3

    def test_tokens_are_those_that_were_sent(self, edited):
        """The edit ends as a turn of the policy would; no continuation sees what the editor saw."""
        assert not_sent(edited.work, edited.asked) == []
        for row in nodes_of(edited.work).filter(origin="continuation", sampled=True).iter_rows(named=True):
            text = TINY._tokenizer.decode(forest(edited.work)[row["task"]].tokens(row["node"]).tolist())
            assert EDITOR not in text
            assert "Reference" not in text
        new = nodes_of(edited.work).filter(origin="intervention")
        assert {tuple(ids) for ids in new["token_ids"].to_list()} == {(*TINY.encode("left").tolist(), 1)}
        assert set(new["step_reward"]) == {0.25}

    def test_the_editor_is_told_the_rules_and_what_was_seen(self, edited):
        about = next(text for text in edited.asked if EDITOR in text)
        assert "Go left or right.\nPlay. (number 1" in about
        assert "Step 1: room 1" in about

    def test_a_second_run_asks_nothing(self, edited):
        asked = len(Script.last.asked)
        assert write_interventions(edited.work, THREE).fresh == 0
        assert len(Script.last.asked) == asked

    def test_both_turns_are_labelled_by_their_arms(self, edited):
        nodes, verdicts = nodes_of(edited.work), verdicts_of(edited.work)
        labels, trees = intervention(nodes, verdicts), forest(edited.work)
        estimates = {(row["tree"], row["node"]): row for row in monte_carlo(nodes, verdicts).iter_rows(named=True)}
        soft = {(row["tree"], row["node"]): row for row in labels.iter_rows(named=True)}
        assert len(soft) == 6
        for row in variants_of(edited.work):
            original = trees[row["task"]].path(row["source_leaf"])[3]
            good, bad = soft[row["tree"], row["first_node"]], soft[row["tree"], original]
            assert (good["soft"], good["k"], bad["soft"], bad["k"]) == (1, 3, 0, 3)
            assert good["rationale"].startswith("effect +1.00 (")
            assert estimates[row["tree"], original]["k"] == 3

    @pytest.mark.parametrize("clone", ["prefix+intervention", "with_suffix"])
    def test_rows_train_turns_alone(self, edited, clone):
        write_patches(edited.work, PatchConfig(clone=clone))
        rows = edited.work.store.read("patches", edited.work.places("patches"))
        assert rows.height == 3
        for row in rows.iter_rows(named=True):
            trained = [one for one in row["labels"] if one != -100]
            turns = 3 if clone == "with_suffix" else 2
            assert trained == [*TINY.encode("left").tolist(), 1] * turns
            assert row["input_ids"][-len(trained) // turns :] == trained[: len(trained) // turns]

    def test_rows_of_reward_models_have_a_place_a_turn(self, edited):
        """What was shown stands between them, and before the text of the turn after it."""
        write_step_labels(edited.work, StepLabelConfig())
        write_prm_steps(edited.work)
        rows = edited.work.store.read("prm_steps", edited.work.places("prm_steps")).sort("row")
        assert rows.height == 3  # of six: the others have one label, at their ends
        for row in rows.iter_rows(named=True):
            tree = forest(edited.work)[row["task"]]
            assert row["input_ids"] == tree.tokens(row["node"]).tolist()
            assert row["step_nodes"] == [node for node in tree.path(row["node"]) if tree[node]["kind"] == "step"]
            assert [row["input_ids"][end] for end in row["step_ends"]] == [1, 1, 1]  # where a turn ends
            assert row["steps"][0] == "left"
            assert row["steps"][1].startswith("room 1")
            assert row["steps"][1].endswith("\nright")

    def test_a_pair_is_the_two_turns(self, edited):
        write_pairs(edited.work)
        pairs = edited.work.store.read("pairs", edited.work.places("pairs")).filter(source="intervention")
        assert list(pairs.select("chosen", "rejected", "margin").iter_rows()) == [("left", "right", 1)] * 3


class TestWhereItEnds:
    def test_an_edit_that_ends_the_episode_is_its_own_continuation(self, tmp_path):
        with ways(tmp_path, says(edit(text="fly")), group=1) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            for row in variants_of(work):
                assert (row["with_count"], row["with_successes"], row["without_count"]) == (1, 1, 3)
                assert forest(work)[row["task"]][row["first_node"]]["finish"] == "stop"
                assert row["dropped"] is None

    def test_an_edit_that_there_is_no_room_for(self, tmp_path):
        """At the first turn, where the episode would end without one."""
        with ways(tmp_path, says(edit(0, "x " * 700)), group=1) as work:
            write_interventions(work, replace(THREE, check_tokens=5000))
            assert all_faults(work) == []
            assert {row["dropped"] for row in variants_of(work)} == {"no room for the turn"}
            assert nodes_of(work).filter(origin="intervention").is_empty()

    def test_a_wrong_turn_that_ended_the_episode_has_no_other_arm(self, tmp_path):
        with ways(tmp_path, says(edit(2)), group=1) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            for row in variants_of(work):
                assert (row["without_count"], row["effect"]) == (None, None)
                assert row["dropped"] == "no successful continuation"  # it went right before

    def test_equal_edits_in_one_place_share_what_is_drawn(self, tmp_path):
        """Of two attempts, at their first turns."""
        with ways(tmp_path, says(edit(0, "jump"))) as work:
            write_interventions(work, InterventionConfig(continuations=3, per_task=2))
            assert all_faults(work) == []
            found = variants_of(work)
            assert [row["pivot"] for row in found] == [0] * 6
            assert len({(row["task"], row["first_node"]) for row in found}) == 3
            assert {row["with_successes"] for row in found} == {3}
            drawn = nodes_of(work).filter(origin="continuation", sampled=True)
            assert drawn["request"].n_unique() == drawn.height
            assert verdicts_of(work).select("tree", "node").is_unique().all()

    def test_a_copy_gives_the_same_and_spares_going_there_again(self, tmp_path):
        found = {}
        for copies in (False, True):
            (tmp_path / f"{copies}").mkdir()
            with ways(tmp_path / f"{copies}", says(), group=1, copies=copies) as work:
                COUNTED["steps"] = 0
                digest = write_interventions(work, THREE).digest
                found[copies] = (COUNTED["steps"], digest)
        assert found[False][0] - found[True][0] == 3 * (3 * 1 + 3 * 2)  # steps before the edit, and with the original
        assert found[False][1] == found[True][1]

    def test_a_template_that_rewrites_history(self, tmp_path, monkeypatch):
        """Each turn has a context of its own, in both arms; a row trains the edit after what was sent then."""

        def thinks(text: str, sample: int) -> str:
            usual = says()(text, sample)
            return usual if EDITOR in text else f"thought</t>{usual}"

        with ways(tmp_path, thinks, group=1, begin=partial(forget_thoughts, patch=monkeypatch)) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            assert not_sent(work, Script.last.asked) == []
            write_patches(work)
            (row, *_) = work.store.read("patches", work.places("patches")).iter_rows(named=True)
            tree = forest(work)[row["task"]]
            assert len(tree.path(row["node"])) == 2
            assert row["input_ids"] == tree.tokens(row["node"]).tolist()
            assert [one for one in row["labels"] if one != -100] == tree[row["node"]]["token_ids"]
            for variant in variants_of(work):
                assert (variant["with_successes"], variant["without_successes"]) == (3, 0)
                tree = forest(work)[variant["task"]]
                (seen,) = tree.children(variant["first_node"])
                assert tree[seen]["context"] == variant["pivot"]  # nothing was left out of the edit

    def test_with_tools_and_a_verifier(self, tmp_path):
        """The wrong call is written anew; the answer reads what the right one brought."""

        def call(expression: str) -> str:
            arguments = {"name": "calculator", "arguments": {"expression": expression}}
            return f"<tool_call>{json.dumps(arguments)}</tool_call>"

        def say(text: str, sample: int) -> str:
            if EDITOR in text:
                return edit(0, call("2+2"))
            if "<tool_response>" not in text:
                return call("1+1")
            return f"#### {text.split('<tool_response>')[-1].split()[0]}"

        with played(tmp_path, 'name = "tools"\ntools = ["calculator"]', SUMS, say) as work:
            write_tasks(work)
            write_episodes(work, EpisodeConfig(group=1))
            write_interventions(work, THREE)
            assert all_faults(work) == []
            found = variants_of(work)
            assert len(found) == 2
            for row in found:
                tree = forest(work)[row["task"]]
                ends = [node for node, one in tree.known.items() if one["finish"] and one["origin"] == "continuation"]
                assert sorted(tree[node]["text"] for node in ends) == ["#### 2"] * 3 + ["#### 4"] * 3
                assert json.loads(tree[row["first_node"]]["tool_calls"])[0]["ok"] is True
                assert (row["with_count"], row["without_count"], row["effect"]) == (3, 3, 0)


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        ("answer", "dropped"),
        [
            (edit(text="go out"), "intervention states the final answer"),
            (edit(3), "invalid error index"),
            (edit(None), "no error found"),
            (edit(text=" "), "empty intervention"),
            (edit(text="right"), "intervention is the step it replaces"),
            (edit(text="<|end|>").replace("<", "\\u003c"), "intervention spells a control token"),
        ],
    )
    def test_an_answer_that_goes_no_further(self, tmp_path, answer, dropped):
        with ways(tmp_path, says(answer), group=1) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            assert {row["dropped"] for row in variants_of(work)} == {dropped}
            assert not nodes_of(work)["origin"].is_in(["intervention", "continuation"]).any()

    def test_an_edit_that_the_environment_raises_at(self, tmp_path):
        """The failure stands at the edit, without a verdict; the other arm is drawn all the same."""
        with ways(tmp_path, says(edit(text="boom")), group=1) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            for row in variants_of(work):
                assert (row["with_count"], row["without_count"]) == (None, 3)
                assert row["dropped"] == "no successful continuation"
                assert forest(work)[row["task"]][row["first_node"]]["finish"] == "failed"
            assert verdicts_of(work)["error"].drop_nulls().to_list() == ["KeyError: 'in the middle'"] * 3

    def test_continuations_that_the_environment_raises_at(self, tmp_path):
        def say(text: str, sample: int) -> str:
            return "boom" if sample in ANEW[1::MOST] else says()(text, sample)

        with ways(tmp_path, say, group=1) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            counts = {(row["with_count"], row["with_successes"], row["without_count"]) for row in variants_of(work)}
            assert counts == {(2, 2, 2)}

    def test_a_continuation_that_never_comes_leaves_the_edit_to_the_others(self, tmp_path, monkeypatch):
        """The first draw of either arm is refused."""

        def refuses(self, requests):
            for request in requests:
                if request is not None and request.sample in ANEW[::MOST]:
                    yield failed(request, "the server refused it")
                elif request is not None:
                    yield from usual(self, [request])

        usual = ScriptedEngine.generate
        with ways(tmp_path, says(), group=1) as work:
            monkeypatch.setattr(ScriptedEngine, "generate", refuses)
            write_interventions(work, THREE)
            assert all_faults(work) == []
            for row in variants_of(work):
                assert (row["with_count"], row["with_successes"], row["without_count"]) == (2, 2, 2)
                assert forest(work)[row["task"]][row["first_node"]]["finish"] is None
            assert nodes_of(work).filter(origin="intervention").height == 3

    def test_an_original_of_which_nothing_was_judged_makes_no_pair(self, tmp_path):
        """The environment raises after it, whatever is done; nobody knows that the edit is better."""

        def say(text: str, sample: int) -> str:
            return "boom" if sample in ANEW and text.count("right") > 1 else says()(text, sample)

        with ways(tmp_path, say, group=1) as work:
            write_interventions(work, THREE)
            counts = [(row["with_successes"], row["without_count"], row["dropped"]) for row in variants_of(work)]
            assert counts == [(3, None, None)] * 3
            assert write_pairs(work).numbers["from_intervention"] == 0

    @pytest.mark.parametrize("asked", [False, True])
    def test_an_environment_that_raises_on_the_way_back(self, tmp_path, monkeypatch, asked):
        """In the task with the number 11: on the first way back, or once the editor was `asked`."""
        usual = Corridor.step

        def broken(self, action):
            if self._seed == 11 and (not asked or any(EDITOR in text for text in Script.last.asked)):
                raise KeyError("in the middle")
            return usual(self, action)

        with ways(tmp_path, says(), group=1) as work:
            monkeypatch.setattr(Corridor, "step", broken)
            write_interventions(work, THREE)
            assert all_faults(work) == []
        dropped = [row["dropped"] for row in variants_of(work)]
        assert dropped == [None, "not replayable: KeyError: 'in the middle'", None]

    @pytest.mark.parametrize("drifts", ["text", "state"])
    def test_an_episode_that_cannot_be_gone_again(self, tmp_path, drifts):
        with ways(tmp_path, says(), group=1, drifts=drifts) as work:
            write_interventions(work, THREE)
            assert all_faults(work) == []
            assert [(row["dropped"] or "")[:14] for row in variants_of(work)] == ["", "not replayable", ""]
            assert sum(EDITOR in text for text in Script.last.asked) == 2

    def test_tasks_without_a_reference_are_left_out(self, tmp_path):
        with corridor(tmp_path, says(), group=1) as work:
            report = write_interventions(work, THREE)
            assert report.rows["variants"] == 0
            assert "of a task with a reference solution" in report.notes[0]
            assert not any(EDITOR in text for text in Script.last.asked)

    def test_what_says_that_it_cannot_be_gone_again_is_refused(self, tmp_path):
        refused = pytest.raises(BadConfig, match="so interventions cannot go back to a turn")
        with ways(tmp_path, says(), group=1, replayable=False) as work, refused:
            write_interventions(work)

    def test_a_game_of_several_seats_is_refused(self, tmp_path):
        with played(tmp_path, 'name = "open_spiel"\ngame = "kuhn_poker"', SEEDS, says()) as work:
            write_tasks(work)
            with pytest.raises(BadConfig, match="has 2 seats, interventions can take one"):
                write_interventions(work)

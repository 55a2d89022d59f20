"""Trees of searches: which steps go on, and what a scripted policy's trees over a small encyclopedia come to."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from environments.played_round import SEEDS, SUMS, TINY, Script, dying, played
from environments.searching import GROWN, HOPS, VILLAGE, call, grown, scripted, search, turns
from hypothesis import given
from hypothesis import strategies as st

from pipeline.environments.searches import LAST
from pipeline.environments.tool_calls import made, retrieved
from pipeline.errors import BadConfig
from pipeline.generation.engine import failed
from pipeline.generation.scripted import ScriptedEngine
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.retries import RetryConfig, write_retries
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import Work
from pipeline.store.audit import audit
from pipeline.tools.search import Index
from pipeline.trees.growth.treeps_rag import SearchGrowth


class TestChoice:
    @pytest.mark.parametrize(
        ("width", "kept"),
        [
            pytest.param(1, [0], id="the first of the first parent"),
            pytest.param(3, [0, 3, 4], id="one of each parent"),
            pytest.param(4, [0, 2, 3, 4], id="then the second of the first"),
            pytest.param(9, [0, 2, 3, 4, 5], id="all that are unlike"),
        ],
    )
    def test_width_is_shared_out(self, width, kept):
        """Parents 0, 1, 2; of the first one's children the second found what the first did."""
        found = [frozenset("ab"), frozenset("ab"), frozenset("bc"), frozenset("ab"), None, None]
        choice = SearchGrowth(0.5, width=width).choose([0, 0, 0, 1, 2, 2], "uvwuvw", found)
        assert choice.kept == kept
        assert choice.pruned == [False, True, False, False, False, False]

    def test_a_sibling_that_does_the_same_is_a_copy(self):
        """Searches or not; of another parent it is none, and what is dropped as one drops no others."""
        found = [None, None, frozenset("ab"), frozenset("bc"), None, frozenset("ac")]
        choice = SearchGrowth(0.9).choose([0, 0, 0, 0, 1, 0], "xxyyxz", found)
        assert choice == ([False, True, False, True, False, False], [0, 2, 4, 5])

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.none() | st.frozensets(st.sampled_from("abcd"), max_size=3))),
        st.sampled_from([0.2, 0.5, 1.0]),
        st.integers(1, 6),
    )
    def test_whatever_was_found(self, steps, threshold, width):
        steps = sorted(steps, key=lambda step: step[0])
        parents, found = [step[0] for step in steps], [step[1] for step in steps]
        pruned, kept = SearchGrowth(threshold, width=width).choose(parents, range(len(steps)), found)
        assert len(kept) == min(width, pruned.count(False))
        for parent in set(parents):
            own = [place for place in range(len(steps)) if parents[place] == parent]
            assert not pruned[own[0]], "the first always stays"
            searches = [found[place] for place in own if not pruned[place] and found[place] is not None]
            for place, one in enumerate(searches):
                for other in searches[:place]:
                    assert len(one & other) < threshold * len(one | other), "near copies do not both survive"
        shares = Counter(parents[place] for place in kept)
        for parent in set(parents):
            left = sum(parents[place] == parent and not pruned[place] for place in range(len(steps)))
            assert shares[parent] == left or shares[parent] >= max(shares.values()) - 1, "nobody has two more"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [({"threshold": 0.0}, "no overlap"), ({"threshold": 1.1}, "no overlap"), ({"width": 0}, "width is 0")],
    )
    def test_what_cannot_be(self, changes, said):
        with pytest.raises(BadConfig, match=said):
            SearchGrowth(**{"threshold": 0.5, **changes})


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ([{"ok": True, "documents": ["a", "b"]}, {"ok": True, "documents": ["b"]}], frozenset("ab")),
        ([{"ok": True, "documents": ["a"]}, {"ok": True}], frozenset("a")),
        ([{"ok": True, "documents": []}], frozenset()),
        ([{"ok": False}], None),
        ([{"ok": True}, {"ok": False}], None),
        ([], None),
    ],
)
def test_what_a_turn_retrieved(calls, found):
    assert retrieved(json.dumps(calls)) == found


def test_what_a_turn_asked_for():
    one, other = ({"name": "search", "arguments": {"query": query}, "ok": True} for query in "ab")
    assert made(json.dumps([one, other])) == made(json.dumps([one | {"documents": ["a"]}, other | {"ok": False}]))
    assert len({made(json.dumps(calls)) for calls in ([one], [other], [one, other], [other, one])}) == 4
    unread = {"name": None, "arguments": {}, "ok": False, "error": "the call is no JSON object"}
    assert made("[]") is made(json.dumps([one, unread])) is None


@pytest.fixture(scope="module")
def village(tmp_path_factory):
    def credit(work: Work) -> pl.DataFrame:
        write_credit(work, CreditConfig(("treeps_rag",), params='{"mode": "local"}'))
        return work.store.read("credit", work.places("credit"))

    return grown(tmp_path_factory.mktemp("village"), then=credit)


class TestTree:
    def test_the_checks_of_the_store_hold(self, village):
        assert (village.faults, village.audit) == ([], [])
        assert village.report.numbers["failed"] == 0

    def test_a_task_is_one_tree_of_as_many_candidates(self, village):
        """Of three first searches two go on, the third being a copy; one of their searches each goes on."""
        assert set(Counter(village.nodes.filter(pl.col("parent").is_null())["tree"]).values()) == {1}
        steps = turns(village.nodes, village.verdicts)
        assert set(Counter(steps.select("tree", "turn").rows()).items()) == {
            ((tree, turn), count) for tree in village.nodes["tree"].unique() for turn, count in enumerate((3, 6, 2))
        }

    def test_near_copies_do_not_both_go_on(self, village):
        steps = village.nodes.filter(kind="step")
        shown = village.nodes.filter((pl.col("kind") == "prompt") & pl.col("parent").is_not_null())
        gone_on = steps.join(shown.select("tree", node="parent"), on=["tree", "node"], how="semi")
        found = [(row["tree"], row["parent"], retrieved(row["tool_calls"])) for row in gone_on.to_dicts()]
        assert len(found) == len(set(found)) == 3 * (2 + 2)
        pruned = steps.join(village.scores.filter(value=1), on=["tree", "node"], how="semi")
        assert pruned.select("turn", "finish").rows() == [(0, None)] * 3
        assert pruned.join(gone_on, on=["tree", "node"], how="semi").is_empty()
        assert set(village.scores["name"]) == {"pruned"}

    def test_what_was_found_is_shown_once_and_nobody_sampled_it(self, village):
        shown = village.nodes.filter((pl.col("kind") == "prompt") & pl.col("parent").is_not_null())
        assert not shown["sampled"].any()
        assert shown["text"].str.starts_with("<tool_response>").all()
        assert not shown.select("tree", "parent").is_duplicated().any()
        below = village.nodes.filter(kind="step").group_by("tree", "parent").len().sort("len")
        assert below["len"].to_list() == [*[1] * 6, *[3] * 9]

    def test_what_is_counted_on_the_way(self, village):
        assert [(one.done, one.total) for one in village.progress if one.what == "trees"] == [(1, 3), (2, 3), (3, 3)]
        numbers = village.report.numbers
        assert (numbers["pruned"], numbers["over_width"], numbers["lost"]) == (3, 0, 0)

    def test_the_last_turn_must_answer(self, village):
        """One of a tree's last turns answers; the other has not seen what to answer, searches, and is judged wrong."""
        last = turns(village.nodes, village.verdicts).filter(turn=2)
        assert sorted(last.select("finish", "reward").rows()) == [("stop", 1.0)] * 3 + [("turns", 0.0)] * 3
        assert sum(LAST in text for text in village.asked) == 6

    def test_leaves_are_judged_and_what_was_dropped_is_not(self, village):
        steps = turns(village.nodes, village.verdicts)
        assert (steps["finish"].is_null() == steps["reward"].is_null()).all()

    def test_nothing_is_asked_twice(self, village):
        """A prompt is asked for its candidates, the last for one."""
        assert village.report.rows["requests"] == len(village.asked) == 3 * (3 + 6 + 2)
        assert set(Counter(village.asked).values()) == {1, 3}

    def test_credit(self, village):
        """A value lies among its children's, whose advantages, by leaves, sum to 0. What was dropped has none."""
        rows = village.nodes.join(village.then, on=["tree", "node"])
        by_node = {(row["tree"], row["node"]): row for row in rows.to_dicts()}
        parents = {(row["tree"], row["parent"]) for row in by_node.values()}
        leaves: Counter[tuple[str, int]] = Counter()
        for tree, at in village.verdicts.select("tree", "node").iter_rows():
            while at is not None:
                leaves[tree, at] += 1
                at = by_node[tree, at]["parent"]
        for key in parents & by_node.keys():
            below = [row for row in by_node.values() if (row["tree"], row["parent"]) == key]
            values = [row["value"] for row in below if row["value"] is not None]
            assert min(values) - 1e-6 <= by_node[key]["value"] <= max(values) + 1e-6
            weighted = [leaves[row["tree"], row["node"]] * (row["advantage"] or 0) for row in below]
            assert sum(weighted) == pytest.approx(0, abs=1e-6)
        scored = {(row["tree"], row["node"]) for row in village.scores.filter(value=1).to_dicts()}
        assert scored
        assert all(by_node[key]["value"] is None and by_node[key]["advantage"] is None for key in scored)
        assert any(row["advantage"] for row in by_node.values())


class TestAgain:
    def test_it_does_nothing(self, tmp_path):
        out = grown(tmp_path, then=lambda work: write_episodes(work, GROWN))
        assert (out.report.fresh, out.then.fresh, out.then.digest) == (1, 0, out.report.digest)

    def test_a_killed_run_goes_on_from_the_ledger_to_the_same_bytes(self, tmp_path, village):
        with pytest.raises(KeyboardInterrupt):
            grown(tmp_path, kind=dying(after=14))
        again = grown(tmp_path)
        assert len(again.asked) == len(village.asked) - 14
        assert again.report.digest == village.report.digest

    def test_another_width_asks_only_what_is_new(self, tmp_path):
        wider = EpisodeConfig(strategy="treeps_rag", threshold=1.0, width=9, depth=3)

        def widened(work: Work) -> int:
            before = len(Script.last.asked)
            write_episodes(work, wider)
            return len(Script.last.asked) - before

        narrow = EpisodeConfig(strategy="treeps_rag", threshold=1.0, width=1, depth=3)
        assert grown(tmp_path, narrow, then=widened).then == 3 * (3 + 1)

    def test_a_flat_round_in_the_place_of_one_of_trees(self, tmp_path):
        """Nothing is left of what was said of the trees' nodes, and what it was made from says nothing of trees."""

        def flat(work: Work) -> SimpleNamespace:
            write_episodes(work, EpisodeConfig(group=2))
            entry = next(iter(work.store.catalogue("nodes", round="r0")))
            return SimpleNamespace(
                scores=work.places("scores"),
                audit=[found for found in audit(work.store, suite="played") if not found.passed],
                config=json.loads(entry.inputs["config"]),
            )

        out = grown(tmp_path, then=flat).then
        assert (out.scores, out.audit) == ([], [])
        assert (out.config.keys(), out.config["group"]) == ({"environment", "group", "players", "rules"}, 2)
        assert "last" not in out.config["rules"]


class TestTurns:
    def test_calls_that_retrieve_nothing_are_no_searches(self, tmp_path):
        """Three that fail, each in its own way, all go on."""
        calls = (call("calculator", expression="1/0"), call("none"), call("search", nothing=""))
        out = scripted(tmp_path, lambda text, sample: "#### x" if LAST in text else calls[sample], depth=2)
        assert out.scores.is_empty()
        assert Counter(out.nodes.filter(kind="step")["turn"]) == {0: 9, 1: 9}
        assert out.report.numbers["pruned"] == out.report.numbers["over_width"] == 0

    @pytest.mark.parametrize("width", [1, 2])
    def test_a_turn_that_does_what_a_sibling_did_is_a_copy(self, tmp_path, width):
        """The same sum thrice, once with other words before it; a search beside it takes the second place, if any."""
        same = call("calculator", expression="1+1")
        said = (same, f"So: {same}", search("Karin"), same)

        def says(text: str, sample: int) -> str:
            return "#### x" if LAST in text else said[sample]

        out = scripted(tmp_path, says, candidates=4, width=width, depth=2)
        first = out.nodes.filter(kind="step", turn=0).join(out.scores, on=["tree", "node"], how="left")
        assert first["value"].to_list() == [None, 1, 0, 1] * 3
        assert out.nodes.filter(kind="step", turn=1).height == 3 * width
        numbers = out.report.numbers
        assert (numbers["pruned"], numbers["over_width"], numbers["ends"]) == (6, 3 * (2 - width), 3 * width)

    def test_who_searches_where_it_must_answer_is_wrong_whatever_else_it_says(self, tmp_path):
        out = grown(tmp_path, says=lambda answer: f"#### {answer}\n{search('more')}")
        last = out.nodes.filter(turn=2, kind="step").join(out.verdicts, on=["tree", "node"])
        assert set(last.select("finish", "reward").rows()) == {("turns", 0.0)}

    def test_a_branch_without_room_takes_no_place(self, tmp_path, monkeypatch):
        """The first turn thinks so long that nothing more could be said; it ends there, and the second goes on."""
        monkeypatch.setattr("pipeline.stages.playing.MAX_LENGTH", 460)
        said = ("hm " * 30 + search("Karin"), search("Tor"), search("Vale"))
        out = scripted(tmp_path, lambda text, sample: "#### x" if LAST in text else said[sample], width=1, depth=2)
        ends = turns(out.nodes, out.verdicts).filter(pl.col("finish").is_not_null())
        how = sorted(ends.select("turn", "finish", "reward").rows())
        assert how == [(0, "length", 0.0)] * 3 + [(1, "stop", 0.0)] * 3


class TestAnew:
    def test_the_way_to_a_last_turn_is_found_again(self, tmp_path):
        """What a branch was told before it is told again."""

        def retried(work: Work) -> pl.DataFrame:
            write_retries(work, RetryConfig(per_task=9))
            return work.store.read("variants", work.places("variants"))

        out = grown(tmp_path, then=retried)
        ends = out.nodes.join(out.then.select("tree", node="source_leaf", dropped="dropped"), on=["tree", "node"])
        assert set(ends["finish"]) == {"stop", "turns"}
        assert not ends["dropped"].str.contains("not replayable").any()


class TestFailures:
    def test_a_branch_whose_environment_raises_is_a_failure_and_the_others_go_on(self, tmp_path, monkeypatch, village):
        """The index cannot be read when the second name is looked for first."""
        found = Index.search

        def fails(self, query: str, k: int):
            if query in broken:
                raise sqlite3.OperationalError("disk I/O error")
            return found(self, query, k)

        first = village.nodes.filter(kind="step", turn=0)["tool_calls"].str.json_path_match("$[0].arguments.query")
        broken = set(first.to_list()[2::3])
        monkeypatch.setattr(Index, "search", fails)
        out = grown(tmp_path)
        steps = turns(out.nodes, out.verdicts)
        lost = steps.filter(finish="failed")
        assert lost["reward"].null_count() == lost.height > 3
        assert set(lost["error"]) == {"OperationalError: disk I/O error"}
        assert steps.filter(reward=1).height >= 3
        assert (out.faults, out.report.numbers["failed"]) == ([], lost.height)

    @pytest.mark.parametrize("share", [4, 1])
    def test_requests_that_fail(self, tmp_path, share):
        """What fails leaves its siblings alone; where all fail, the turn before them is the end, and says so."""

        class Loses(ScriptedEngine):
            """Does not answer some requests of later turns."""

            def generate(self, asked):
                for completion in super().generate(asked):
                    request = self.seen[-1]
                    later = "<tool_response>" in TINY._tokenizer.decode(request.prompt.tolist())
                    yield failed(request, "lost") if later and request.seed % share == 0 else completion

        out = grown(tmp_path, kind=Loses)
        steps = turns(out.nodes, out.verdicts)
        assert out.faults == []
        lost = steps.filter(finish="failed")
        assert lost["node"].is_in(steps["before"].drop_nulls().implode()).sum() == 0, "nothing goes on from there"
        assert out.report.numbers["lost"] == len(out.asked) - steps.height > 0
        if share == 1:
            assert lost.select("turn", "error").rows() == [(0, "the request failed: lost")] * 6
        else:
            assert 0 < steps.filter(turn=1).height < 18


@pytest.mark.parametrize("config", [GROWN, EpisodeConfig(group=3)], ids=["a tree", "episodes"])
def test_a_turn_without_tokens_is_a_failure(tmp_path, config):
    class Silent(ScriptedEngine):
        """Says nothing at some turns."""

        def generate(self, asked):
            nothing = {"token_ids": np.empty(0, np.int32), "logprobs": np.empty(0, np.float32)}
            for completion in super().generate(asked):
                yield replace(completion, **nothing) if self.seen[-1].seed % 3 == 0 else completion

    out = grown(tmp_path, config, kind=Silent)
    asked, turns_taken = len(out.asked), out.nodes.filter(kind="step").height
    assert out.report.numbers.get("lost", asked - turns_taken) == asked - turns_taken > 0
    said = out.verdicts["error"].drop_nulls()
    assert set(said) == {"the policy said nothing, not even that its turn ends"}
    assert out.verdicts["reward"].count() > len(said)
    assert out.faults == []


@pytest.mark.parametrize(
    ("environment", "bands", "options", "said"),
    [
        pytest.param(VILLAGE, HOPS, {}, "treeps_rag needs --threshold", id="no threshold"),
        pytest.param(VILLAGE, HOPS, {"threshold": 1.5}, "threshold 1.5 is no overlap", id="threshold"),
        pytest.param(VILLAGE, HOPS, {"threshold": 0.5, "percentile": 50.0}, "no --percentile", id="percentile"),
        pytest.param(VILLAGE, HOPS, {"threshold": 0.5, "depth": 0}, "depth is 0", id="depth"),
        pytest.param(VILLAGE, HOPS, {"threshold": 0.5, "group": 4}, "treeps_rag has no --group", id="group"),
        pytest.param(VILLAGE, HOPS, {"threshold": 0.5, "closed_book": True}, "no --closed-book", id="closed book"),
        pytest.param(VILLAGE, HOPS, {"strategy": "flat", "width": 4}, "flat has no --width", id="width"),
        pytest.param(VILLAGE, HOPS, {"strategy": "spo_tree"}, "spo_tree", id="another strategy"),
        pytest.param(
            'name = "tools"\ntools = ["calculator"]', SUMS, {"threshold": 0.5}, "has no search", id="no search"
        ),
        pytest.param('name = "open_spiel"\ngame = "kuhn_poker"', SEEDS, {"depth": 0}, "has no search", id="a game"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(tmp_path, environment, bands, options, said):
    with played(tmp_path, environment, bands, lambda text, sample: "#### 1") as work:
        write_tasks(work)
        with pytest.raises(BadConfig, match=said):
            write_episodes(work, EpisodeConfig(**{"strategy": "treeps_rag", **options}))
        assert Script.last.asked == []

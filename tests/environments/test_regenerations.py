"""Search-R2 in environments: episodes cut where a judge says, and played on from there."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl
import pytest
from environments.corridor import COUNTED, Corridor, all_faults, corridor, forest, not_sent, own_turns, variants_of
from environments.played_round import SEEDS, SUMS, TINY, Script, nodes_of, played, verdicts_of
from varied_round import reflection

from pipeline.errors import BadConfig
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.pairs import write_pairs
from pipeline.stages.regenerations import FIRST_SAMPLE, RegenerationConfig, write_regenerations
from pipeline.stages.tasks import write_tasks
from pipeline.variants.report import variant_lines

JUDGED, CUT = "Is the last step", "Reflect on"
ANEW = range(FIRST_SAMPLE, FIRST_SAMPLE + 1000)
"""Samples of revisions; those of episodes are far away."""


def says(cut: object = 1, *, anew: str = "left", first: str = "right"):
    """Goes left, then `first`; goes `anew` where it was cut. A judge rejects whatever went right."""

    def say(text: str, sample: int) -> str:
        if JUDGED in text:
            return "incorrect" if "\nright" in text else "correct"
        if CUT in text:
            return reflection(retry_from_step=cut)
        if sample in ANEW:
            return anew
        return first if text.count("<|assistant|>") > 1 else "left"

    return say


@pytest.fixture(scope="module")
def revised(tmp_path_factory):
    with corridor(tmp_path_factory.mktemp("revised"), says()) as work:
        report = write_regenerations(work)
        yield SimpleNamespace(work=work, report=report, asked=list(Script.last.asked))


class TestRevised:
    def test_the_checks_hold(self, revised):
        assert all_faults(revised.work) == []
        numbers = revised.report.numbers
        assert (numbers["accepted"], numbers["revised"], numbers["pass_rate_revised"]) == (6, 6, 1)

    def test_a_revision_departs_at_the_cut_and_keeps_what_it_was_cut_from(self, revised):
        trees = forest(revised.work)
        found = [row for row in variants_of(revised.work) if row["dropped"] is None]
        for row in found:
            tree = trees[row["task"]]
            source, anew = tree.path(row["source_leaf"]), tree.path(tree.last_of(row["first_node"]))
            assert (row["blamed_step"], row["with_count"], row["with_successes"]) == (1, 1, 1)
            assert anew[:3] == source[:3]
            assert (row["pivot"], row["first_node"]) == (source[2], anew[3])
            assert {tree[node]["origin"] for node in anew[3:]} == {"regenerate"}
            assert own_turns(tree, anew[-1]) == ["left", "left", "left"]
            assert own_turns(tree, source[-1]) == ["left", "right", "right"]

    def test_tokens_are_those_that_were_sent(self, revised):
        assert not_sent(revised.work, revised.asked) == []
        nodes = nodes_of(revised.work).filter(origin="regenerate")
        assert nodes.filter("sampled")["request"].n_unique() == 12
        assert nodes.filter(kind="step")["step_reward"].to_list() == [0.25, 1.0] * 6

    def test_no_revision_sees_what_was_said_of_its_source(self, revised):
        for row in nodes_of(revised.work).filter(origin="regenerate", sampled=True).iter_rows(named=True):
            text = TINY._tokenizer.decode(forest(revised.work)[row["task"]].tokens(row["node"]).tolist())
            assert JUDGED not in text
            assert CUT not in text

    def test_an_accepted_one_has_no_child(self, revised):
        for row in variants_of(revised.work):
            children = forest(revised.work)[row["task"]].children(row["source_leaf"])
            if row["dropped"] == "accepted":
                assert (row["first_node"], row["score"] > 0.5) == (None, True)
                assert len(children) == 1  # the question about it

    def test_a_judge_is_told_the_rules_and_what_was_seen(self, revised):
        about = next(text for text in revised.asked if JUDGED in text)
        assert "Go left or right.\nPlay. (number 1" in about
        assert "Step 1: room 1" in about

    def test_a_second_run_asks_nothing(self, revised):
        asked = len(Script.last.asked)
        assert write_regenerations(revised.work).fresh == 0
        assert len(Script.last.asked) == asked

    def test_pairs_credit_and_figures(self, revised):
        """A pair is of the turns at the cut: what is shown later is nobody's to learn."""
        write_pairs(revised.work)
        pairs = revised.work.store.read("pairs", revised.work.places("pairs")).filter(source="regeneration")
        assert set(pairs.select("chosen", "rejected").iter_rows()) == {("left", "right")}
        write_credit(revised.work, CreditConfig(("gigpo",)))
        (line,) = [
            line
            for line in variant_lines(revised.work.store, suite="played", round="r0")
            if line.figure == "revision against the rejected version"
        ]
        assert (line.plain, line.variant, line.tasks) == (0, 1, 3)


class TestHowItIsCut:
    def test_step_by_step(self, tmp_path):
        """Each turn is judged after those before it; no trimmer is asked."""
        with corridor(tmp_path, says(cut="none"), group=1) as work:
            write_regenerations(work, RegenerationConfig(by="steps"))
            assert all_faults(work) == []
            found = variants_of(work)
            assert [row["blamed_step"] for row in found if row["dropped"] is None] == [1, 1, 1]
            assert not any(CUT in text for text in Script.last.asked)

    def test_at_the_first_turn(self, tmp_path):
        with corridor(tmp_path, says(cut=0), group=1) as work:
            write_regenerations(work)
            assert all_faults(work) == []
            found = [row for row in variants_of(work) if row["dropped"] is None]
            assert [(row["pivot"], row["with_successes"]) for row in found] == [(0, 1)] * 3

    def test_again_and_again(self, tmp_path):
        """A revision that is rejected is cut in turn, and has a way of its own."""
        with corridor(tmp_path, says(cut=2, anew="right"), group=1) as work:
            write_regenerations(work, RegenerationConfig(revisions=2))
            assert all_faults(work) == []
            dropped = pl.Series([row["dropped"] for row in variants_of(work)])
            assert (dropped.null_count(), (dropped == "revised often enough").sum()) == (6, 3)
            assert nodes_of(work).filter(origin="regenerate")["request"].n_unique() == 6

    def test_actions_in_a_row_that_cannot_be_taken_are_counted_across_the_cut(self, tmp_path):
        """Two before it; the third ends the episode, as it would have ended it then."""

        def jumps(text: str, sample: int) -> str:
            return "incorrect" if JUDGED in text else reflection(retry_from_step=2) if CUT in text else "jump"

        with corridor(tmp_path, jumps, group=1) as work:
            write_regenerations(work)
            assert all_faults(work) == []
            ends = nodes_of(work).filter(pl.col("finish").is_not_null(), origin="regenerate")
            assert ends["finish"].to_list() == ["invalid"] * 3
            assert nodes_of(work).filter(origin="regenerate", kind="step").height == 3

    def test_a_copy_gives_the_same_and_spares_going_there_again(self, tmp_path):
        found = {}
        for copies in (False, True):
            (tmp_path / f"{copies}").mkdir()
            with corridor(tmp_path / f"{copies}", says(), copies=copies) as work:
                COUNTED["steps"] = 0
                digest = write_regenerations(work).digest
                found[copies] = (COUNTED["steps"], digest)
        assert found[False][0] - found[True][0] == 6  # the one step before the cut, of each
        assert found[False][1] == found[True][1]

    def test_with_tools_and_a_verifier(self, tmp_path):
        """A call and an answer; the answer is cut and drawn anew, after the very same observation."""
        call = '<tool_call>{"name": "calculator", "arguments": {"expression": "1+1"}}</tool_call>'

        def say(text: str, sample: int) -> str:
            if JUDGED in text:
                return "incorrect"
            if CUT in text:
                return reflection(retry_from_step=1)
            return call if text.count("<|assistant|>") == 1 else f"#### {sample}"

        with played(tmp_path, 'name = "tools"\ntools = ["calculator"]', SUMS, say) as work:
            write_tasks(work)
            write_episodes(work, EpisodeConfig(group=1))
            write_regenerations(work)
            assert all_faults(work) == []
            tried = [row for row in variants_of(work) if row["dropped"] is None]
            assert len(tried) == 2
            for row in tried:
                tree = forest(work)[row["task"]]
                assert "<tool_response>\n2\n</tool_response>" in tree[row["pivot"]]["text"]
                assert tree[row["first_node"]]["text"] == f"#### {FIRST_SAMPLE + row['source_leaf']}"
                assert (row["with_count"], row["with_successes"]) == (1, 0)


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"drifts": "text"}, "not replayable: turn 0 was sent other tokens"),
            ({"drifts": "state"}, "not replayable: BadStep: turn 0 came in another state"),
        ],
    )
    def test_an_episode_that_cannot_be_gone_again(self, tmp_path, options, why):
        """Nothing is asked about it, and the others are revised."""
        with corridor(tmp_path, says(), group=1, **options) as work:
            write_regenerations(work)
            assert all_faults(work) == []
            assert sorted(row["dropped"] or "" for row in variants_of(work)) == ["", "", "accepted", "accepted", why]
            assert sum(CUT in text for text in Script.last.asked) == 2

    @pytest.mark.parametrize("judged", [False, True])
    def test_an_environment_that_raises_on_the_way_back(self, tmp_path, monkeypatch, judged):
        """In the task with the number 11: on the first way back, or `judged`, when it goes to the cut."""
        usual = Corridor.step

        def broken(self, action):
            if self._seed == 11 and (not judged or any(CUT in text for text in Script.last.asked)):
                raise KeyError("in the middle")
            return usual(self, action)

        with corridor(tmp_path, says(), group=1) as work:
            monkeypatch.setattr(Corridor, "step", broken)
            write_regenerations(work)
            assert all_faults(work) == []
            dropped = [row["dropped"] for row in variants_of(work) if row["dropped"] not in (None, "accepted")]
            assert dropped == ["not replayable: KeyError: 'in the middle'"]
            assert nodes_of(work).filter(origin="regenerate", kind="step").height == 4

    def test_an_environment_that_raises_in_the_middle_of_a_revision(self, tmp_path):
        """It is kept up to there, without a verdict; those of the other tasks go on."""

        def say(text: str, sample: int) -> str:
            return "boom" if sample in ANEW and "room 11" in text else says()(text, sample)

        with corridor(tmp_path, say, group=1) as work:
            write_regenerations(work)
            assert all_faults(work) == []
            tried = [row for row in variants_of(work) if row["dropped"] is None]
            assert [row["with_successes"] for row in tried] == [1, None, 1]
            assert forest(work)[tried[1]["task"]][tried[1]["first_node"]]["finish"] == "failed"
            assert "KeyError: 'in the middle'" in verdicts_of(work)["error"].to_list()

    @pytest.mark.parametrize("cut", [3, "x", None, -1])
    def test_a_trimmer_that_names_no_turn(self, tmp_path, cut):
        with corridor(tmp_path, says(cut=cut), group=1) as work:
            write_regenerations(work)
            assert all_faults(work) == []
            assert {row["dropped"] for row in variants_of(work)} == {"invalid cut"}

    def test_what_says_that_it_cannot_be_gone_again_is_refused(self, tmp_path):
        with corridor(tmp_path, says(), group=1, replayable=False) as work:
            asked = len(Script.last.asked)
            with pytest.raises(BadConfig, match="so regenerations cannot go back to a turn") as refused:
                write_regenerations(work)
            assert "equal seeds and actions" in refused.value.remedy
            assert len(Script.last.asked) == asked

    def test_a_game_of_several_seats_is_refused(self, tmp_path):
        with played(tmp_path, 'name = "open_spiel"\ngame = "kuhn_poker"', SEEDS, says()) as work:
            write_tasks(work)
            with pytest.raises(BadConfig, match="has 2 seats, regenerations can take one"):
                write_regenerations(work)

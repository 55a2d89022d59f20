"""Strategies that read rewards as they grow: Monte Carlo with adaptive stopping, OmegaPRM's search, GroundedPRM's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.bench.forest import StoredForest
from pipeline.bench.labels_per_token import (
    END,
    FIRST_PROMPT,
    READING,
    RIGHT,
    SEPARATOR,
    WORD,
    WRONG,
    Policy,
    answer_of,
    halved_errors,
    measure,
    prompts,
    reward_of,
    scanned_errors,
    step_labels,
    tree_labels,
)
from pipeline.bench.shape import Shape
from pipeline.errors import BadConfig
from pipeline.generation.engine import Completion, Request, failed
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.generation.scripted import ScriptedEngine
from pipeline.labels.monte_carlo import monte_carlo
from pipeline.statistics import wilson
from pipeline.store.ledger import Ledger
from pipeline.trees.draft import Draft, Spot, new_draft
from pipeline.trees.grow import Tree, nodes_frame
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.mcts import Mcts, unjudged
from pipeline.trees.growth.monte_carlo import MonteCarlo
from pipeline.trees.growth.omegaprm import OmegaPrm
from pipeline.trees.lay_out import lay_out
from pipeline.trees.strategy import Informed, Strategy
from schemas import Nodes

SUITE = [Policy(7, 0.9, 0.01), Policy(6, 0.85, 0.02), Policy(9, 0.9, 0.0)]


@dataclass
class ShuffledEngine:
    """The scripted engine with many requests in hand, which end in an order by seed; some fail."""

    seed: int
    fails: int = 0
    name: str = "scripted"
    fingerprint: str = "simulated"
    seen: list[Request] = field(default_factory=list)

    def generate(self, requests) -> Iterator[Completion]:
        draw, in_hand, source = np.random.default_rng(self.seed), [], iter(requests)
        one, answer = object(), answer_of(SUITE)
        while one is not None or in_hand:
            while len(in_hand) < 50 and (one := next(source, None)) is not None:
                in_hand.append(one)
                self.seen.append(one)
            if not in_hand:
                return
            request = in_hand.pop(draw.integers(len(in_hand)))
            if self.fails and request.seed % self.fails == 0:
                yield failed(request, "the engine fell over")
            else:
                yield from ScriptedEngine(answer).generate([request])
            one = object()


@pytest.fixture
def grow(tmp_path):
    """Grows drafts in a fresh ledger: the trees by task, and the engine."""
    count = iter(range(1000))

    def run(strategy: Strategy, drafts, *, seed=0, fails=0, order="first"):
        engine = ShuffledEngine(seed, fails)
        with Ledger(tmp_path / f"{next(count)}.sqlite") as ledger:
            sampler = Sampler(ledger, "scripted", "stub", lambda: engine)
            scheduler = Scheduler(sampler, strategy, reward_of=reward_of, order=order)
            grown = sorted(scheduler.grow(iter(drafts)), key=lambda one: one.draft.task)
            return [one.draft for one in grown], engine, sum(one.failed for one in grown)

    return run


@pytest.fixture
def started(grow):
    """Drafts of the suite with judged attempts, a new list of pieces at each call."""
    drafts, _, _ = grow(Flat(8), prompts(SUITE))
    for draft in drafts:
        for attempt in draft.attempts():
            draft.pieces[attempt].reward = reward_of(draft, attempt)
    return lambda: [replace(draft, pieces=list(draft.pieces)) for draft in drafts]


def frame(drafts: list[Draft]):
    trees = []
    for draft in drafts:
        tree = Tree(draft.task, draft.tree)
        lay_out(draft, tree, by_step=True)
        trees.append(tree)
    return nodes_frame(trees)


STRATEGIES = [
    pytest.param(MonteCarlo(most=12, batch=4), id="monte carlo"),
    pytest.param(OmegaPrm(searches=3, rollouts=3), id="omegaprm"),
    pytest.param(Mcts(rounds=5), id="mcts"),
    pytest.param(Mcts(rounds=5, selection="random"), id="mcts at random"),
]


def beginning(strategy: Strategy, started):
    return prompts(SUITE) if isinstance(strategy, Mcts) else started()


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestEveryStrategy:
    def test_does_not_depend_on_the_order_of_answers(self, strategy, started, grow):
        one, two = (grow(strategy, beginning(strategy, started), seed=seed)[0] for seed in (1, 2))
        assert frame(one).equals(frame(two))
        assert frame(one).height > frame(list(beginning(strategy, started))).height
        assert [piece.entry and piece.entry.completion.key for piece in one[0].pieces] != [
            piece.entry and piece.entry.completion.key for piece in two[0].pieces
        ]

    def test_every_decoded_token_is_in_a_valid_tree(self, strategy, started, grow):
        before = {key for draft in beginning(strategy, started) for key in requests(draft)}
        drafts, engine, failures = grow(strategy, beginning(strategy, started))
        nodes = frame(drafts)
        Nodes.validate(nodes)
        assert not failures
        assert len({request.key for request in engine.seen}) == len(engine.seen)
        after = {key: tokens for draft in drafts for key, tokens in requests(draft).items()}
        assert after.keys() - before == {request.key for request in engine.seen}
        for draft in drafts:
            tree = Tree(draft.task, draft.tree)
            last = lay_out(draft, tree, by_step=True)
            for piece, node in last.items():
                np.testing.assert_array_equal(tree.tokens(node), draft.prefix(draft.end_of(piece)))

    def test_goes_on_without_what_failed(self, strategy, started, grow):
        drafts, _, failures = grow(strategy, beginning(strategy, started), fails=4)
        again, _, _ = grow(strategy, beginning(strategy, started), fails=4, seed=3)
        assert failures > 0
        assert frame(drafts).equals(frame(again))
        Nodes.validate(frame(drafts))


def with_attempts(draft: Draft, answers: list[list[int]]) -> Draft:
    """A draft with attempts as earlier stages leave them."""
    for sample, ids in enumerate(answers):
        piece = draft.pieces[draft.write(draft.root, np.array(ids), origin="sample", kind="step", sample=sample)]
        piece.finish, piece.reward = "stop", reward_of(draft, len(draft.pieces) - 1)
    return draft


def requests(draft: Draft) -> dict[str, int]:
    return {piece.entry.completion.key: len(piece.token_ids) for piece in draft.pieces if piece.entry}


def branches(draft: Draft) -> Counter[Spot]:
    return Counter(piece.at for piece in draft.pieces if piece.origin == "branch")


def rewards_at(draft: Draft, spot: Spot) -> list[float]:
    return [piece.reward for piece in draft.pieces if piece.origin == "branch" and piece.at == spot]


class TestMonteCarlo:
    strategy = MonteCarlo(attempts=2, most=14, batch=4)

    def test_draws_until_the_interval_excludes_the_threshold(self, started, grow):
        drafts, _, _ = grow(self.strategy, started())
        drawn = set()
        for draft in drafts:
            for spot, count in branches(draft).items():
                rewards = rewards_at(draft, spot)
                low, high = wilson(sum(rewards), count)
                assert count in (4, 8, 12, 14)
                assert (low > 0.5 or high < 0.5) or count == 14
                drawn.add(count)
        assert {4, 14} <= drawn

    def test_every_inner_step_of_the_attempts_is_labelled(self, started, grow):
        drafts, _, _ = grow(self.strategy, started())
        for draft in drafts:
            attempts = {spot.piece for spot in branches(draft)}
            assert branches(draft).keys() == {spot for piece in attempts for spot in draft.inner_ends(piece)}
            assert {draft.pieces[attempt].reward for attempt in attempts} == {0.0, 1.0}

    def test_its_labels_are_those_of_the_table(self, started, grow):
        drafts, _, _ = grow(self.strategy, started())
        draft, tree = drafts[0], Tree(drafts[0].task, drafts[0].tree)
        last = lay_out(draft, tree, by_step=True)
        verdicts = [(tree.tree, last[n], draft.pieces[n].reward) for n in last if draft.pieces[n].reward is not None]
        verdicts = pl.DataFrame(verdicts, schema=["tree", "node", "reward"], orient="row")
        labels = monte_carlo(nodes_frame([tree]), verdicts)
        k = labels.filter(labels["tokens"].is_not_null())["k"].to_list()
        assert sorted(k) == sorted(branches(draft).values())

    def test_hard_labels_agree_with_the_full_draw(self, started, grow):
        full, _, _ = grow(MonteCarlo(most=32, batch=32), started())
        early, _, _ = grow(MonteCarlo(most=32, batch=8), started())
        whole, part = step_labels(full, SUITE, 32), step_labels(early, SUITE, 32)
        assert part.tokens < whole.tokens
        assert len(whole.value) == len(part.value) == 38
        assert np.sum((whole.value > 0.5) != (part.value > 0.5)) == 0

    def test_with_threshold_0_the_first_right_draw_is_enough(self, started, grow):
        full, _, _ = grow(MonteCarlo(most=8, batch=8), started())
        early, _, _ = grow(MonteCarlo(most=8, batch=1, threshold=0.0), started())
        for whole, part in zip(full, early, strict=True):
            for spot in branches(whole):
                assert (max(rewards_at(whole, spot)) > 0) == (max(rewards_at(part, spot)) > 0)
                assert sum(rewards_at(part, spot)) <= 1

    @pytest.mark.parametrize("count", [1, 3, 4, 7, 20])
    @pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
    def test_decides_as_the_interval_does(self, count, threshold):
        right = np.arange(count + 1)
        low, high = wilson(right, count)
        decided = [MonteCarlo(threshold=threshold).decided(total, count) for total in right]
        assert decided == ((low > threshold) | (high < threshold)).tolist()

    @pytest.mark.parametrize("wrong", [{"most": 0}, {"batch": 0}, {"attempts": 0}, {"threshold": 1.0}, {"level": 1.0}])
    def test_what_cannot_be(self, wrong):
        with pytest.raises(BadConfig):
            MonteCarlo(**wrong)


class TestOmegaPrm:
    def test_halves_in_few_probes(self, started, grow):
        drafts, _, _ = grow(OmegaPrm(searches=1, rollouts=4), started())
        for draft in drafts:
            (attempt,) = {spot.piece for spot in branches(draft)}
            steps = len(draft.inner_ends(attempt)) + 1
            assert draft.pieces[attempt].reward == 0
            assert math.floor(math.log2(steps)) <= len(branches(draft)) <= math.ceil(math.log2(steps))
            assert set(branches(draft).values()) == {4}

    def test_the_step_found_goes_from_good_to_bad(self, started, grow):
        drafts, _, _ = grow(OmegaPrm(searches=1, rollouts=8), started())
        for draft in drafts:
            (found,) = halved_errors(draft)
            (attempt,) = {spot.piece for spot in branches(draft)}
            ends = draft.inner_ends(attempt)
            if found.found > 0:
                assert max(rewards_at(draft, ends[found.found - 1])) == 1
            if found.found < len(ends):
                assert max(rewards_at(draft, ends[found.found])) == 0

    def test_finds_the_first_error_where_none_is_made_good(self, grow, tmp_path):
        ids = [RIGHT, SEPARATOR, RIGHT, SEPARATOR, WRONG, SEPARATOR, WRONG, SEPARATOR, WRONG, END]
        policy = Policy(5, stays=1.0, recovers=0.0)
        draft = new_draft("task0", "task0@r", np.array([FIRST_PROMPT]), text="", max_tokens=99, reading=READING)
        grown = with_attempts(draft, [ids, policy.go_on(np.empty(0, np.int32), 0)])
        with Ledger(tmp_path / "l.sqlite") as ledger:
            sampler = Sampler(ledger, "scripted", "stub", lambda: ScriptedEngine(answer_of([policy])))
            scheduler = Scheduler(sampler, OmegaPrm(rollouts=2), reward_of=reward_of)
            (done,) = scheduler.grow(iter([grown]))
        assert [spot.end for spot in branches(done.draft)] == [4, 6]
        assert [error.found for error in halved_errors(done.draft)] == [2]

    @pytest.mark.parametrize("rewards", [(1.0, 1.0), (0.0, 0.0), (None, 0.0)])
    def test_a_task_without_both_is_not_searched(self, rewards):
        draft = new_draft("task0", "task0@r", np.array([FIRST_PROMPT]), text="", max_tokens=99, reading=READING)
        grown = with_attempts(draft, [[RIGHT, SEPARATOR, WRONG, END]] * 2)
        for piece, reward in zip(grown.pieces[1:], rewards, strict=True):
            piece.reward = reward
        assert list(OmegaPrm().grow(grown)) == []

    def test_a_rollout_is_searched_once(self, started, grow):
        drafts, _, _ = grow(OmegaPrm(searches=50, rollouts=4), started())
        for draft in drafts:
            prefixes = [draft.prefix(spot).tobytes() for spot in branches(draft)]
            assert len(prefixes) == len(set(prefixes))


def steps(*marks: int, words: int = 0) -> list[int]:
    """An answer of one step a mark; words in the first."""
    ids = [token for mark in marks for token in (mark, SEPARATOR)]
    return [ids[0], *[WORD] * words, *ids[1:-1], END]


class TestMcts:
    LATER = (RIGHT, RIGHT, RIGHT)

    @pytest.fixture
    def asked(self, tmp_path):
        """Searches with three answers to the prompt, all later ones right: what was asked, tokens of place and draw."""

        def run(rules: Mcts, *first: list[int], verdict_of=unjudged, max_tokens=200) -> list[tuple[tuple, int]]:
            def answer(request: Request) -> list[int]:
                return first[request.sample] if len(request.prompt) == 1 else steps(*self.LATER)

            draft = new_draft("t", "t@r", np.array([FIRST_PROMPT]), text="", max_tokens=max_tokens, reading=READING)
            engine = ScriptedEngine(answer)
            with Ledger(tmp_path / "l.sqlite") as ledger:
                sampler = Sampler(ledger, "scripted", "stub", lambda: engine)
                list(Scheduler(sampler, Informed(rules, verdict_of), reward_of=reward_of).grow(iter([draft])))
            return [(tuple(request.prompt[1:].tolist()), request.sampling.max_tokens) for request in engine.seen]

        return run

    def test_goes_to_the_child_of_the_greatest_value(self, asked):
        answers = steps(WRONG, WRONG), steps(RIGHT, RIGHT, words=1), steps(RIGHT, WRONG, words=2)
        found = asked(Mcts(rounds=2, enough=9), *answers)
        assert found == [((), 200)] * 3 + [((RIGHT, WORD, SEPARATOR), 197)] * 3

    def test_goes_to_what_looks_wrong_once_enough_is_right(self, asked):
        answers = steps(RIGHT, RIGHT), steps(WRONG, WRONG, words=1), steps(WRONG, RIGHT, words=2)
        assert asked(Mcts(rounds=2, enough=2), *answers)[3][0] == (WRONG, WORD, SEPARATOR)

    def test_stops_at_enough_of_both(self, asked):
        answers = steps(RIGHT, RIGHT), steps(WRONG, WRONG), steps(RIGHT, WRONG)
        assert len(asked(Mcts(rounds=9, enough=1), *answers)) == 3

    def test_draws_with_the_same_first_step_are_one_child(self, asked):
        # values: 1 - 1 = 0 for the first two together, 1 for the third
        answers = steps(RIGHT, RIGHT), steps(RIGHT, WRONG), steps(RIGHT, RIGHT, words=1)
        assert asked(Mcts(rounds=2, enough=9), *answers)[3][0] == (RIGHT, WORD, SEPARATOR)

    def test_where_answers_end_nothing_is_drawn(self, asked):
        assert len(asked(Mcts(rounds=9, enough=9), [RIGHT, END], [WRONG, END], [RIGHT, WORD, END])) == 3

    def test_a_step_that_repeats_the_one_before_is_an_end(self, asked):
        first = steps(RIGHT, RIGHT), steps(RIGHT, RIGHT), steps(RIGHT, RIGHT)
        assert [place for place, _ in asked(Mcts(rounds=9, enough=9), *first)] == [()] * 3 + [(RIGHT, SEPARATOR)] * 3

    def test_verdicts_of_simulated_steps_but_the_last_enter_the_reward(self, asked):
        judged = []

        def verdict_of(draft: Draft, spot: Spot, text: str) -> int:
            piece = draft.pieces[spot.piece]
            judged.append((piece.sample, spot.end))
            return 1 if piece.reward == 0 else -1

        # (-1 - 1/2 + 1) / 2 = -1/4 for the right answer, 1/4 for the second, -1 for the third
        answers = steps(RIGHT, *[RIGHT] * 3), steps(WRONG, *[WRONG] * 3, words=1), [WRONG, WORD, WORD, END]
        found = asked(Mcts(rounds=2, enough=9), *answers, verdict_of=verdict_of)
        assert judged[:4] == [(0, 4), (0, 6), (1, 5), (1, 7)]
        assert found[3][0] == (WRONG, WORD, SEPARATOR)

    def test_a_simulation_that_is_too_deep_counts_as_wrong(self, asked):
        answers = steps(RIGHT, RIGHT, RIGHT), steps(RIGHT, RIGHT, words=1), steps(WRONG, WRONG)
        assert asked(Mcts(rounds=2, enough=9, depth=1), *answers)[3][0] == (RIGHT, WORD, SEPARATOR)
        assert asked(Mcts(rounds=2, enough=9), *answers)[0][0] == (RIGHT, SEPARATOR)  # the prompt's are in the ledger

    def test_goes_on_down(self, asked):
        # after two rounds the first child has 1 + 0.9 * 3, and its one child, which came three times, is below it
        answers = steps(RIGHT, RIGHT, RIGHT, words=3), steps(WRONG, WRONG), steps(WRONG, WRONG, words=1)
        places = [place for place, _ in asked(Mcts(rounds=3, enough=9), *answers)][::3]
        assert places == [
            (),
            (RIGHT, WORD, WORD, WORD, SEPARATOR),
            (RIGHT, WORD, WORD, WORD, SEPARATOR, RIGHT, SEPARATOR),
        ]

    @pytest.mark.parametrize(
        "wrong", [{"rounds": 0}, {"children": 0}, {"depth": -1}, {"judge": "me"}, {"selection": ""}]
    )
    def test_what_cannot_be(self, wrong):
        with pytest.raises(BadConfig):
            Mcts(**wrong)


class TestBench:
    def test_the_value_of_a_prefix_is_the_share_of_right_answers(self):
        policy, path = Policy(4, stays=0.8, recovers=0.1), np.array([RIGHT, WORD, SEPARATOR, RIGHT, WORD])
        rewards = []
        for seed in range(3000):
            ids = np.concatenate([path, policy.go_on(path, seed)])
            marks = ids[(ids == RIGHT) | (ids == WRONG)]
            assert len(marks) == 4
            assert ids[-1] == END
            rewards.append(marks[-1] == RIGHT)
        assert policy.value(path) == pytest.approx(0.8 * 0.8 + 0.2 * 0.1)
        assert np.mean(rewards) == pytest.approx(policy.value(path), abs=4 * 0.5 / math.sqrt(3000))

    def test_tokens_of_labels_are_those_decoded_for_them(self, started, grow):
        drafts, engine, _ = grow(MonteCarlo(most=4, batch=4), started())
        labels = step_labels(drafts, SUITE, 4)
        known = {key: tokens for draft in drafts for key, tokens in requests(draft).items()}
        assert labels.tokens == sum(known[request.key] for request in engine.seen)
        assert len(labels.value) == sum(len(branches(draft)) for draft in drafts)

    def test_values_of_a_tree_are_means_of_those_below(self):
        draft = next(prompts([Policy(2, 0.5, 0.0)]))
        above = draft.write(draft.root, np.array([RIGHT, SEPARATOR]), origin="sample", kind="step")
        for sample, mark in enumerate((RIGHT, RIGHT, WRONG)):
            draft.write(draft.end_of(above), np.array([mark, END]), origin="sample", kind="step", sample=sample)
        labels = tree_labels([draft], [Policy(2, 0.5, 0.0)], 8)
        assert (labels.value.tolist(), labels.truth.tolist()) == ([pytest.approx(2 / 3)], [0.5])
        assert labels.rate == 125_000

    def test_first_errors_as_scanned(self):
        draft = new_draft("task0", "task0@r", np.array([FIRST_PROMPT]), text="", max_tokens=99, reading=READING)
        with_attempts(draft, [steps(RIGHT, WRONG, WRONG)])
        assert list(scanned_errors(draft, 1)) == []  # nothing was drawn

    def test_the_curve(self, monkeypatch):
        monkeypatch.setattr("pipeline.bench.labels_per_token.TASKS", 2)
        metrics = list(measure(StoredForest(Path(), Shape(seed=0)), group=4, attempts=1))
        curve = {(m.params["strategy"], m.params["k"]): m for m in metrics if m.metric == "gen.labels_per_mtoken"}
        assert {strategy for strategy, _ in curve} == {"every_step", "adaptive", "spo_tree"}
        assert curve["every_step", 1].params["mse"] > curve["every_step", 32].params["mse"]
        assert curve["every_step", 1].value > 20 * curve["every_step", 32].value
        assert all(m.value == pytest.approx(m.numerator / m.denominator) for m in metrics)
        assert all(0 <= m.params["accuracy"] <= 1 for m in metrics if m.metric == "gen.first_errors_per_mtoken")

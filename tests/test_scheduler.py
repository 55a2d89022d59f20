"""Many trees at once: nothing waits for what it does not need, nothing is asked twice, a cap ends a run cleanly."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable

import numpy as np
import pytest

from pipeline.errors import BadConfig
from pipeline.generation.budget.spending import Caps, Prices
from pipeline.generation.engine import Completion, Request, Sampling, failed
from pipeline.generation.sampler import Sampler
from pipeline.generation.scheduler import Scheduler
from pipeline.store.ledger import Ledger
from pipeline.trees.draft import Ask, Draft, Reading, new_draft
from pipeline.trees.grow import Tree, nodes_frame
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.lay_out import lay_out
from pipeline.trees.segment import cut_steps
from pipeline.trees.strategy import Shared, gather
from schemas import Nodes

LINE, END = 7, 0
CLOSERS = np.arange(100) == LINE
TREE = SpoTree(branching=(2, 3, 2), segment=4)


def decode(ids) -> str:
    return "".join("\n" if token == LINE else chr(97 + token % 26) for token in ids if token != END)


READING = Reading(decode, lambda ids: cut_steps(np.asarray(ids), "\n", closers=CLOSERS, decode=decode))


def drafts(count: int = 3) -> list[Draft]:
    return [
        new_draft(f"t{task}", f"t{task}@r", np.array([1, 2, 30 + task]), text="?", max_tokens=20, reading=READING)
        for task in range(count)
    ]


class Answering:
    """Answers by the request's content, in an order of its own; holds as many as it is given, and drops some."""

    name = "answering"
    fingerprint = "p"

    def __init__(self, *, seed: int = 0, most: int = 8, loses=lambda request: False):
        self._random, self._most, self._loses = random.Random(seed), most, loses
        self.asked: list[Request] = []
        self.closed = 0

    def generate(self, requests: Iterable[Request | None]) -> Generator[Completion, None, None]:
        held: list[Request] = []
        source, ended = iter(requests), False
        try:
            while held or not ended:
                while not ended and len(held) < self._most:
                    request = next(source, END)
                    if request is None:
                        assert held, "None while nothing is in hand"
                        break
                    if request is END:
                        ended = True
                    else:
                        held.append(request)
                        self.asked.append(request)
                if held:
                    yield self._answer(held.pop(self._random.randrange(len(held))))
        finally:
            self.closed += 1

    def _answer(self, request: Request) -> Completion:
        if self._loses(request):
            return failed(request, "lost")
        draw = np.random.default_rng(request.seed)
        ids = np.append(draw.integers(1, 20, draw.integers(1, 12)), END)[: request.sampling.max_tokens]
        finish = "stop" if ids[-1] == END else "length"
        return Completion(request.key, ids.astype(np.int32), np.full(len(ids), -0.5, np.float32), finish, cached=1)


def grown(ledger: Ledger, engine: Answering, strategy, some: list[Draft], **options):
    """The scheduler after it ran, and the rows of each tree."""
    scheduler = Scheduler(Sampler(ledger, "answering", "p", lambda: engine), strategy, **options)
    rows = {}
    for draft, _ in scheduler.grow(iter(some)):
        tree = Tree(draft.task, draft.tree)
        lay_out(draft, tree, by_step=strategy.by_step)
        rows[draft.task] = nodes_frame([tree])
    return scheduler, rows


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.mark.parametrize("strategy", [Flat(), TREE], ids=["flat", "spo_tree"])
def test_rows_do_not_tell_in_what_order_answers_came(tmp_path, strategy):
    found = []
    for seed, most in ((0, 1), (1, 8), (2, 500)):
        with Ledger(tmp_path / f"{seed}.sqlite") as ledger:
            found.append(grown(ledger, Answering(seed=seed, most=most), strategy, drafts())[1])
    assert found[0].keys() == {"t0", "t1", "t2"}
    for task, rows in found[0].items():
        Nodes.validate(rows)
        assert rows.equals(found[1][task])
        assert rows.equals(found[2][task])


def test_paths_are_what_was_sent_and_said(ledger):
    engine = Answering()
    _, rows = grown(ledger, engine, TREE, drafts(1))
    known = {entry.completion.key: entry for entry in ledger.get([one.key for one in engine.asked]).values()}
    tokens = dict(zip(rows["t0"]["node"], rows["t0"]["token_ids"], strict=True))
    above = dict(zip(rows["t0"]["node"], rows["t0"]["parent"], strict=True))
    for node, request in zip(rows["t0"]["node"], rows["t0"]["request"], strict=True):
        if request is None:
            continue
        path, at = [], node
        while at is not None:
            path, at = [*tokens[at].to_list(), *path], above[at]
        entry = known[request]
        assert path == [*entry.prompt.tolist(), *entry.completion.token_ids.tolist()]


def test_a_tree_is_full_and_a_second_run_pays_nothing(ledger):
    engine = Answering()
    _, rows = grown(ledger, engine, TREE, drafts())
    for frame in rows.values():
        inner = frame.filter(frame["finish"].is_null())
        children = frame.group_by("parent").len()
        widths = dict(children.drop_nulls().iter_rows())
        for node, depth in inner.select("node", "depth").iter_rows():
            assert widths[node] == TREE.branching[depth]
    paid = len(engine.asked)
    scheduler, again = grown(ledger, engine, TREE, drafts())
    assert len(engine.asked) == paid
    assert scheduler.sampler.spent.paid == 0
    assert all(again[task].equals(frame) for task, frame in rows.items())


def test_a_child_is_asked_before_its_parents_sisters_have_ended(ledger):
    engine = Answering(most=2)
    grown(ledger, engine, SpoTree(branching=(6, 2), segment=2), drafts(1), ready=1)
    lengths = [len(request.prompt) for request in engine.asked]
    assert max(lengths[:6]) == 3
    first = next(place for place, length in enumerate(lengths) if length > 3)
    assert first == 6  # asks are taken in the order they are known: after those of the first level
    with Ledger(ledger._path.with_name("other.sqlite")) as other:
        slow = Answering(most=2, seed=3)
        grown(other, slow, SpoTree(branching=(6, 2), segment=2), drafts(1), order="longest", ready=1)
    assert sorted(len(one.prompt) for one in slow.asked) == sorted(lengths)


def test_equal_asks_of_two_trees_are_paid_once(ledger):
    same = [new_draft(name, f"{name}@r", np.array([1]), text="?", max_tokens=20, reading=READING) for name in "ab"]
    booked = []
    engine = Answering()
    scheduler, rows = grown(ledger, engine, Flat(group=4), same, on_request=lambda task, one: booked.append(task))
    assert len(engine.asked) == 4
    assert sorted(booked) == ["a"] * 4 + ["b"] * 4
    assert rows["a"]["token_ids"].equals(rows["b"]["token_ids"])
    assert scheduler.sampler.spent.paid == 4


def test_what_fails_is_counted_and_the_rest_goes_on(ledger):
    engine = Answering(loses=lambda request: request.sample == 1)
    scheduler = Scheduler(Sampler(ledger, "answering", "p", lambda: engine), Flat(group=4))
    found = list(scheduler.grow(iter(drafts())))
    assert [grown.failed for grown in found] == [1, 1, 1]
    assert [len(grown.draft.pieces) for grown in found] == [4, 4, 4]


def test_a_strategy_may_end_before_its_asks_have(ledger):
    class First:
        needs_rewards, by_step = False, True

        def grow(self, draft):
            yield [Ask(draft.root, sample, Sampling(max_tokens=20)) for sample in range(4)]

    engine = Answering()
    scheduler = Scheduler(Sampler(ledger, "answering", "p", lambda: engine), First())
    found = list(scheduler.grow(iter(drafts(2))))
    assert [len(one.draft.pieces) for one in found] == [5, 5]


class Counting:
    """Draws twice a round from the prompt, as many rounds as the task's number says, and is told of all in between."""

    needs_rewards, by_step = False, True

    def __init__(self):
        self.put: list[list[str]] = []

    def reply(self, questions: list[str]) -> list[str]:
        self.put.append(questions)
        return questions

    def grow(self, draft):
        for level in range(1 + int(draft.task[1:]) % 3):
            asks = [Ask(draft.root, 2 * level + sample, Sampling(max_tokens=20)) for sample in range(2)]
            yield from gather(asks)
            question = f"{draft.task} {level}"
            assert (yield Shared(self.reply, question)) == question


@pytest.mark.parametrize("order", ["first", "longest"])
def test_shared_questions_stand_together_whatever_came_first(tmp_path, order):
    for seed, most in ((0, 1), (1, 8), (2, 500)):
        with Ledger(tmp_path / f"{seed}.sqlite") as ledger:
            strategy = Counting()
            _, rows = grown(ledger, Answering(seed=seed, most=most), strategy, drafts(36), order=order)
            again = Counting()
            grown(ledger, Answering(), again, drafts(36))
        assert len(rows) == 36
        expected = [
            [f"t{task} {level}" for task in range(first, min(36, first + 16)) if task % 3 >= level]
            for first in (0, 16, 32)
            for level in range(3)
        ]
        assert sorted(strategy.put) == sorted(again.put) == sorted(expected)


def test_a_part_made_again_puts_the_questions_that_it_put_among_others(tmp_path):
    parts = {draft.task: str(number // 20) for number, draft in enumerate(drafts(60))}
    put = []
    for begins, most in ((0, 500), (20, 8)):
        with Ledger(tmp_path / f"{begins}.sqlite") as ledger:
            strategy = Counting()
            grown(ledger, Answering(most=most), strategy, drafts(60)[begins:], part_of=lambda draft: parts[draft.task])
        put.append([question for question in sorted(strategy.put) if parts[question[0].split()[0]] != "0"])
        assert all(len({parts[one.split()[0]] for one in question}) == 1 for question in strategy.put)
    assert put[0] == put[1]


def test_a_shared_question_is_put_while_nothing_is_under_way(ledger):
    class Hasty:
        needs_rewards, by_step = False, True

        def grow(self, draft):
            yield [Ask(draft.root, sample, Sampling(max_tokens=20)) for sample in range(2)]
            yield Shared(list, "?")

    with pytest.raises(RuntimeError, match="puts a shared question while something is under way"):
        grown(ledger, Answering(), Hasty(), drafts(1))


def test_rewards_are_asked_for_only_where_they_are_needed(ledger):
    asked = []
    grown(ledger, Answering(), Flat(group=2), drafts(1), reward_of=lambda draft, piece: asked.append(piece))
    assert asked == []


@pytest.mark.parametrize(
    "caps",
    [
        pytest.param(Caps(tokens=60), id="tokens"),
        pytest.param(Caps(seconds=0.0), id="seconds"),
        pytest.param(Caps(cost=60.0, prices=Prices(decoded=1e6)), id="money by decoded tokens"),
        pytest.param(Caps(cost=60.0, prices=Prices(prompt=1e6)), id="money by prompt tokens"),
        pytest.param(Caps(cost=1e-9, prices=Prices(hour=1.0)), id="money by the hour"),
    ],
)
def test_a_cap_ends_a_run_and_the_next_goes_on_from_there(ledger, caps):
    engine = Answering(most=4)
    scheduler, rows = grown(ledger, engine, Flat(), drafts(12), caps=caps, ready=8)
    assert scheduler.stopped.startswith("the cap of")
    assert len(rows) < 12
    assert engine.closed == (1 if engine.asked else 0)
    whole, rest = grown(ledger, engine, Flat(), drafts(12))
    assert not whole.stopped
    assert len(rest) == 12
    assert len({one.key for one in engine.asked}) == len(engine.asked) == 96


def test_money_cannot_be_capped_without_prices():
    with pytest.raises(BadConfig, match="a run shall end at a cost of 5, and nothing has a price; give a price"):
        Caps(cost=5.0)


def test_leaving_early_closes_the_engine(ledger):
    engine = Answering()
    scheduler = Scheduler(Sampler(ledger, "answering", "p", lambda: engine), Flat())
    trees = scheduler.grow(iter(drafts()))
    next(trees)
    trees.close()
    assert engine.closed == 1


def test_an_unknown_order_is_refused(ledger):
    with pytest.raises(BadConfig, match="'fast' does not exist"):
        Scheduler(Sampler(ledger, "answering", "p", Answering), Flat(), order="fast")

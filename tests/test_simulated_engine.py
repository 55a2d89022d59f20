"""The engine without a model: blocks, ticks and bounds worked out by hand, and trees whose counts are known."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import pytest

from pipeline.bench.bounds import least_makespan, longest_path
from pipeline.bench.simulated_engine import END_ID, Answers, Machine, SimulatedEngine
from pipeline.errors import BadConfig
from pipeline.generation.block_cache import BlockCache
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.generation.reuse import Answered, Unique, least_prefill, unique_tokens

LONG = Sampling(max_tokens=100_000)


def tokens(count: int, first: int = 1) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int32)


def request(prompt: np.ndarray, sample: int = 0, sampling: Sampling = LONG) -> Request:
    return make_request(prompt, sampling, sample=sample, fingerprint="p")


def asking(length: int, sample: int = 0) -> Request:
    """A request that `scripted` answers with so many tokens."""
    return request(np.array([length]), sample)


def scripted(**machine) -> SimulatedEngine:
    """An engine whose answers are as long as the first token of the prompt says."""
    return SimulatedEngine(machine=Machine(**machine), answer=lambda asked, _: [7] * (asked.prompt[0] - 1) + [END_ID])


class TestBlockCache:
    @pytest.mark.parametrize(
        ("length", "cached"),
        [
            pytest.param(1, 0, id="less than a block"),
            pytest.param(16, 0, id="the last token is computed, and its block with it"),
            pytest.param(17, 16, id="a block and a token"),
            pytest.param(32, 16, id="two blocks"),
            pytest.param(33, 32, id="two blocks and a token"),
            pytest.param(90, 32, id="what was no whole block is not there"),
        ],
    )
    def test_whole_blocks_of_a_prefix(self, length, cached):
        cache = BlockCache()
        cache.take(tokens(40), decoded=1)
        assert cache.take(tokens(length), decoded=1).cached == cached

    def test_equal_tokens_after_others_are_another_block(self):
        cache = BlockCache()
        cache.take(tokens(32), decoded=1)
        assert cache.take(tokens(33, first=17), decoded=1).cached == 0

    @pytest.mark.parametrize(("decoded", "cached"), [(28, 32), (29, 48)])
    def test_decoded_tokens_are_found_but_the_last(self, decoded, cached):
        cache, prompt, said = BlockCache(), tokens(20), tokens(decoded, first=500)
        cache.give_back(cache.take(prompt, decoded=decoded), np.concatenate((prompt, said[:-1])))
        child = np.concatenate((prompt, said, tokens(16, first=900)))
        assert cache.take(child, decoded=1).cached == cached

    def test_of_what_is_left_the_least_recently_used_goes_first_and_of_a_sequence_its_end(self):
        cache, a, b, c = BlockCache(5), tokens(32), tokens(32, first=100), tokens(32, first=200)
        for prompt in (a, b, a, c):
            cache.give_back(cache.take(prompt, decoded=1), prompt)
        assert [kept(cache, prompt) for prompt in (a, b, c)] == [32, 16, 32]

    def test_what_runs_is_not_evicted(self):
        cache, a, b = BlockCache(4), tokens(32), tokens(32, first=100)
        lease = cache.take(a, decoded=17)  # two blocks of the prompt, and one to come
        assert cache.take(b, decoded=1) is None
        cache.give_back(lease, np.concatenate((a, tokens(16, first=500))))
        cache.give_back(cache.take(b, decoded=1), b)
        assert kept(cache, np.concatenate((a, tokens(16, first=500)))) == 32

    def test_a_prefix_shared_by_what_runs_takes_memory_once(self):
        cache, prompt = BlockCache(4), tokens(40)
        leases = [cache.take(prompt, decoded=2) for _ in range(3)]  # two blocks shared, one of each one's own
        assert [lease and lease.cached for lease in leases] == [0, 32, None]


def kept(cache: BlockCache, tokens: np.ndarray) -> int:
    """How many of some tokens, which fill whole blocks, are found; asked of a copy, since asking is use."""
    return deepcopy(cache).take(np.append(tokens, 999), decoded=1).cached


class TestBounds:
    def test_unique_tokens(self):
        #  1 2 | 3 4 5 6      the first answer, of four tokens
        #  1 2   3 | 7 8      forks after its first
        #  1 2 | 3 9          begins alike
        #  1 2   3 4 5 6 0 0 | 5    goes on after the result of a tool
        a, b, c, d = ([3, 4, 5, 6], [7, 8], [3, 9], [5])
        answered = [
            Answered(np.array([1, 2]), np.array(a)),
            Answered(np.array([1, 2, 3]), np.array(b)),
            Answered(np.array([1, 2]), np.array(c)),
            Answered(np.array([1, 2, *a, 0, 0]), np.array(d)),
        ]
        assert unique_tokens(answered) == Unique(prompt=4, decoded=8)
        assert unique_tokens(answered[::-1]) == Unique(prompt=4, decoded=8)
        assert unique_tokens(answered[1:2]) == Unique(prompt=3, decoded=2)
        assert unique_tokens([]) == Unique(0, 0)

    def test_least_prefill(self):
        prompt, said = tokens(20), tokens(30, first=500)
        child = np.concatenate((prompt, said))
        answered = [Answered(prompt, said), Answered(prompt, said[:3]), *2 * [Answered(child, tokens(2))]]
        assert least_prefill(answered) == 20 + 4 + 2 * 2
        assert least_prefill(answered, size=1) == 20 + 1 + 2 * 1
        assert least_prefill(answered[2:]) == 50 + 2

    #    0       5
    #   1 2      6
    #   3
    PARENT = np.array([-1, 0, 0, 1, -1, 4])
    TICKS = np.array([3, 2, 9, 8, 1, 1])

    def test_longest_path(self):
        assert longest_path(self.PARENT, self.TICKS) == 3 + 2 + 8
        assert longest_path(np.full(6, -1), self.TICKS) == 9
        assert longest_path(np.array([1, 2, -1]), np.array([1, 1, 1])) == 3
        assert longest_path(np.array([], dtype=int), np.array([])) == 0

    @pytest.mark.parametrize(
        ("slots", "delay", "bound"),
        [
            pytest.param(1, 0, 24, id="work"),
            pytest.param(4, 0, 13, id="longest path"),
            pytest.param(4, 5, 28, id="longest path with its tools"),
            pytest.param(1, np.array([0, 0, 0, 20, 0, 0]), 33, id="one tool"),
        ],
    )
    def test_least_makespan(self, slots, delay, bound):
        assert least_makespan(self.PARENT, self.TICKS, slots=slots, delay=delay) == bound


def times(engine: SimulatedEngine) -> list[tuple[float, float, float | None]]:
    return [(one.started, one.ended, one.delivered) for one in engine.served]


class TestTime:
    def test_slots(self):
        engine = scripted(slots=2)
        found = list(engine.generate([asking(3), asking(5), asking(4)]))
        assert times(engine) == [(0, 3, 3), (0, 5, 5), (3, 7, 7)]
        assert [completion.seconds for completion in found] == [3, 5, 7]
        counters = engine.counters()
        assert counters.makespan == 7
        assert counters.idle_share == pytest.approx(1 - 12 / 14)
        assert counters.num_requests_running == pytest.approx(12 / 7)
        assert counters.num_requests_waiting == pytest.approx(3 / 7)

    def test_the_clock_goes_on(self):
        engine = scripted(slots=1)
        assert math.isnan(engine.counters().idle_share)
        for _ in range(2):
            list(engine.generate([asking(3)]))
        assert times(engine) == [(0, 3, 3), (3, 6, 6)]

    def test_prefill_fills_the_slot(self):
        engine = SimulatedEngine(machine=Machine(slots=1, prefill_rate=4), answer=lambda *_: [7, END_ID])
        found = list(engine.generate([request(tokens(40), sample) for sample in range(2)]))
        assert times(engine) == [(0, 12, 12), (12, 16, 16)]
        assert [completion.cached for completion in found] == [0, 32]

    def test_a_tool_fills_no_slot(self):
        engine = SimulatedEngine(machine=Machine(slots=1, tool_ticks=50), answer=lambda *_: [7, END_ID])
        asked = [request(tokens(4), sample) for sample in range(20)]
        found = list(engine.generate(asked))
        assert [(one.started, one.ended) for one in engine.served] == [(2 * i, 2 * i + 2) for i in range(20)]
        delivered = {one.key: one.delivered for one in engine.served}
        assert [delivered[completion.key] for completion in found] == sorted(delivered.values())
        assert [completion.key for completion in found] != [one.key for one in asked]
        assert engine.now == max(delivered.values())

    def test_tools_take_their_mean_time(self):
        engine = SimulatedEngine(
            machine=Machine(slots=4000, tool_ticks=50, tool_spread=0.5), answer=lambda *_: [END_ID]
        )
        list(engine.generate(request(tokens(4), sample) for sample in range(4000)))
        waits = [one.delivered - one.ended for one in engine.served]
        assert np.mean(waits) == pytest.approx(50, rel=0.05)
        assert np.std(np.log(waits)) == pytest.approx(0.5, rel=0.05)

    def test_too_little_memory_for_two(self):
        engine = SimulatedEngine(machine=Machine(slots=2, cache_blocks=5), answer=lambda *_: [7] * 20 + [END_ID])
        asked = [request(tokens(12, first=100 * (1 + sample)), sample) for sample in range(3)]  # two blocks each
        list(engine.generate([*asked, request(tokens(90))]))
        assert times(engine) == [(0, 21, 21), (0, 21, 21), (21, 42, 42)]

    def test_what_can_never_start_is_an_error(self):
        engine = SimulatedEngine(machine=Machine(slots=2, cache_blocks=5), answer=lambda *_: [END_ID])
        large, small = request(tokens(81)), request(tokens(80))
        found = list(engine.generate([large, small]))
        assert [(c.key, c.error) for c in found] == [
            (large.key, "it takes 6 blocks, the cache has 5"),
            (small.key, None),
        ]


class TestSource:
    def test_takes_no_more_than_it_has_room_for(self):
        engine, given = scripted(slots=1, most=2), []

        def source() -> Iterator[Request]:
            for length in (3, 4, 5, 6):
                given.append((engine.now, length))
                yield asking(length)

        found = engine.generate(source())
        next(found)
        assert given == [(0, 3), (0, 4)]
        list(found)
        assert given == [(0, 3), (0, 4), (3, 5), (7, 6)]

    def test_asks_again_after_each_completion(self):
        engine, ready, asked = scripted(slots=2), deque([asking(2), asking(5)]), []

        def source() -> Iterator[Request | None]:
            while len(engine.served) < 4:
                asked.append(engine.now)
                yield ready.popleft() if ready else None

        for completion in engine.generate(source()):
            if completion.key == asking(2).key:
                ready.extend([asking(4), asking(1)])
        assert times(engine) == [(0, 2, 2), (0, 5, 5), (2, 6, 6), (5, 6, 6)]
        assert asked == [0, 0, 0, 2, 2, 2, 5, 6]

    def test_none_with_nothing_in_hand_is_an_error(self):
        with pytest.raises(RuntimeError, match="no request is in hand"):
            list(scripted().generate([None]))
        with pytest.raises(RuntimeError, match="no request is in hand"):
            list(scripted().generate([asking(2), None, None]))

    def test_what_only_waits_for_its_tool_is_in_hand(self):
        engine = SimulatedEngine(machine=Machine(slots=1, most=1, tool_ticks=1000), answer=lambda *_: [END_ID])
        assert len(list(engine.generate([request(tokens(2)), None, request(tokens(3))]))) == 2
        first, second = engine.served
        assert second.given == first.delivered > first.ended

    def test_closed_early_it_gives_up_the_rest(self):
        engine = scripted(slots=2)
        found = engine.generate([asking(3), asking(50), asking(9)])
        next(found)
        found.close()
        assert times(engine) == [(0, 3, 3), (0, 3, None)]
        assert engine.counters().generation_tokens == 3 + 3
        assert [completion.key for completion in engine.generate([asking(9)])] == [asking(9).key]
        assert times(engine)[2:] == [(3, 12, 12)]

    def test_what_was_given_up_in_its_prefill_decoded_nothing(self):
        engine = SimulatedEngine(machine=Machine(slots=2, prefill_rate=1), answer=lambda *_: [7, END_ID])
        found = engine.generate([request(tokens(8)), request(tokens(100, first=50))])
        next(found)
        found.close()
        assert [one.decoded for one in engine.served] == [2, 0]
        counters = engine.counters()
        assert (counters.prompt_tokens, counters.prefix_cache_queries) == (8, 108)


class TestAnswers:
    ASKED = tuple(request(tokens(20), sample) for sample in range(40))

    def answers(self, engine: SimulatedEngine, asked: tuple[Request, ...] = ASKED) -> dict[str, tuple]:
        return {c.key: (c.token_ids.tolist(), c.logprobs.tolist(), c.finish) for c in engine.generate(asked)}

    def test_depend_on_nothing_but_the_request(self):
        first, other = (
            SimulatedEngine(),
            SimulatedEngine(machine=Machine(slots=3, prefill_rate=7, tool_ticks=90, most=4)),
        )
        assert self.answers(first) == self.answers(other, self.ASKED[::-1])
        assert first.fingerprint == other.fingerprint

    @pytest.mark.parametrize("answers", [Answers(seed=1), Answers(spread=0.5), Answers(mean_tokens=90)])
    def test_other_answers_are_another_engine(self, answers):
        assert self.answers(SimulatedEngine(answers)) != self.answers(SimulatedEngine())
        assert SimulatedEngine(answers).fingerprint != SimulatedEngine().fingerprint

    def test_lengths(self):
        engine = SimulatedEngine(Answers(mean_tokens=60, stragglers=0.1, stretch=100_000))
        asked = (request(tokens(1), sample, Sampling(max_tokens=1000)) for sample in range(5000))
        lengths = np.array([len(completion.token_ids) for completion in engine.generate(asked)])
        usual = lengths[lengths < 1000]
        assert len(usual) / len(lengths) == pytest.approx(0.9, abs=0.01)
        assert usual.mean() == pytest.approx(60, rel=0.05)
        assert np.log(usual).std() == pytest.approx(0.7, rel=0.05)

    def test_end_with_the_end_token_or_at_the_limit(self):
        engine = SimulatedEngine(Answers(mean_tokens=60))
        found = [*engine.generate(request(tokens(1), i, Sampling(max_tokens=50)) for i in range(100))]
        assert {c.finish for c in found} == {"stop", "length"}
        for completion in found:
            assert len(completion.token_ids) == len(completion.logprobs) <= 50
            assert (completion.finish == "length") == (END_ID not in completion.token_ids)
            assert END_ID not in completion.token_ids[:-1]
            assert completion.finish == "stop" or len(completion.token_ids) == 50
            assert (completion.logprobs <= 0).all()
            assert completion.logprobs.dtype == np.float32

    def test_what_is_said_can_be_decided(self):
        engine = SimulatedEngine(
            Answers(mean_tokens=5, spread=0), answer=lambda asked, ids: [*ids[:-1], asked.sample, 0, 0]
        )
        (cut, whole) = engine.generate([request(tokens(3), 8, Sampling(max_tokens=5)), request(tokens(3), 9)])
        assert (cut.token_ids[-1], len(cut.token_ids), cut.finish) == (8, 5, "length")
        assert (whole.token_ids[-3:].tolist(), len(whole.logprobs), whole.finish) == ([9, 0, 0], 7, "stop")

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Answers(mean_tokens=0),
            lambda: Answers(stragglers=2),
            lambda: Answers(seed=-1),
            lambda: Machine(slots=0),
            lambda: Machine(cache_blocks=0),
            lambda: Machine(prefill_rate=0),
        ],
    )
    def test_what_cannot_be_is_said(self, make: Callable[[], object]):
        with pytest.raises(BadConfig):
            make()


TREES = 12


def grow_by_level(engine: SimulatedEngine, prompt: int, branching: int, depth: int) -> list[tuple[Request, Completion]]:
    """Full trees, a level after the other over all of them."""
    grown, ends = [], list(np.random.default_rng(0).integers(1, 9999, (TREES, prompt), dtype=np.int32))
    for _ in range(depth):
        asked = {one.key: one for end in ends for one in (request(end, sample) for sample in range(branching))}
        level = [(asked[completion.key], completion) for completion in engine.generate(asked.values())]
        ends = [np.concatenate((one.prompt, completion.token_ids)) for one, completion in level]
        grown += level
    return grown


@pytest.mark.parametrize(
    ("prompt", "branching", "depth", "segment", "waste"),
    [
        pytest.param(500, 8, 1, 800, 1.056, id="group of 8"),
        pytest.param(500, 3, 3, 250, 1.60, id="3^3"),
        pytest.param(500, 6, 3, 250, 5.24, id="6-6-6"),
        pytest.param(1800, 2, 5, 200, 1.28, id="2^5"),
        pytest.param(1800, 4, 3, 300, 1.39, id="4^3"),
    ],
)
def test_prefill_of_whole_trees(prompt, branching, depth, segment, waste):
    """Each request computes what lies after the last whole block before its prompt's last token; a first one, all."""
    engine = SimulatedEngine(Answers(mean_tokens=segment))
    grown = grow_by_level(engine, prompt, branching, depth)
    answered = [Answered(one.prompt, completion.token_ids) for one, completion in grown]
    unique, counters = unique_tokens(answered), engine.counters()
    assert unique == (TREES * prompt, sum(len(completion.token_ids) for _, completion in grown))
    assert unique.decoded == counters.generation_tokens

    after = sum((len(one.prompt) - 1) % 16 + 1 for one, _ in grown)
    first = TREES * (prompt - ((prompt - 1) % 16 + 1))
    computed = counters.prefix_cache_queries - counters.prefix_cache_hits
    assert computed == first + after == least_prefill(answered)
    assert computed / unique.prompt == pytest.approx(waste, rel=0.03)

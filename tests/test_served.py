"""The served engine against servers that speak the real protocol over real sockets, and go wrong in every way."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.completions_server import FAULTS, REFUSAL, REFUSALS, FakeServer, answer

from pipeline.errors import BadConfig, BadModel
from pipeline.generation import engines, serve
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.generation.policies import find_policy
from pipeline.generation.served.answer import body_of
from pipeline.generation.served.engine import ServedEngine
from pipeline.generation.served.faults import Fault, Refused, check_status
from pipeline.generation.served.identity import Model, read_identity, served_name
from pipeline.generation.served.limits import Limits
from pipeline.generation.served.listing import Listing
from pipeline.generation.served.pinning import BLOCK, Pins, by_preference

TINY = find_policy("tiny", policies=Path("none"))
FINGERPRINT = f"{TINY.fingerprint}.float32.vllm-{os.getpid()}-0.32.0"
"""Of this process alone: beside it another may get the port of a server that was killed."""
NAME = served_name(TINY, FINGERPRINT)
QUICK = Limits(attempts=4, stall=10.0, patience=20.0, back_off=0.01, longest_wait=0.05)
NARROW = replace(QUICK, in_flight=8, look=0.02)


def request(number: int = 0, *, task: int | None = None, tokens: int = 40, sampling: Sampling = Sampling()) -> Request:
    """A request of a task of its own unless one is given."""
    draw = np.random.default_rng(number if task is None else task)
    return make_request(draw.integers(2, 320, tokens), sampling, sample=number, fingerprint=FINGERPRINT)


def engine_on(*servers: FakeServer, limits: Limits = QUICK, max_length: int = 4096) -> ServedEngine:
    return ServedEngine(TINY, servers=",".join(server.url for server in servers), max_length=max_length, limits=limits)


def told(completions: Iterable[Completion]) -> dict[str, tuple[object, ...]]:
    """What each request was answered, by key; none may be answered twice."""
    found: dict[str, tuple[object, ...]] = {}
    for one in completions:
        assert one.key not in found, "answered twice"
        found[one.key] = (one.token_ids.tolist(), one.logprobs.tolist(), one.finish, one.error)
    return found


def undisturbed(requests: Iterable[Request]) -> dict[str, tuple[object, ...]]:
    """What a server says to each request if nothing goes wrong."""
    return {
        one.key: (*answer(body_of(one, model=NAME, end_ids=TINY.end_ids, length=TINY.max_length)), None)
        for one in requests
    }


def until(condition) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


class TestAnswers:
    def test_tokens_come_back_exact(self):
        few = Sampling(max_tokens=3)
        requests = [
            *map(request, range(40)),
            *(request(n, sampling=few) for n in range(40, 60)),
            request(60, tokens=1020),
        ]
        with FakeServer(NAME) as server:
            done = list(engine_on(server).generate(requests))
        assert told(done) == undisturbed(requests)
        assert {one.finish for one in done} == {"stop", "length"}
        assert {(one.token_ids.dtype, one.logprobs.dtype) for one in done} == {(np.dtype("i4"), np.dtype("f4"))}
        assert {one.cached for one in done} == {32, 1008}
        assert all(0 < one.seconds < 10 for one in done)

    def test_what_is_asked(self):
        asked = request(7, tokens=1000, sampling=Sampling(temperature=0.5, top_p=0.75, max_tokens=100))
        with FakeServer(NAME) as server:
            list(engine_on(server).generate([asked]))
        (body,) = server.bodies
        assert body["prompt"] == asked.prompt.tolist()
        assert (body["model"], body["seed"], body["temperature"], body["top_p"]) == (NAME, asked.seed, 0.5, 0.75)
        assert (body["n"], body["logprobs"], body["return_token_ids"], body["stop_token_ids"]) == (1, 0, True, [1])
        assert body["max_tokens"] == 24, "no more than the model has positions for"
        assert (body["ignore_eos"], body["top_k"], body["repetition_penalty"]) == (True, 0, 1.0)

    def test_a_server_that_does_not_tell_what_was_cached(self):
        with FakeServer(NAME, cached=False) as server:
            (done,) = engine_on(server).generate([request()])
        assert (done.cached, done.error) == (None, None)

    def test_a_prompt_that_does_not_fit_is_not_sent(self):
        fits, full = request(0, tokens=63), request(1, tokens=64)
        with FakeServer(NAME) as server:
            found = told(engine_on(server, max_length=64).generate([full, fits]))
        assert found[full.key] == ([], [], None, "prompt has 64 tokens, the model takes at most 63")
        assert found[fits.key][3] is None
        assert server.asked == 1

    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_a_refusal_is_an_error_in_the_servers_words_and_not_tried_again(self, refusal):
        bad, good = request(0), request(1)
        with FakeServer(NAME, fault=lambda number, body: refusal if body["seed"] == bad.seed else None) as server:
            done = list(engine_on(server).generate([bad, good]))
        found = told(done)
        assert found[bad.key] == ([], [], None, f"the server refused it: answered 400: {REFUSAL}")
        assert not any(one.may_pass for one in done)
        assert found[good.key] == undisturbed([good])[good.key]
        assert server.asked == 2


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_each_is_tried_again(self, fault):
        """Every second request goes wrong the first time it is asked."""
        requests = [request(number) for number in range(12)]
        once = {one.seed for one in requests[::2]}

        def go_wrong(number: int, body: dict) -> str | None:
            first = body["seed"] in once
            once.discard(body["seed"])
            return fault if first else None

        with FakeServer(NAME, fault=go_wrong, retry_after="0") as server:
            limits = replace(QUICK, stall=0.5 if "stall" in fault else 10.0)
            assert told(engine_on(server, limits=limits).generate(requests)) == undisturbed(requests)
        assert server.asked == 18

    @pytest.mark.parametrize("fault", FAULTS)
    def test_is_a_failure_with_its_reason_once_tries_are_used_up(self, fault):
        with FakeServer(NAME, fault=lambda number, body: fault, retry_after="0") as server:
            (done,) = engine_on(
                server, limits=replace(QUICK, attempts=2, stall=0.1 if "stall" in fault else 10.0)
            ).generate([request()])
        assert done.error.startswith(f"given up after 2 tries, the last at {server.url}: ")
        assert done.may_pass
        assert REASONS[fault] in done.error
        assert (done.finish, len(done.token_ids), len(done.logprobs)) == (None, 0, 0)
        assert server.asked == 2

    @pytest.mark.parametrize("fault", ["500", "reset amid", "an id beyond int32", "stall"])
    def test_another_server_is_tried(self, fault):
        requests = [request(number) for number in range(24)]
        with FakeServer(NAME, fault=lambda number, body: fault) as bad, FakeServer(NAME) as good:
            limits = replace(QUICK, stall=0.5 if fault == "stall" else 10.0)
            assert told(engine_on(bad, good, limits=limits).generate(requests)) == undisturbed(requests)
        assert bad.asked > 0
        assert good.asked == 24

    def test_all_at_once(self):
        """A run on two servers each of whose answers goes wrong one time in three is as one where nothing does."""
        requests = [request(number, task=number // 8) for number in range(400)]
        faults = [fault for fault in FAULTS if "stall" not in fault]

        def go_wrong(number: int, body: dict) -> str | None:
            return faults[number // 3 % len(faults)] if number % 3 == 0 else None

        limits = replace(QUICK, in_flight=16, attempts=40, back_off=0.001, longest_wait=0.01)
        with FakeServer(NAME, fault=go_wrong, retry_after="0") as one, FakeServer(NAME, fault=go_wrong) as two:
            two.retry_after = "0"
            assert told(engine_on(one, two, limits=limits).generate(requests)) == undisturbed(requests)
        assert one.asked + two.asked > 500

    @pytest.mark.parametrize("status", ["429", "503"])
    def test_a_server_that_wants_to_be_left_alone_is(self, status):
        times = []

        def busy(number: int, body: dict) -> str | None:
            times.append(time.monotonic())
            return status if number == 0 else None

        with FakeServer(NAME, fault=busy, retry_after="1") as server:
            assert all(one[3] is None for one in told(engine_on(server).generate([request()])).values())
        assert times[1] - times[0] >= 1

    def test_a_server_that_answers_others_first_does_not_hang(self):
        """Its silence on one request is longer than a stall, its silence altogether is not."""
        requests, slow = [request(number) for number in range(60)], request(99)
        with FakeServer(NAME, pause=lambda body: 1.5 if body["seed"] == slow.seed else 0.05) as server:
            limits = replace(QUICK, in_flight=3, attempts=1, stall=0.6)
            found = told(engine_on(server, limits=limits).generate([slow, *requests]))
        assert found == undisturbed([slow, *requests])

    @pytest.mark.parametrize(
        ("header", "least", "most"),
        [
            pytest.param("7", 7, 7, id="seconds"),
            pytest.param("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0, id="a date gone by"),
            pytest.param("Thu, 31 Dec 2099 23:59:59 GMT", 1e8, 1e10, id="a date to come"),
            pytest.param("soon", 1, 1, id="neither"),
        ],
    )
    def test_how_long_it_is_left_alone(self, header, least, most):
        with pytest.raises(Fault, match="answered 503: busy") as fault:
            check_status(503, "busy", {"Retry-After": header})
        assert least <= fault.value.rest <= most

    def test_what_is_a_refusal(self):
        for status in (400, 401, 403, 413, 422):
            with pytest.raises(Refused):
                check_status(status, json.dumps({"error": {"message": "no"}}), {})
        for status in (404, 408, 429, 500, 502, 503, 504):
            with pytest.raises(Fault, match=f"answered {status}: no$"):
                check_status(status, json.dumps({"error": {"message": "no"}}), {})


REASONS = {
    "count of tokens": "log-probabilities, 99 by its count",
    "a log-probability too few": "log-probabilities,",
    "a log-probability that is null": "choices.0.logprobs.token_logprobs.0 Input should be a valid number",
    "a log-probability that is no number": "choices.0.logprobs.token_logprobs.0 Input should be a finite number",
    "more than max_tokens": "more than the 128 tokens that were asked for",
    "a negative id": "choices.0.token_ids.0 Input should be greater than or equal to 0",
    "an id that is no integer": "choices.0.token_ids.0 Input should be a valid integer",
    "an id that is text": "choices.0.token_ids.0 Input should be a valid integer",
    "an id beyond int32": "choices.0.token_ids.0 Input should be less than 2147483648",
    "no ids": "choices.0.token_ids Field required",
    "another prompt": "the server answered another prompt",
    "aborted": "the server ended it with 'abort'",
    "no finish": "the answer broke off",
    "cut too early": "where 128 were asked for",
    "no counts": "the answer broke off",
    "no end token": "the answer stopped without an end token",
    "500 as an event": "answered 500: out of memory",
    "429": "answered 429: busy",
    "500": "answered 500: busy",
    "502": "answered 502: busy",
    "503": "answered 503: busy",
    "reset": "reset by peer",
    "reset amid": "reset by peer",
    "ended amid": "payload",
    "cut JSON": "an event is not as it should be: Invalid JSON",
    "no end": "the answer broke off",
    "stall": "no byte for 0.1 s",
    "stall amid": "no byte for 0.1 s",
}


class TestFleet:
    def test_a_server_that_is_killed_and_started_again_is_used_again(self):
        requests = [request(number) for number in range(60)]
        server = FakeServer(NAME, pause=lambda body: 0.01)
        server.start()
        going = engine_on(server, limits=NARROW).generate(requests)
        done = list(itertools.islice(going, 20))
        before = server.asked
        server.kill()
        back = threading.Timer(0.3, server.start)
        back.start()
        done += going
        back.join()
        server.kill()
        assert told(done) == undisturbed(requests)
        assert server.asked > before

    def test_one_of_two_is_killed(self):
        requests = [request(number) for number in range(60)]
        one, two = FakeServer(NAME, pause=lambda body: 0.01), FakeServer(NAME, pause=lambda body: 0.01)
        with two:
            one.start()
            going = engine_on(one, two).generate(requests)
            done = list(itertools.islice(going, 5))
            one.kill()
            assert told([*done, *going]) == undisturbed(requests)
        assert one.asked > 0

    def test_where_all_are_lost_the_rest_fails_and_the_run_ends(self):
        requests = [request(number) for number in range(300)]
        server = FakeServer(NAME)
        server.start()
        going = engine_on(server, limits=replace(NARROW, patience=1.0)).generate(requests)
        done = list(itertools.islice(going, 20))
        server.kill()
        done += going
        found = told(done)
        errors = [one[3] for one in found.values() if one[3] is not None]
        assert all(one.may_pass == (one.error is not None) for one in done)
        assert len(found) == 300
        assert 272 <= len(errors) <= 280
        assert all(error.startswith(f"no server for 1 s: {server.url}: Cannot connect") for error in errors)

    def test_a_server_may_be_added_and_taken_off_during_a_run(self, tmp_path, caplog):
        """The list is read again when it changes; one taken off ends what it has."""
        listed, marks = tmp_path / "servers.txt", []
        one, two = (FakeServer(NAME, pause=lambda body: 0.01) for _ in range(2))

        def source() -> Iterator[Request]:
            for number in range(120):
                if number == 40:
                    listed.write_text(f"# two of them\n{one.url}\n{two.url}/v1/  # the new one\n")
                    until(lambda: two.probed)
                if number == 80:
                    listed.write_text(f"{two.url}\n")
                    until(lambda: f"{one.url} left the list" in caplog.text and one.in_flight == 0)
                    marks.append(one.asked)
                yield request(number)

        with one, two:
            listed.write_text(f"{one.url}\n")
            engine = ServedEngine(TINY, servers=str(listed), max_length=4096, limits=NARROW)
            assert told(engine.generate(source())) == undisturbed(map(request, range(120)))
        assert two.asked > 40
        assert one.asked == marks[0]

    def test_a_list_that_becomes_unreadable_leaves_the_servers_as_they_were(self, tmp_path, caplog):
        listed = tmp_path / "servers.txt"
        with FakeServer(NAME) as server:
            listed.write_text(server.url)
            listing = Listing(str(listed))
            for broken in ("http://\n", "nonsense\n"):
                listed.write_text(broken)
                assert listing.urls() == (server.url,)
            listed.unlink()
            assert listing.urls() == (server.url,)
            listed.write_text("# none\n")
            assert listing.urls() == ()
        assert "the servers stay as they were" in caplog.text

    def test_a_server_that_would_give_other_tokens_does_not_join(self, tmp_path, caplog):
        listed = tmp_path / "servers.txt"
        other = served_name(TINY, FINGERPRINT.replace("float32", "bfloat16"))
        requests = [request(number) for number in range(40)]
        with FakeServer(NAME) as good, FakeServer(other) as bad, caplog.at_level(logging.WARNING):
            listed.write_text(good.url)
            engine = ServedEngine(TINY, servers=str(listed), max_length=4096, limits=NARROW)

            def source() -> Iterator[Request]:
                listed.write_text(f"{good.url}\n{bad.url}")
                until(lambda: "would give other tokens" in caplog.text)
                yield from requests

            assert told(engine.generate(source())) == undisturbed(requests)
        assert bad.asked == 0

    def test_a_server_that_turns_to_another_model_is_kept_out(self, caplog):
        requests, marks = [request(number) for number in range(200)], []
        with FakeServer(NAME) as good, FakeServer(NAME) as turned:

            def source() -> Iterator[Request]:
                yield from requests[:50]
                turned.model = "another"
                yield from requests[50:100]
                until(lambda: f"{turned.url} serves another" in caplog.text)
                marks.append(turned.asked)
                yield from requests[100:]

            assert told(engine_on(good, turned, limits=NARROW).generate(source())) == undisturbed(requests)
        assert 0 < turned.asked == marks[0]


class TestPinning:
    """Instructions longer than any task, as the prompts of instruct models have them."""

    HEAD = np.arange(2, 202)

    def prompt(self, task: int, answer: int = 0) -> np.ndarray:
        draw = np.random.default_rng(task)
        answered = np.random.default_rng(1000 + answer).integers(2, 320, answer)
        return np.concatenate([self.HEAD, draw.integers(2, 320, 40), answered]).astype(np.int32)

    def test_tells_tasks_apart_behind_what_all_prompts_share(self):
        pins = Pins()
        for task in range(3):
            pins.pin(self.prompt(task))
        found = {task: {pins.pin(self.prompt(task, answer)) for answer in range(9)} for task in range(50)}
        assert all(len(some) == 1 for some in found.values())
        assert len(set.union(*found.values())) == 50

    def test_prompts_of_any_length(self):
        pins = Pins()
        for tokens in (0, 1, BLOCK, 500):
            assert isinstance(pins.pin(np.arange(tokens, dtype=np.int32)), bytes)

    def test_a_server_that_goes_gives_up_its_own_pins_alone(self):
        urls = [f"http://{name}:8000" for name in "abcd"]
        before = {pin: by_preference(urls, pin) for pin in (bytes([n]) for n in range(200))}
        for pin, order in before.items():
            assert by_preference(urls[1:], pin) == [url for url in order if url != urls[0]]
        first = [order[0] for order in before.values()]
        assert all(30 < first.count(url) < 70 for url in urls)

    def test_requests_of_a_task_go_to_one_server(self):
        """Eight requests of each of many tasks, few in flight: no server gets a part of a task."""
        requests = [request(number, task=number // 8) for number in range(8 * 40)]
        with FakeServer(NAME) as one, FakeServer(NAME) as two:
            engine = engine_on(one, two, limits=replace(QUICK, in_flight=4))
            list(engine.generate(requests))
        first, second = ({tuple(body["prompt"]) for body in server.bodies} for server in (one, two))
        assert first
        assert second
        assert not first & second

    def test_a_task_with_many_requests_is_shared(self):
        """One prompt, more requests than a server takes alone: the other gets some, and not more than it must."""
        requests = [request(number, task=0) for number in range(64)]
        with ExitStack() as stack:
            one, two = (stack.enter_context(FakeServer(NAME, pause=lambda body: 0.2)) for _ in range(2))
            list(engine_on(one, two).generate(requests))
        assert one.asked + two.asked == 64
        assert min(one.asked, two.asked) >= 16
        assert max(one.fullest, two.fullest) <= 41


class TestGenerator:
    def test_nothing_is_taken_before_there_is_room(self):
        """Fifty thousand requests are queued; no more than fit are ever in hand."""
        taken, answered, ahead = 0, 0, 0

        def source() -> Iterator[Request]:
            nonlocal taken, ahead
            for number in range(50_000):
                taken += 1
                ahead = max(ahead, taken - answered)
                yield request(number, task=number // 8, tokens=8)

        with FakeServer(NAME, keep=False) as one, FakeServer(NAME, keep=False) as two:
            with closing(engine_on(one, two).generate(source())) as going:
                for completion in itertools.islice(going, 3000):
                    assert completion.error is None
                    answered += 1
            assert max(one.fullest, two.fullest) <= 320
        assert 256 <= ahead <= 512
        assert taken <= 3000 + 512

    def test_a_source_that_knows_none_at_the_moment_is_asked_again(self):
        """Each answer brings the next request, as a tree grows."""
        waiting, answered = [request(0)], []

        def source() -> Iterator[Request | None]:
            while len(answered) < 20:
                yield waiting.pop() if waiting else None

        with FakeServer(NAME) as server:
            for completion in engine_on(server).generate(source()):
                answered.append(completion)
                waiting.append(request(len(answered)))
        assert told(answered) == undisturbed(map(request, range(20)))

    def test_none_with_nothing_in_hand_is_an_error(self):
        with FakeServer(NAME) as server, pytest.raises(RuntimeError, match="no request is in hand"):
            list(engine_on(server).generate(iter([None])))

    def test_closed_early_it_leaves_nothing_behind(self):
        with FakeServer(NAME, pause=lambda body: 60.0) as slow, FakeServer(NAME) as quick:
            before = set(threading.enumerate())
            going = engine_on(slow, quick, limits=replace(QUICK, stall=100.0)).generate(map(request, range(400)))
            next(going)
            assert set(threading.enumerate()) > before
            going.close()
            assert set(threading.enumerate()) == before
            until(lambda: slow.in_flight == 0 and slow.connections == 0 and quick.connections == 0)
        assert slow.asked > 0

    def test_a_source_that_fails_leaves_nothing_behind(self):
        def source() -> Iterator[Request]:
            yield from map(request, range(4))
            raise InterruptedError

        with FakeServer(NAME, pause=lambda body: 60.0) as server:
            before = set(threading.enumerate())
            with pytest.raises(InterruptedError):
                list(engine_on(server).generate(source()))
            assert set(threading.enumerate()) == before
            until(lambda: server.connections == 0)

    def test_a_fault_of_our_own_is_raised(self):
        """What no server can have caused is no failed completion."""
        bad = Request("00", np.arange(4, dtype=np.int32), None, 0)
        with FakeServer(NAME) as server, pytest.raises(AttributeError):
            list(engine_on(server).generate([bad]))

    def test_runs_one_after_another(self):
        with FakeServer(NAME) as server:
            engine = engine_on(server)
            for some in (range(4), range(4, 8)):
                assert told(engine.generate(map(request, some))) == undisturbed(map(request, some))
            assert list(engine.generate([])) == []


class TestOpening:
    def test_by_name(self):
        with FakeServer(NAME) as one, FakeServer(NAME) as two:
            for name in (f"served:{one.url}", f"served:{one.url}/v1,{two.url}/"):
                assert engines.engine_fingerprint(name, TINY) == FINGERPRINT
                engine = engines.open_engine(name, TINY)
                assert engine is engines.open_engine(name, TINY)
                assert (engine.name, engine.fingerprint) == ("served", FINGERPRINT)
            assert told(engine.generate([request()])) == undisturbed([request()])
        engines.close_engines()

    def test_an_engine_in_this_process_is_at_no_place(self):
        with pytest.raises(BadConfig, match="'vllm' takes no place, 'http://a' is given; write served:http://a"):
            engines.open_engine("vllm:http://a", TINY)

    def test_no_server_answers(self):
        server = FakeServer(NAME)
        with server:
            pass
        with pytest.raises(
            BadConfig, match=r"no server answers: http://.*Cannot connect.*branchpoint serve --policy tiny"
        ):
            engine_on(server)

    def test_one_of_two_is_enough(self):
        server = FakeServer(NAME)
        with server:
            pass
        with FakeServer(NAME) as good:
            assert engine_on(server, good).fingerprint == FINGERPRINT

    def test_servers_that_differ_are_refused(self):
        other = served_name(TINY, FINGERPRINT.replace("float32", "bfloat16"))
        told = r"would give other tokens: .*\.float32\..* and .*\.bfloat16\."
        with FakeServer(NAME) as one, FakeServer(other) as two, pytest.raises(BadConfig, match=told):
            engine_on(one, two)

    def test_a_server_that_serves_something_else_is_refused(self):
        with (
            FakeServer("other") as server,
            pytest.raises(BadModel, match=r"serves other with vLLM 0\.32\.0, not the policy"),
        ):
            engine_on(server)

    def test_a_server_that_wants_a_key_is_refused(self):
        with (
            FakeServer(NAME, wants_key=True) as server,
            pytest.raises(BadModel, match="answered 401: Unauthorized; start"),
        ):
            engine_on(server)

    @pytest.mark.parametrize(
        ("model", "version", "fingerprint"),
        [
            pytest.param({"id": NAME}, "0.32.0", FINGERPRINT, id="ours"),
            pytest.param({"id": NAME}, "0.33.0", None, id="ours, of another version than its name says"),
            pytest.param(
                {"id": served_name(TINY, "0" * 16 + ".float32.vllm-0.32.0")}, "0.32.0", None, id="other weights"
            ),
            pytest.param(
                {"id": served_name(TINY, "0" * 16 + ".float32.vllm-0.32.0"), "root": "/models/tiny"},
                "0.32.0",
                None,
                id="other weights in a folder of the same name",
            ),
            pytest.param({"id": "tiny"}, "0.31.1", f"{TINY.fingerprint}.as=tiny.vllm-0.31.1", id="by name"),
            pytest.param(
                {"id": "org/tiny"}, "0.31.1", f"{TINY.fingerprint}.as=org/tiny.vllm-0.31.1", id="as at the Hub"
            ),
            pytest.param(
                {"id": "m", "root": "/models/tiny"}, "0.31.1", f"{TINY.fingerprint}.as=m.vllm-0.31.1", id="by folder"
            ),
            pytest.param({"id": "tiny-chat", "root": "/models/tiny-chat"}, "0.31.1", None, id="another"),
        ],
    )
    def test_what_a_server_is(self, model, version, fingerprint):
        models = [Model(id="adapter"), Model(**model, max_model_len=1024)]
        if fingerprint is None:
            with pytest.raises(BadModel, match="not the policy tiny"):
                read_identity("http://a", models, version, TINY, length=1024)
        else:
            assert read_identity("http://a", models, version, TINY, length=1024) == (model["id"], fingerprint)

    def test_a_server_with_fewer_positions_is_refused(self):
        with FakeServer(NAME, max_model_len=512) as server:
            with pytest.raises(BadModel, match="512 positions, 1024 are asked for; start it with --max-model-len 1024"):
                engine_on(server)
            assert engine_on(server, max_length=512).fingerprint == FINGERPRINT


class TestListing:
    def test_urls(self):
        assert Listing("http://a:1,https://b/v1/,http://a:1").urls() == ("http://a:1", "https://b")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("http://a\nb:8000\n", r"servers\.txt, line 2: 'b:8000' is no server"),
            ("http://a:port", "line 1: 'http://a:port' is no server"),
            ("http://a http://b", "is no server"),
            ("# none\n\n", "lists no server; write one http://host:port a line"),
        ],
    )
    def test_a_file_that_lists_none(self, tmp_path, text, told):
        (tmp_path / "servers.txt").write_text(text)
        with pytest.raises(BadConfig, match=told):
            Listing(str(tmp_path / "servers.txt"))

    def test_a_file_that_is_not_there(self):
        with pytest.raises(BadConfig, match=r"the list of servers none\.txt cannot be read"):
            Listing("none.txt")


def test_a_server_that_does_not_come_up_says_why(monkeypatch):
    """A program in vLLM's place that logs as it does."""
    log = "print('(EngineCore) ERROR ValueError: no such architecture'); raise RuntimeError('Engine core failed')"
    monkeypatch.setattr(serve, "_command", lambda policy, host: [sys.executable, "-c", log])
    told = (
        r"ended with 1: ValueError: no such architecture; the end of its log:\n(?s:.)*RuntimeError: Engine core failed"
    )
    with pytest.raises(BadModel, match=told), serve.serving(TINY):
        pass


def test_a_port_that_is_taken_is_named():
    with (
        FakeServer(NAME) as server,
        pytest.raises(BadConfig, match=f"cannot listen at 127.0.0.1:{server.port}: "),
        serve.serving(TINY, port=server.port),
    ):
        pass

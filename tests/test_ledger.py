"""The ledger and the sampler before it: nothing is paid twice, nothing recorded is lost."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from pipeline.errors import BadConfig, StoreFull
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.generation.sampler import Sampler, Spent
from pipeline.generation.scripted import ScriptedEngine
from pipeline.store.ledger import Ledger

PROMPT = np.array([5, 6], np.int32)
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=4)


def request(number: int = 0, prompt=PROMPT, sampling: Sampling = SAMPLING, fingerprint: str = "p") -> Request:
    return make_request(np.asarray(prompt), sampling, sample=number, fingerprint=fingerprint)


def answer(asked: Request, *ids: int, error: str | None = None) -> Completion:
    finish = None if error else "stop"
    return Completion(
        asked.key, np.array(ids, np.int32), np.full(len(ids), -0.5, np.float32), finish, 1, 0.25, error=error
    )


@pytest.fixture
def ledger(tmp_path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "store" / "ledger.sqlite") as ledger:
        yield ledger


class TestContentKey:
    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(request(prompt=[5, 7]), id="prompt"),
            pytest.param(request(prompt=[5]), id="shorter prompt"),
            pytest.param(request(prompt=[6, 5]), id="order of the prompt"),
            pytest.param(request(sampling=replace(SAMPLING, temperature=0.8)), id="temperature"),
            pytest.param(request(sampling=replace(SAMPLING, top_p=1.0)), id="top_p"),
            pytest.param(request(sampling=replace(SAMPLING, max_tokens=5)), id="max_tokens"),
            pytest.param(request(1), id="sample"),
            pytest.param(request(fingerprint="q"), id="fingerprint"),
        ],
    )
    def test_changes_with(self, other):
        assert other.key != request().key
        assert other.seed != request().seed

    @pytest.mark.parametrize(
        "prompt",
        [
            pytest.param(np.array([5, 6], np.int64), id="width of integers"),
            pytest.param(np.array([5, 0, 6, 0], np.int32)[::2], id="strides"),
            pytest.param([5, 6], id="list"),
        ],
    )
    def test_stays_with_the_same_tokens(self, prompt):
        assert request(prompt=prompt).key == request().key

    @pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}])
    def test_sampling_that_cannot_be(self, wrong):
        with pytest.raises(BadConfig, match=next(iter(wrong))):
            Sampling(**wrong)


class TestLedger:
    def test_one_that_may_not_be_written_is_read(self, tmp_path, monkeypatch):
        """A superuser may write anything, so SQLite is asked for what it gives others: a connection that only reads."""
        path, asked = tmp_path / "ledger.sqlite", request()
        with Ledger(path) as ledger:
            ledger.put([(asked, answer(asked, 1, 2))], policy="p", engine="scripted", asked_by="")
        connect = sqlite3.connect

        def refused(where: str, *, uri: bool, **settings) -> sqlite3.Connection:
            return connect(where if uri else f"{path.as_uri()}?mode=ro&immutable=1", uri=True, **settings)

        monkeypatch.setattr(sqlite3, "connect", refused)
        with Ledger(path) as ledger:
            assert ledger.get([asked.key])[asked.key].completion.token_ids.tolist() == [1, 2]
            assert list(ledger.damage()) == []
            with pytest.raises(StoreFull, match="cannot write the ledger"):
                ledger.put([(request(1), answer(request(1), 3))], policy="p", engine="scripted", asked_by="")

    def test_durable_across_reopening(self, tmp_path):
        path, asked = tmp_path / "ledger.sqlite", request()
        with Ledger(path) as ledger:
            ledger.put([(asked, answer(asked, 1, 2))], policy="p", engine="scripted", asked_by="")
        with Ledger(path) as ledger:
            entry = ledger.get([asked.key, "unknown"])
        assert list(entry) == [asked.key]
        entry = entry[asked.key]
        assert (entry.policy, entry.engine, entry.sample, entry.attempts) == ("p", "scripted", 0, 1)
        assert entry.sampling == SAMPLING.as_json()
        assert entry.prompt.tolist() == [5, 6]
        assert entry.completion.token_ids.tolist() == [1, 2]
        assert entry.completion.logprobs.tolist() == [-0.5, -0.5]
        found = entry.completion
        assert (found.key, found.finish, found.cached, found.seconds, found.error) == (asked.key, "stop", 1, 0.25, None)

    def test_unknown_stays_null(self, ledger):
        asked = request()
        ledger.put([(asked, replace(answer(asked, 1), cached=None, seconds=None))], policy="p", engine="e", asked_by="")
        found = ledger.get([asked.key])[asked.key].completion
        assert (found.cached, found.seconds) == (None, None)

    def test_a_result_is_never_overwritten(self, ledger):
        asked = request()
        for later in (answer(asked, 1), answer(asked, 2), answer(asked, error="lost")):
            ledger.put([(asked, later)], policy="p", engine="scripted", asked_by="")
        entry = ledger.get([asked.key])[asked.key]
        assert (entry.completion.token_ids.tolist(), entry.completion.error, entry.attempts) == ([1], None, 1)

    def test_failures_are_kept_and_counted_until_a_result(self, ledger):
        asked = request()
        for error in ("first", "second"):
            ledger.put([(asked, answer(asked, error=error))], policy="p", engine="scripted", asked_by="")
        entry = ledger.get([asked.key])[asked.key]
        assert (entry.completion.error, entry.completion.finish, entry.attempts) == ("second", None, 2)
        ledger.put([(asked, answer(asked, 3))], policy="p", engine="scripted", asked_by="")
        entry = ledger.get([asked.key])[asked.key]
        assert (entry.completion.token_ids.tolist(), entry.completion.error, entry.attempts) == ([3], None, 3)
        assert ledger.count() == 1

    def test_time_on_the_clock_adds_up_by_who_asked(self, tmp_path):
        path = tmp_path / "ledger.sqlite"
        with Ledger(path) as ledger:
            for number, seconds in enumerate((1.5, 2.0, 0.0)):
                asked = request(number)
                ledger.put([(asked, answer(asked, 1))], policy="p", engine="e", asked_by="s/r0/trees", seconds=seconds)
            ledger.put([(request(9), answer(request(9), 1))], policy="p", engine="e", asked_by="s/r0/roles")
        with Ledger(path) as ledger:
            assert (ledger.seconds("s/r0/trees"), ledger.seconds("s/r0/roles")) == (3.5, None)

    def test_a_ledger_without_a_clock_knows_no_time(self, tmp_path, ledger):
        ledger._db.execute("drop table clock")
        assert ledger.seconds("s/r0/trees") is None

    def test_many_keys(self, ledger):
        asked = [request(number) for number in range(1203)]
        ledger.put(((one, answer(one, one.sample)) for one in asked), policy="p", engine="scripted", asked_by="")
        found = ledger.get([one.key for one in asked])
        assert [found[one.key].completion.token_ids.tolist() for one in asked] == [[n] for n in range(1203)]
        assert ledger.count() == 1203

    def test_a_batch_is_recorded_whole_or_not_at_all(self, ledger):
        def broken() -> Iterator[tuple[Request, Completion]]:
            yield request(), answer(request(), 1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            ledger.put(broken(), policy="p", engine="scripted", asked_by="")
        assert ledger.count() == 0

    def test_cannot_be_opened(self, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "foreign.sqlite").write_text("no database" * 999)
        for path in (tmp_path / "file" / "ledger.sqlite", tmp_path / "foreign.sqlite"):
            with pytest.raises(StoreFull, match="choose another store"):
                Ledger(path)

    def test_cannot_be_written(self, ledger):
        ledger._db.execute("pragma query_only=on")
        with pytest.raises(StoreFull, match="what is recorded is kept"):
            ledger.put([(request(), answer(request(), 1))], policy="p", engine="scripted", asked_by="")

    def test_survives_being_killed(self, tmp_path):
        put_forever = """
import sys, numpy as np
from pathlib import Path
from pipeline.generation.engine import Completion, Sampling, make_request
from pipeline.store.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(1_000_000):
    asked = make_request(np.array([5, 6]), Sampling(), sample=number, fingerprint="p")
    done = Completion(asked.key, np.array([number]), np.array([-0.5]), "stop")
    ledger.put([(asked, done)], policy="p", engine="e", asked_by="")
    print(asked.key, flush=True)
"""
        path = tmp_path / "ledger.sqlite"
        with subprocess.Popen([sys.executable, "-c", put_forever, path], stdout=subprocess.PIPE, text=True) as writer:
            told = [writer.stdout.readline().strip() for _ in range(20)]
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        with Ledger(path) as ledger:
            found = ledger.get(told)
            assert [found[key].completion.token_ids.tolist() for key in told] == [[n] for n in range(20)]
            ledger.put([(request(), answer(request(), 1))], policy="p", engine="e", asked_by="")
        with sqlite3.connect(path) as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        db.close()


class TestScriptedEngine:
    @pytest.mark.parametrize(
        ("ids", "given", "finish"),
        [
            pytest.param([1, 9], [1, 9], "stop", id="ends"),
            pytest.param([1, 2, 3, 9], [1, 2, 3, 9], "stop", id="ends at the limit"),
            pytest.param([1, 2, 3, 4, 9], [1, 2, 3, 4], "length", id="is cut at the limit"),
        ],
    )
    def test_answers(self, ids, given, finish):
        engine = ScriptedEngine(lambda request: ids, logprob=-0.25)
        (done,) = engine.generate([request()])
        assert (done.key, done.token_ids.tolist(), done.finish) == (request().key, given, finish)
        assert done.logprobs.tolist() == [-0.25] * len(given)
        assert [one.key for one in engine.seen] == [request().key]


@dataclass
class Opened:
    """Opens scripted engines and remembers them. `fails_after`: completions before the engine breaks down."""

    fails_after: int | None = None
    engines: list[ScriptedEngine] = field(default_factory=list)

    def __call__(self) -> "Opened":
        self.engines.append(ScriptedEngine(lambda request: [request.sample, 9]))
        return self

    def generate(self, requests: list[Request]) -> Iterator[Completion]:
        for number, done in enumerate(self.engines[-1].generate(requests)):
            if number == self.fails_after:
                raise RuntimeError("the engine broke down")
            yield done

    @property
    def asked(self) -> list[list[int]]:
        return [[one.sample for one in engine.seen] for engine in self.engines]


class TestSampler:
    def test_asks_only_what_is_missing(self, ledger):
        opened = Opened()
        sampler = Sampler(ledger, "scripted", "p", opened)
        requests = [sampler.request(PROMPT, SAMPLING, sample=number) for number in range(4)]
        sampler.run(requests[:2])
        entries = sampler.run(requests)
        assert opened.asked == [[0, 1], [2, 3]]
        assert {key: entry.completion.token_ids.tolist() for key, entry in entries.items()} == {
            one.key: [one.sample, 9] for one in requests
        }
        assert replace(sampler.spent, seconds=0) == Spent(reused=2, paid=4, decoded=8, prompt=8)
        assert sampler.spent.seconds == ledger.seconds("") > 0

    def test_opens_no_engine_when_all_is_there(self, ledger):
        requests = [request(number) for number in range(3)]
        first = Sampler(ledger, "scripted", "p", Opened()).run(requests)
        opened = Opened()
        sampler = Sampler(ledger, "scripted", "p", opened)
        assert sampler.run(requests).keys() == first.keys()
        assert sampler.run([]) == {}
        assert opened.engines == []
        assert sampler.spent == Spent(reused=3)

    def test_asks_equal_requests_once(self, ledger):
        opened = Opened()
        entries = Sampler(ledger, "scripted", "p", opened).run([request(), request(), request(1)])
        assert opened.asked == [[0, 1]]
        assert len(entries) == 2

    def test_another_policy_is_asked_anew(self, ledger):
        opened = Opened()
        for fingerprint in ("p", "q"):
            sampler = Sampler(ledger, "scripted", fingerprint, opened)
            sampler.run([sampler.request(PROMPT, SAMPLING, sample=0)])
        assert opened.asked == [[0], [0]]

    def test_failures_are_tried_again(self, ledger):
        asked = request()
        ledger.put([(asked, answer(asked, error="lost"))], policy="p", engine="scripted", asked_by="")
        opened = Opened()
        entry = Sampler(ledger, "scripted", "p", opened).run([asked])[asked.key]
        assert opened.asked == [[0]]
        assert (entry.completion.error, entry.attempts) == (None, 2)

    def test_failures_are_entries(self, ledger):
        class Failing:
            def generate(self, requests: list[Request]) -> Iterator[Completion]:
                return (answer(one, error="lost") for one in requests)

        sampler = Sampler(ledger, "scripted", "p", Failing)
        entry = sampler.run([request()])[request().key]
        assert (entry.completion.error, entry.policy, entry.engine) == ("lost", "p", "scripted")
        assert replace(sampler.spent, seconds=0) == Spent(paid=1, failed=1, prompt=2, cached=1)

    def test_tells_of_every_answer(self, ledger):
        ledger.put([(request(), answer(request(), 1))], policy="p", engine="scripted", asked_by="")
        heard: list[tuple[int, int]] = []
        sampler = Sampler(
            ledger, "scripted", "p", Opened(), on_answer=lambda spent: heard.append((spent.reused, spent.paid))
        )
        sampler.run([request(number) for number in range(3)])
        assert heard == [(1, 0), (1, 1), (1, 2)]

    def test_what_came_survives_a_break_down(self, tmp_path):
        requests = [request(number) for number in range(20)]
        with (
            Ledger(tmp_path / "ledger.sqlite") as ledger,
            pytest.raises(RuntimeError, match="broke down"),
        ):
            Sampler(ledger, "scripted", "p", Opened(fails_after=13)).run(requests)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            kept = ledger.get([one.key for one in requests])
            assert {one.key for one in requests[:13]} == kept.keys()
            opened = Opened()
            entries = Sampler(ledger, "scripted", "p", opened).run(requests)
        assert opened.asked == [[one.sample for one in requests if one.key not in kept]]
        assert entries.keys() == {one.key for one in requests}

"""Engines and policies: what cannot be answered is an answer with an error, what cannot be loaded is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from safetensors import SafetensorError

from pipeline.errors import BadConfig, BadInput, BadModel
from pipeline.generation import engines
from pipeline.generation.batching import drive
from pipeline.generation.engine import Completion, Request, Sampling, make_request
from pipeline.generation.policies import EMBEDDED, Policy, find_policy
from pipeline.generation.sampler import Sampler
from pipeline.store.ledger import Ledger

LENGTH = 8
VLLM_ENGINE = Path(engines.__file__).with_name("vllm_engine.py")


def request(sample: int = 0, tokens: int = 2) -> Request:
    return make_request(np.arange(5, 5 + tokens), Sampling(), sample=sample, fingerprint="p")


def output(key: str, *, finished: bool = True, finish: str | None = "stop", ids: tuple[int, ...] = (3, 9)) -> object:
    """An output in the form of vLLM's."""
    logprobs = SimpleNamespace(logprobs=[-0.25 * token for token in ids])
    answer = SimpleNamespace(token_ids=list(ids), logprobs=logprobs, finish_reason=finish)
    return SimpleNamespace(request_id=key, finished=finished, outputs=[answer], num_cached_tokens=1)


@dataclass
class Stepping:
    """An engine that ends the oldest request at every step and half-tells of the next.

    refuses:      what is raised at a request, if anything.
    breaks_after: steps before it breaks down, once.
    """

    refuses: Callable[[str], Exception | None] = lambda key: None
    breaks_after: int | None = None
    finish: str = "stop"
    in_hand: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    params: list[object] = field(default_factory=list)
    fullest: int = 0
    steps: int = 0

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: object) -> str:
        if refused := self.refuses(request_id):
            raise refused
        assert len(prompt["prompt_token_ids"]) < LENGTH
        self.added.append(request_id)
        self.params.append(params)
        self.in_hand.append(request_id)
        self.fullest = max(self.fullest, len(self.in_hand))
        return f"{request_id}-inner"

    def step(self) -> list[object]:
        assert self.in_hand, "asked to step with nothing in hand"
        self.steps += 1
        if self.breaks_after is not None and self.steps > self.breaks_after:
            self.breaks_after = None
            raise RuntimeError("the engine broke down")
        first = self.in_hand.pop(0)
        unfinished = [output(key, finished=False, finish=None) for key in self.in_hand[:1]]
        return [*unfinished, output(first, finish=self.finish)]

    def abort_request(self, request_ids: list[str]) -> None:
        self.in_hand = [key for key in self.in_hand if key not in request_ids]

    def generate(self, requests: list[Request], *, most: int = 4):
        return drive(self, requests, length=LENGTH, params=lambda request: request.seed, most=most)


def errors(completions: list[Completion]) -> dict[str, str | None]:
    return {completion.key: completion.error for completion in completions}


class TestDrive:
    def test_every_request_is_answered_and_the_engine_kept_full(self):
        engine, requests = Stepping(), [request(number) for number in range(11)]
        done = list(engine.generate(requests))
        assert [one.key for one in done] == engine.added == [one.key for one in requests]
        assert engine.params == [one.seed for one in requests]
        assert engine.fullest == 4
        assert done[0].token_ids.tolist() == [3, 9]
        assert done[0].logprobs.tolist() == [-0.75, -2.25]
        assert (done[0].finish, done[0].cached, done[0].error) == ("stop", 1, None)
        assert all(one.seconds >= 0 for one in done)

    def test_a_prompt_that_does_not_fit_is_an_error_with_its_length(self):
        short, fits, full, over = (request(tokens=count) for count in (2, LENGTH - 1, LENGTH, LENGTH + 3))
        engine = Stepping()
        found = errors(list(engine.generate([short, full, fits, over])))
        assert found == {
            short.key: None,
            fits.key: None,
            full.key: "prompt has 8 tokens, the model takes at most 7",
            over.key: "prompt has 11 tokens, the model takes at most 7",
        }
        assert engine.added == [short.key, fits.key]

    def test_errors_hold_no_tokens(self):
        (done,) = Stepping().generate([request(tokens=LENGTH)])
        assert (done.token_ids.tolist(), done.logprobs.tolist(), done.finish) == ([], [], None)
        assert (done.token_ids.dtype, done.logprobs.dtype) == (np.int32, np.float32)
        assert (done.cached, done.seconds) == (None, None)

    def test_refusals_do_not_end_the_reading(self):
        """More refusals in a row than the engine has room for, then one that it takes."""
        requests = [*(request(number, tokens=LENGTH) for number in range(9)), request(9)]
        found = errors(list(Stepping().generate(requests, most=2)))
        assert [found[one.key] is None for one in requests] == [False] * 9 + [True]

    def test_what_the_engine_refuses_is_an_error_in_its_words(self):
        requests = [request(number) for number in range(3)]
        refused = ValueError("1 validation error for Params\n  Value error, no such token [type=value_error]")
        engine = Stepping(refuses=lambda key: refused if key == requests[1].key else None)
        done = list(engine.generate(requests))
        assert not any(one.may_pass for one in done)
        assert errors(done) == {
            requests[0].key: None,
            requests[1].key: "the engine refused it: no such token",
            requests[2].key: None,
        }

    def test_an_end_that_is_none_is_an_error(self):
        (done,) = Stepping(finish="abort").generate([request()])
        assert (done.error, done.finish, done.token_ids.tolist()) == ("the engine ended it with 'abort'", None, [])
        assert done.may_pass

    @pytest.mark.parametrize(
        "broken",
        [
            pytest.param({"breaks_after": 2}, id="at a step"),
            pytest.param({"refuses": lambda key: KeyError(key) if key == request(5).key else None}, id="at a request"),
        ],
    )
    def test_a_break_down_leaves_nothing_in_the_engine(self, broken):
        engine, requests = Stepping(**broken), [request(number) for number in range(8)]
        with pytest.raises((RuntimeError, KeyError)):
            list(engine.generate(requests))
        assert engine.in_hand == []
        engine.refuses = lambda key: None
        assert errors(list(engine.generate(requests))) == dict.fromkeys([one.key for one in requests])

    def test_an_output_nobody_waits_for_is_passed_over(self):
        engine = Stepping()
        engine.in_hand = ["left by another"]
        assert errors(list(engine.generate([request()]))) == {request().key: None}

    def test_closed_early_it_gives_up_the_rest(self):
        engine = Stepping()
        going = engine.generate([request(number) for number in range(8)])
        next(going)
        assert len(engine.in_hand) == 3
        going.close()
        assert engine.in_hand == []

    def test_a_sampler_that_fails_gives_up_the_rest(self, tmp_path):
        def interrupt(spent) -> None:
            if spent.paid == 2:
                raise InterruptedError

        engine, requests = Stepping(), [request(number) for number in range(8)]
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            sampler = Sampler(ledger, "stepping", "p", lambda: engine, on_answer=interrupt)
            with pytest.raises(InterruptedError) as kept:
                sampler.run(requests)
            assert engine.in_hand == []
            assert ledger.count() == 2
            assert len(Sampler(ledger, "stepping", "p", lambda: engine).run(requests)) == 8
        assert kept.value is not None


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the embedded policy."""
    return Path(shutil.copytree(EMBEDDED["tiny"], tmp_path / "model"))


def found(folder: Path) -> Policy:
    return find_policy(str(folder), policies=folder / "none")


def rewrite(folder: Path, name: str, **changes) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestVllmEngine:
    @pytest.fixture
    def module(self, monkeypatch) -> ModuleType:
        """The engine's module on a library that loads nothing."""
        fake, exceptions = ModuleType("vllm"), ModuleType("vllm.exceptions")
        sampling = ModuleType("vllm.sampling_params")
        sampling.StructuredOutputsParams = SimpleNamespace
        sampling.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)
        fake.SamplingParams = SimpleNamespace
        fake.LLM = lambda path, **options: SimpleNamespace(llm_engine=Stepping(), options=options)
        exceptions.VLLMError = type("VLLMError", (Exception,), {})
        exceptions.VLLMClientError = type("VLLMClientError", (exceptions.VLLMError,), {})
        monkeypatch.setitem(sys.modules, "vllm", fake)
        monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)
        monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
        spec = importlib.util.spec_from_file_location("vllm_engine_on_nothing", VLLM_ENGINE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @pytest.mark.parametrize(("positions", "length"), [(600, 600), (1024, 1024), (4096, 4096), (8192, 4096)])
    def test_has_the_positions_of_the_model_up_to_a_limit(self, module, folder, positions, length):
        rewrite(folder, "config.json", max_position_embeddings=positions)
        engine = module.VllmEngine(found(folder), dtype="float32", max_length=engines.MAX_LENGTH)
        assert engine._llm.options["max_model_len"] == length
        (done,) = engine.generate([request(tokens=length)])
        assert done.error == f"prompt has {length} tokens, the model takes at most {length - 1}"

    def test_asks_for_what_the_request_says(self, module, folder):
        engine, asked = module.VllmEngine(found(folder), dtype="float32", max_length=engines.MAX_LENGTH), request()
        (done,) = engine.generate([asked])
        (params,) = engine._llm.llm_engine.params
        assert (done.key, done.token_ids.tolist()) == (asked.key, [3, 9])
        assert (params.seed, params.stop_token_ids, params.logprobs) == (asked.seed, [1], 0)
        assert (params.temperature, params.top_p, params.max_tokens) == (1.0, 1.0, 128)
        assert (params.structured_outputs, params.output_kind) == (None, 2)

    def test_holds_an_answer_to_its_schema(self, module, folder):
        engine = module.VllmEngine(found(folder), dtype="float32", max_length=engines.MAX_LENGTH)
        schema = '{"type":"object"}'
        asked = make_request(np.array([5]), Sampling(schema=schema), sample=0, fingerprint="f")
        list(engine.generate([asked]))
        assert engine._llm.llm_engine.params[0].structured_outputs.json == schema
        assert asked.key != make_request(np.array([5]), Sampling(), sample=0, fingerprint="f").key

    def test_a_refusal_of_the_library_is_an_error(self, module, folder):
        engine = module.VllmEngine(found(folder), dtype="float32", max_length=engines.MAX_LENGTH)
        engine._llm.llm_engine.refuses = lambda key: module.VLLMClientError("the decoder prompt cannot be empty")
        (done,) = engine.generate([request()])
        assert done.error == "the engine refused it: the decoder prompt cannot be empty"

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            pytest.param(
                SafetensorError("incomplete metadata, file not fully covered"),
                r"the weights of .*model cannot be read: incomplete metadata, .*; save or download them again",
                id="weights cut short",
            ),
            pytest.param(
                ValueError("1 validation error for Config\nno such architecture"),
                r"vLLM cannot load .*model: no such architecture; choose a model vLLM serves",
                id="unknown architecture",
            ),
        ],
    )
    def test_a_model_that_does_not_load_is_named(self, module, folder, error, told):
        def fails(path, **options):
            raise error

        module.LLM = fails
        with pytest.raises(BadModel, match=told):
            module.VllmEngine(found(folder), dtype="float32", max_length=engines.MAX_LENGTH)


class TestPolicy:
    def test_the_fingerprint_reads_all_of_a_large_file(self, tmp_path):
        """Two models that differ in one byte amid weights of 80 MiB."""
        policies = []
        for name, byte in (("one", b"\0"), ("two", b"\1")):
            folder = Path(shutil.copytree(EMBEDDED["tiny"], tmp_path / name))
            with (folder / "model.safetensors").open("wb") as weights:
                weights.truncate(80 * 2**20)
                weights.seek(40 * 2**20)
                weights.write(byte)
            policies.append(found(folder))
        assert policies[0].fingerprint != policies[1].fingerprint

    @pytest.mark.parametrize(
        ("of_generation", "of_model", "ids"),
        [
            pytest.param(7, 1, (7,), id="one"),
            pytest.param([7, 8], 1, (7, 8), id="several"),
            pytest.param(None, 1, (1,), id="the model's own"),
            pytest.param(None, [1, 2], (1, 2), id="several of the model"),
        ],
    )
    def test_end_tokens(self, folder, of_generation, of_model, ids):
        rewrite(folder, "generation_config.json", eos_token_id=of_generation)
        rewrite(folder, "config.json", eos_token_id=of_model)
        assert found(folder).end_ids == ids

    def test_no_generation_config_is_needed(self, folder):
        (folder / "generation_config.json").unlink()
        assert found(folder).end_ids == (1,)

    @pytest.mark.parametrize("ids", ["<|end|>", "1", 1.5, True, -1, [], ["1"], [[1]], {"id": 1}])
    def test_end_tokens_in_no_known_form(self, folder, ids):
        rewrite(folder, "generation_config.json", eos_token_id=ids)
        with pytest.raises(BadModel, match=r"eos_token_id is .*; set it to a token id or a list of them"):
            found(folder)

    def test_no_end_token_at_all(self, folder):
        for name in ("generation_config.json", "config.json"):
            rewrite(folder, name, eos_token_id=None)
        with pytest.raises(BadModel, match="names no end token"):
            found(folder)

    @pytest.mark.parametrize("content", [b"", b'{"eos_token_id": 1', b"[1]", b"1", b"\xff\xfe"])
    def test_generation_config_that_is_none(self, folder, content):
        (folder / "generation_config.json").write_bytes(content)
        with pytest.raises(BadModel, match=r"generation_config\.json cannot be read as a JSON object"):
            found(folder)


class TestTokens:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            pytest.param("tokenizer.json", "", id="empty"),
            pytest.param("tokenizer.json", '{"version": ', id="cut short"),
            pytest.param("tokenizer.json", "{}", id="another object"),
            pytest.param("tokenizer.json", "[]", id="no object"),
            pytest.param("tokenizer.json", '{"added_tokens": [], "model": {"type": "X"}}', id="unknown model"),
            pytest.param("tokenizer_config.json", "[]", id="configuration no object"),
        ],
    )
    def test_a_broken_tokenizer_is_the_models_fault(self, folder, name, content):
        (folder / name).write_text(content)
        with pytest.raises(BadModel, match="model has no readable tokenizer: ") as refused:
            engines.open_tokens(found(folder))
        assert "\n" not in str(refused.value)

    def test_without_transformers_the_extra_is_named(self, folder, monkeypatch):
        monkeypatch.delitem(sys.modules, "pipeline.generation.tokens", raising=False)
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(BadConfig, match=r"transformers cannot be imported: .*; install the extra: .*\[cpu\]"):
            engines.open_tokens(found(folder))

    def test_a_control_token_in_a_text_is_told_with_the_text(self, folder):
        tokens = engines.open_tokens(found(folder))
        text = "What is\n 1 + 2? " + "It is not hard. " * 9 + "<|end|>"
        begins = r"'What is 1 \+ 2\? It is not hard\. It is not hard\. It is not har'"
        with pytest.raises(BadInput, match=rf"control token '<\|end\|>'; it begins {begins}; remove the token"):
            tokens.render([{"role": "user", "content": text}])

    def test_a_template_that_refuses_is_the_models_fault(self, folder):
        (folder / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
        tokens = engines.open_tokens(found(folder))
        with pytest.raises(BadModel, match=r"the chat template of .* refuses the messages: no system role; choose"):
            tokens.render([{"role": "user", "content": "1 + 1"}])

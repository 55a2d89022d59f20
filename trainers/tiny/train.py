"""Heavy: torch, transformers. Trains the embedded policy from nothing on the CPU.

Each batch holds about `batch_tokens` tokens of lessons of like length; only answers are trained.
From `first_sampling` on the policy's own attempts, and its own reports on the failed ones, are
sampled every `sample_every` steps and become the material of the lessons. Training goes on from
the last checkpoint after a kill.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.errors import BadModel
from pipeline.prompts import Messages, load_pack
from pipeline.tasks.arithmetic import first_error
from trainers.runs import quiet
from trainers.saving import weight_errors
from trainers.tiny.lessons import Attempt, Lesson, Syllabus, Teacher, question
from trainers.tiny.tokenizer import build_tokenizer

WARMUP = 150
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with a syllabus and a learning rate of its own.

    learning_rate: at its peak, after `WARMUP` steps; a cosine over `steps` takes it to a fiftieth.
    cut:           steps actually taken of the `steps` the cosine was laid out for.
    sampling:      steps of the phase at which the policy's own attempts are sampled.
    """

    syllabus: Syllabus
    steps: int
    learning_rate: float
    sampling: tuple[int, ...]
    cut: int | None = None

    @property
    def length(self) -> int:
        return self.steps if self.cut is None else self.cut


FIRST = Phase(
    Syllabus(
        shares={"solve": 0.38, "reflect": 0.20, "retry": 0.14, "intervene": 0.16, "judge": 0.12},
        one_digit=0.25,
        lengths=((2, 3, 3, 4, 4, 5, 5, 6, 6, 7), (2, 3, 3, 4, 4, 5, 5, 6, 6, 7)),
    ),
    steps=6000,
    cut=2200,
    learning_rate=2.5e-3,
    sampling=(2000,),
)
SECOND = Phase(
    Syllabus(
        shares={"solve": 0.46, "reflect": 0.17, "retry": 0.12, "intervene": 0.13, "judge": 0.12},
        one_digit=0.85,
        lengths=((3, 4, 5, 6, 6, 7, 8, 8, 9, 10), (2, 2, 3, 3, 4)),
    ),
    steps=3600,
    cut=1800,
    learning_rate=2.0e-3,
    sampling=(1200,),
)
THIRD = Phase(
    Syllabus(
        shares={"solve": 0.10, "reflect": 0.28, "retry": 0.16, "intervene": 0.28, "judge": 0.18},
        one_digit=1.0,
        lengths=((3, 4, 5, 6, 7, 8, 8, 9, 10, 10), ()),
    ),
    steps=1900,
    learning_rate=1.6e-3,
    sampling=(1100,),
)


FOURTH = Phase(
    Syllabus(
        shares={"solve": 0.34, "reflect": 0.20, "retry": 0.20, "intervene": 0.16, "judge": 0.10},
        one_digit=1.0,
        lengths=((3, 4, 5, 6, 7, 8, 8, 9, 10, 10), ()),
        slip=0.065,
    ),
    steps=400,
    learning_rate=5.0e-4,
    sampling=(220,),
)


FIFTH = Phase(
    Syllabus(
        shares={"solve": 0.16, "reflect": 0.14, "retry": 0.12, "intervene": 0.50, "judge": 0.08},
        one_digit=1.0,
        lengths=((3, 4, 5, 6, 7, 8, 8, 9, 10, 10), ()),
        slip=0.065,
    ),
    steps=800,
    learning_rate=1.0e-3,
    sampling=(),
)


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """The recipe. Sizes in tokens."""

    layers: int = 5
    width: int = 128
    feed_forward: int = 352
    head_size: int = 32
    phases: tuple[Phase, ...] = (FIRST, SECOND, THIRD, FOURTH, FIFTH)
    batch_tokens: int = 4096
    weight_decay: float = 0.02
    attempts: int = 3072
    seed: int = 20261124
    checkpoint_every: int = 200

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step and the step's number in it."""
        for phase in self.phases:
            if step < phase.length:
                return phase, step
            step -= phase.length
        raise IndexError(step)

    @property
    def steps(self) -> int:
        return sum(phase.length for phase in self.phases)


def new_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about a million parameters, embeddings tied, vocabulary rounded up to 32."""
    heads = config.width // config.head_size
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=math.ceil(len(tokenizer) / 32) * 32,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, lesson: Lesson) -> tuple[list[int], int]:
    """Token ids of prompt and answer with its end token, and the length of the prompt."""
    prompt = tokenizer.apply_chat_template(lesson.messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer.encode(lesson.answer, add_special_tokens=False)
    return [*prompt, *answer, tokenizer.eos_token_id], len(prompt)


def batches(
    teacher: Teacher, tokenizer: PreTrainedTokenizerFast, *, batch_tokens: int, pool: int = 2048
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(input_ids, labels)`, each `[B, T]` int64, padded on the right, -100 where not trained."""
    while True:
        rows = sorted((encode(tokenizer, lesson) for lesson in teacher.lessons(pool)), key=lambda row: len(row[0]))
        packs: list[list[tuple[list[int], int]]] = [[]]
        for row in rows:
            if (len(packs[-1]) + 1) * len(row[0]) > batch_tokens:
                packs.append([])
            packs[-1].append(row)
        teacher.rng.shuffle(packs)
        for pack in packs:
            longest = max(len(ids) for ids, _ in pack)
            input_ids = torch.full((len(pack), longest), tokenizer.pad_token_id)
            labels = torch.full((len(pack), longest), -100)
            for row, (ids, prompt) in enumerate(pack):
                input_ids[row, : len(ids)] = torch.tensor(ids)
                labels[row, prompt : len(ids)] = torch.tensor(ids[prompt:])
            yield input_ids, labels


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[Messages], *, batch: int = 512
) -> list[str]:
    """One answer a prompt at temperature 1, in the order of the prompts."""
    model.eval()
    ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    answers = [""] * len(ids)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
        out = model.generate(**padded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=200)
        texts = tokenizer.batch_decode(out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    model.train()
    return answers


def sample_attempts(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, teacher: Teacher, *, count: int
) -> tuple[list[Attempt], float]:
    """Failed attempts of the policy with its own reports on them, and the share that succeeded."""
    problems = [teacher.problem() for _ in range(count)]
    solved = sample(model, tokenizer, [teacher.pack.messages("solve", question=question(p)) for p in problems])
    failed = [
        (problem, text.split("\n"))
        for problem, text in zip(problems, solved, strict=True)
        if first_error(problem, text.split("\n")) is not None
    ]
    reports = sample(
        model,
        tokenizer,
        [
            teacher.pack.messages(
                "reflect", question=question(p), steps=teacher.pack.transcript(steps), outcome="failure"
            )
            for p, steps in failed
        ],
    )
    attempts = [Attempt(p, steps, report) for (p, steps), report in zip(failed, reports, strict=True)]
    return attempts, 1 - len(failed) / count


def learning_rate(phase: Phase, step: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < WARMUP:
        return phase.learning_rate * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, phase.steps - WARMUP)
    return phase.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(config: TinyConfig, *, out: Path, say: Callable[[str], None] = print) -> None:
    """Train and save policy, tokenizer, recipe and checkpoint under `out`; where all steps are taken, do nothing.

    Raises:
        BadModel: the checkpoint under `out` is damaged or of another model.
        StoreFull: the disk refused; the last checkpoint stays.
    """
    torch.manual_seed(config.seed)
    pack = load_pack("tiny")
    tokenizer = build_tokenizer(pack)
    model = new_model(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    with weight_errors(out, setting="--out"):
        out.mkdir(parents=True, exist_ok=True)
    first, attempts = read_checkpoint(out / CHECKPOINT, model, optimizer)
    if first >= config.steps:
        say(f"{out} is trained: all {config.steps} steps are taken; to train anew, remove {out / CHECKPOINT}")
        return
    if first:
        say(f"going on from step {first}")
    teacher = Teacher(pack, config.at(first)[0].syllabus, seed=config.seed + first)
    teacher.attempts = attempts
    stream = batches(teacher, tokenizer, batch_tokens=config.batch_tokens)
    started, tokens, losses = time.monotonic(), 0, []
    model.train()
    for step in range(first, config.steps):
        phase, within = config.at(step)
        teacher.syllabus = phase.syllabus
        if within in phase.sampling:
            fresh, solved = sample_attempts(model, tokenizer, teacher, count=config.attempts)
            teacher.attempts = (teacher.attempts + fresh)[-4000:]
            say(f"step {step}: sampled {config.attempts} attempts, {solved:.3f} right")
        input_ids, labels = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase, within)
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += input_ids.numel()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            left = seconds / (step + 1 - first) * (config.steps - step - 1)
            say(
                f"step {step + 1}/{config.steps} loss {sum(losses[-50:]) / len(losses[-50:]):.4f} "
                f"{tokens / seconds:.0f} tokens/s, {left / 60:.0f} min left"
            )
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            with quiet(), weight_errors(out, setting="--out"):
                model.save_pretrained(out)
                tokenizer.save_pretrained(out)
                (out / "recipe.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
                write_checkpoint(out / CHECKPOINT, model, optimizer, step=step + 1, attempts=teacher.attempts)


def write_checkpoint(
    path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, *, step: int, attempts: list[Attempt]
) -> None:
    """Replace the checkpoint in one rename. Comes after the policy: at the last step nothing is left to save.

    Raises:
        OSError: the disk refused; the checkpoint before stays.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "attempts": [(a.problem.expression, a.steps, a.report) for a in attempts],
    }
    memory = io.BytesIO()  # torch, writing to a full disk, does not say that it is full
    torch.save(state, memory)
    part = path.with_suffix(".part")
    try:
        part.write_bytes(memory.getbuffer())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_checkpoint(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> tuple[int, list[Attempt]]:
    """Fill model and optimizer from a checkpoint; steps taken and the attempts sampled so far, none without one.

    Raises:
        BadModel: the checkpoint is damaged or of another model.
    """
    if not path.exists():
        return 0, []
    try:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["step"], [Attempt(_sum(p), s, r) for p, s, r in state["attempts"]]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModel(
            f"{path} is no checkpoint of this model: {reason}", remedy="remove it to train from the first step"
        ) from error


def _sum(expression: str):
    from pipeline.tasks.arithmetic import read_sum

    return read_sum(f"{expression} =")

"""Bench `import`: steps a second from foreign files to the store, on one process. Every time is of files read once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import msgspec

from pipeline.bench.forest import StoredForest
from pipeline.bench.metric import Metric, ratio
from pipeline.exchange.math_shepherd import FIRST, MARKER
from pipeline.exchange.suite_file import ensure_suite
from pipeline.settings import Settings
from pipeline.stages.imports import ImportConfig, write_imports
from pipeline.stages.work import make_work

STEPS = 100_000
"""About how many a file has."""
LINES_A_TASK = 8
"""That ask the same."""
_WORDS = tuple(f"{first}{rest}" for first in "bdgklmnprst" for rest in ("a", "en", "or", "ist"))
Draw = random.Random
Row = dict[str, Any]


def measure(forest: StoredForest) -> Iterator[Metric]:
    """Steps a second by format."""
    for name, line in FORMATS.items():
        folder = forest.root / "import" / name
        path, steps, lines = folder / "lines.jsonl", 0, 0
        folder.mkdir(parents=True)
        with path.open("wb") as file:
            for row, count in _lines(line):
                file.write(msgspec.json.encode(row) + b"\n")
                steps, lines = steps + count, lines + 1
        settings = replace(Settings(), store=folder / "store", suites=folder / "suites")
        ensure_suite("foreign", folder=settings.suites)
        work = make_work(settings, suite="foreign", round="r0")
        start = perf_counter()
        report = write_imports(work, ImportConfig(name, str(path)))
        params = {"format": name, "lines": lines, "MiB": round(path.stat().st_size / 2**20, 1)}
        yield ratio("import.steps_per_s", steps, perf_counter() - start, unit="steps/s", params=params)
        assert report.numbers["steps"] == steps, "not all of the file came in"


def _lines(line: Callable[[Draw, str], tuple[Row, int]]) -> Iterator[tuple[Row, int]]:
    """Lines of a file and how many steps each has; some follow the same question."""
    draw, steps, number, question = random.Random(0), 0, 0, ""
    while steps < STEPS:
        if number % LINES_A_TASK == 0:
            question = f"Question {number // LINES_A_TASK}: {_text(draw, 30)}?"
        row, count = line(draw, question)
        yield row, count
        steps, number = steps + count, number + 1


def _text(draw: Draw, words: int) -> str:
    return " ".join(draw.choices(_WORDS, k=words)) + f" {draw.randrange(100)}"


def _shepherd(draw: Draw, question: str) -> tuple[Row, int]:
    count = draw.randint(3, 9)
    texts = [f"{FIRST if step == 1 else f'Step {step}:'} {_text(draw, 18)}." for step in range(1, count + 1)]
    marks = draw.choices("+-", k=count)
    plain, labelled = (
        f"{question} " + "\n".join(f"{text} {mark}" for text, mark in zip(texts, end, strict=True))
        for end in ([MARKER] * count, marks)
    )
    return {"input": plain, "label": labelled, "task": "GSM8K"}, count


def _prm800k(draw: Draw, question: str) -> tuple[Row, int]:
    count, steps = 0, []
    for _ in range(draw.randint(4, 12)):
        texts = [_text(draw, 18) for _ in range(draw.choice((1, 1, 1, 2, 5)))]
        completions = [{"text": text, "rating": draw.choice((-1, 0, 1)), "flagged": None} for text in texts]
        steps.append({"completions": completions, "human_completion": None, "chosen_completion": 0})
        count += len(texts)
    row = {
        "labeler": f"labeler-{draw.randrange(30)}",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": 9,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": question, "ground_truth_solution": _text(draw, 40), "ground_truth_answer": "7"},
        "label": {"steps": steps, "total_time": 278270, "finish_reason": "solution"},
    }
    return row, count


def _trace(draw: Draw, question: str) -> tuple[Row, int]:
    """An agent's run; as many messages of tools as answers, with ids and log-probabilities."""
    nodes = [_node("user", question, None, _ids(draw, 40))]
    for _ in range(draw.randint(2, 6)):
        nodes.append(_node("assistant", _text(draw, 40), len(nodes) - 1, _ids(draw, 60), sampled=True))
        nodes.append(_node("tool", _text(draw, 20), len(nodes) - 1, _ids(draw, 30)))
    trace = {"version": 1, "nodes": nodes, "rewards": {"solved": {"score": draw.randint(0, 1), "weight": 1.0}}}
    return {"id": "e", "task": {"type": "t", "data": {"answer": "7"}}, "traces": [trace]}, len(nodes) - 1


def _node(role: str, text: str, parent: int | None, ids: list[int], *, sampled: bool = False) -> Row:
    logprobs = [-(token % 97) / 31 for token in ids] if sampled else []
    message = {"role": role, "content": text}
    node = {"parent": parent, "message": message, "sampled": sampled, "token_ids": ids, "timestamp": 0.0}
    return {**node, "mask": [sampled] * len(ids), "is_content": [True] * len(ids), "logprobs": logprobs}


def _ids(draw: Draw, count: int) -> list[int]:
    return draw.choices(range(50_000), k=count)


FORMATS: dict[str, Callable[[Draw, str], tuple[Row, int]]] = {
    "math_shepherd": _shepherd,
    "prm800k": _prm800k,
    "traces": _trace,
}
"""What draws a line of a format and counts its steps."""

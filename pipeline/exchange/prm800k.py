"""PRM800K: a solution a line, each step with completions rated by a person, of which one was taken."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

from pipeline.exchange.document import REFERENCE, Document, Label, Refused, Step, escape, licence_of, record_of
from pipeline.exchange.paths import Exporter, Line, Path
from pipeline.exchange.reading import Importer, lines

LABELLER = "human"
_HARD = {1: True, -1: False, 0: None}
"""A neutral rating is an undecided label; without a rating there is no label."""


class Completion(msgspec.Struct, gc=False):
    """A step that a model or a person wrote."""

    text: str
    rating: Literal[-1, 0, 1] | None = None


class Choice(msgspec.Struct, gc=False):
    """The completions of one place, and which was taken; the person's own where none was."""

    completions: list[Completion] | None = None
    human_completion: Completion | str | None = None
    chosen_completion: int | None = None


class Labelled(msgspec.Struct, gc=False):
    """What the person did."""

    steps: list[Choice]
    finish_reason: str | None = None


class Question(msgspec.Struct, gc=False):
    """The task."""

    problem: str
    ground_truth_solution: str | None = None
    ground_truth_answer: str | None = None


class Row(msgspec.Struct, gc=False):
    """A line of the file."""

    question: Question
    label: Labelled
    labeler: str | None = None
    timestamp: str | None = None


def parse(data: bytes) -> Iterator[Document]:
    """The taken path with what was left aside hanging from it; a label for every rating.

    Raises:
        Refused: a choice is none of the completions.
    """
    raw = msgspec.json.decode(data)
    row = msgspec.convert(raw, Row)
    escape(raw)
    steps: list[Step] = []
    labels: list[Label] = []
    version, created, above = row.labeler or "unknown", _microseconds(row.timestamp), -1
    for number, (choice, said) in enumerate(zip(row.label.steps, raw["label"]["steps"], strict=True)):
        taken = None
        for place, completion in enumerate(choice.completions or ()):
            said["completions"][place]["text"] = {REFERENCE: len(steps)}
            if completion.rating is not None:
                labels.append(Label(len(steps), LABELLER, version, _HARD[completion.rating], created=created))
            taken = len(steps) if place == choice.chosen_completion else taken
            steps.append(Step(above, completion.text))
        if choice.chosen_completion is not None and taken is None:
            raise Refused(f"step {number} has no completion {choice.chosen_completion}")
        written = choice.human_completion
        if written is not None:
            if isinstance(written, str):
                written, said["human_completion"] = Completion(written), {REFERENCE: len(steps)}
            else:
                said["human_completion"]["text"] = {REFERENCE: len(steps)}
            if written.rating is not None:
                labels.append(Label(len(steps), LABELLER, version, _HARD[written.rating], created=created))
            taken = len(steps) if taken is None else taken
            steps.append(Step(above, written.text, origin="intervention"))
        if taken is None:
            break
        above = taken
    if above >= 0 and row.label.finish_reason == "solution":
        steps[above].finish = "stop"
    question = raw["question"]
    del question["problem"]
    solution, answer = (question.pop(f"ground_truth_{name}", None) for name in ("solution", "answer"))
    yield Document(
        row.question.problem,
        steps,
        answer=answer,
        solution=solution,
        labels=labels,
        leaf=above,
        record=record_of(raw),
        licence=licence_of(raw, question),
    )


def _microseconds(timestamp: str | None) -> int | None:
    """Of a time as the files have it, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(timestamp or "")
    except ValueError:
        return None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6)


def written(path: Path) -> Iterator[Line]:
    """The lines that were imported to this end, as they were; of a path that none of them tells a line of its own,
    siblings its alternatives."""
    records = path.records("prm800k")
    for record in records:
        yield {**record, "question": _question(path) | record["question"]}
    if path.steps and path.end not in path.tree.told_by("prm800k"):
        yield {
            "labeler": None,
            "timestamp": None,
            "generation": None,
            "is_quality_control_question": False,
            "is_initial_screening_question": False,
            "question": _question(path),
            "label": {
                "steps": [_choice(path, step) for step in path.steps],
                "total_time": None,
                "finish_reason": "solution" if path.steps[-1]["finish"] == "stop" else None,
            },
        }


def _question(path: Path) -> Line:
    task = path.tree.task
    told = {"ground_truth_solution": task["reference_solution"], "ground_truth_answer": task["answer"] or None}
    return {"problem": path.question} | {name: value for name, value in told.items() if value is not None}


def _choice(path: Path, step: Line) -> Line:
    """A step among those that follow the same one."""
    nodes = path.tree.nodes.values()
    beside = [node for node in nodes if node["parent"] == step["parent"] and node["kind"] == step["kind"]]
    return {
        "completions": [
            {"text": node["text"], "rating": _rating(path, node["node"]), "flagged": None} for node in beside
        ],
        "human_completion": None,
        "chosen_completion": next(place for place, node in enumerate(beside) if node is step),
    }


def _rating(path: Path, node: int) -> int | None:
    """1 right, -1 wrong, 0 undecided; None where no one has labelled the step."""
    if not path.tree.said.get(node, {}).get("step_labels"):
        return None
    hard = path.hard_label(node, LABELLER)
    return 0 if hard is None else 1 if hard else -1


IMPORTER = Importer(parse, lines, (".jsonl",))
EXPORTER = Exporter(written)

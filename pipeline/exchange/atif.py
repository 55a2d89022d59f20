"""ATIF (Harbor RFC 0001), a trajectory a file: read with its tool calls, observations and token ids, and written with
what restores the tree in `extra`, under one reserved key."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, dropwhile
from typing import Any, Literal

import msgspec

from pipeline.exchange import units
from pipeline.exchange.conversation import Call, Function, Message, Turn, conversation
from pipeline.exchange.document import TEMPLATE, Document, Fault, Number, Refused, Restored, TokenId, escape, licence_of
from pipeline.exchange.paths import Exporter, Line, Path, Said
from pipeline.exchange.reading import Importer, objects
from pipeline.exchange.references import KEY, restored

VERSION = "ATIF-v1.6"
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_SOURCES = {"system": "system", "developer": "system", "assistant": "agent"}
_OBSERVED = "observed"
"""In a step's reference, those of the nodes up to the next step: results of its observation, and, with their text, such
as are no message. The root's has those before the first step."""


class ToolCall(msgspec.Struct):
    """arguments: an object."""

    function_name: str
    arguments: dict[str, Any] | None = None
    tool_call_id: str | None = None


class Result(msgspec.Struct):
    """What a tool said."""

    source_call_id: str | None = None
    content: str | list[dict[str, Any]] | None = None


class Observation(msgspec.Struct):
    """What the environment said."""

    results: list[Result] = []


class Metrics(msgspec.Struct):
    """Token ids and log-probabilities, where the source has them."""

    prompt_token_ids: list[TokenId] | None = None
    completion_token_ids: list[TokenId] | None = None
    logprobs: list[Number] | None = None


class Step(msgspec.Struct):
    """A message, or an answer with what its tools said."""

    source: Literal["system", "user", "agent"]
    message: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    extra: dict[str, Any] | None = None


class Agent(msgspec.Struct):
    """Who acted."""

    model_name: str | None = None
    tool_definitions: list[dict[str, Any]] | None = None


class Trajectory(msgspec.Struct):
    """A file."""

    schema_version: str
    agent: Agent
    steps: list[Step]
    continued_trajectory_ref: str | dict[str, Any] | None = None
    subagent_trajectories: list[Any] | None = None
    extra: dict[str, Any] | None = None


def parse(data: bytes) -> Iterator[Document | Restored | Fault]:
    """The trajectory as a chat, or the path of a tree that it was exported from; then those embedded in it.

    Raises:
        Refused: a step refers to a tool call that it does not make.
    """
    yield from _trajectory(msgspec.json.decode(data))


def _trajectory(raw: Any) -> Iterator[Document | Restored | Fault]:
    found = msgspec.convert(raw, Trajectory)
    if not found.schema_version.startswith("ATIF-v1."):
        raise Refused(f"schema_version is {found.schema_version!r}")
    if found.extra and KEY in found.extra:
        root = found.extra[KEY]
        nodes = root.get("nodes") if isinstance(root, dict) else None
        whole = msgspec.convert(nodes, list[dict[str, Any]] | None)
        steps = dropwhile(lambda step: KEY not in (step.extra or {}), found.steps)
        first = _observed(root) if isinstance(root, dict) else []
        apart = chain(first, *(_references(step) for step in steps))
        yield restored(root, apart if whole is None else whole)
        return
    raw.pop("subagent_trajectories", None)
    escape(raw)
    turns: list[Turn] = []
    for number, (step, said) in enumerate(zip(found.steps, raw["steps"], strict=True), start=1):
        turns += _turns(step, said, number)
    answer = next((turn for turn in turns if turn.message.role == "assistant"), None)
    if found.continued_trajectory_ref is not None and answer is not None:
        answer.before = "the trajectory is continued in, or goes on from, another one"
    yield conversation(
        turns,
        record=raw,
        tools=found.agent.tool_definitions,
        model=found.agent.model_name,
        licence=licence_of(found.extra),
    )
    for number, part in enumerate(found.subagent_trajectories or (), start=1):
        try:
            yield from _trajectory(part)
        except units.RECORD_FAULTS as error:
            yield Fault(0, f"subagent_trajectories, entry {number}: {units.said(error)}")


def _turns(step: Step, said: dict[str, Any], number: int) -> Iterator[Turn]:
    """A step and what its tools said."""
    calls, metrics = step.tool_calls or [], step.metrics or Metrics()
    asked = [Call(Function(call.function_name, call.arguments), call.tool_call_id) for call in calls]
    ids = metrics.completion_token_ids if step.source == "agent" else None
    fits = ids is not None and metrics.logprobs is not None and len(ids) == len(metrics.logprobs)
    yield Turn(
        message=Message(role=_ROLES[step.source], content=step.message, tool_calls=asked or None),
        said=said,
        text_at="message",
        token_ids=ids,
        logprobs=metrics.logprobs if fits else None,
    )
    known = {call.tool_call_id for call in calls} | {None}
    for result, of in zip(
        (step.observation or Observation()).results, (said.get("observation") or {}).get("results", ())
    ):
        if result.source_call_id not in known:
            raise Refused(f"step {number} has a result of {result.source_call_id!r}, which it does not call")
        yield Turn(message=Message(role="tool", content=result.content, tool_call_id=result.source_call_id), said=of)


def _references(step: Step) -> Iterator[dict[str, Any]]:
    """The references of a step's node and of those observed, with what stands elsewhere in the step put back."""
    reference = (step.extra or {}).get(KEY)
    if not isinstance(reference, dict):
        raise Refused(f"a step has no {KEY}")
    metrics = step.metrics or Metrics()
    put = {"text": step.message, "token_ids": metrics.completion_token_ids, "logprobs": metrics.logprobs}
    yield {name: value for name, value in put.items() if value is not None} | reference
    observed, results = _observed(reference), (step.observation or Observation()).results
    told = sum("text" not in of for of in observed)
    if told and told != len(results):
        raise Refused(f"a step has {len(results)} results, and {told} of them in its {KEY}")
    left = iter(results)
    for of in observed:
        yield of if "text" in of else {"text": next(left).content} | of


def _observed(reference: dict[str, Any]) -> list[dict[str, Any]]:
    return msgspec.convert(reference.get(_OBSERVED) or [], list[dict[str, Any]])


def written(path: Path) -> Iterator[Line]:
    """The trajectory that was imported to this end, as it was; of another path a step a node. References in `extra`."""
    root, references = path.references()
    for record in path.records("atif")[:1]:
        yield {**record, "extra": {**(record.get("extra") or {}), KEY: {**root, "nodes": references}}}
        return
    task, model = path.tree.task, next((node["policy"] for node in path.steps if node["policy"]), None)
    agent = {"name": KEY, "version": "1", "model_name": model, "tool_definitions": path.tools}
    yield {
        "schema_version": VERSION,
        "session_id": f"{path.tree.tree}#{path.end}",
        "agent": {name: value for name, value in agent.items() if value},
        "steps": _steps(path, root, references),
        "extra": {KEY: root, "task": task["task"]},
    }


def _steps(path: Path, root: Line, references: list[Line]) -> list[Line]:
    """A step a message, but what tools said, which is the observation of the step before. References of nodes that are
    no step are put in that of the step before, or of the root."""
    steps: list[Line] = []
    left, last = iter(references), root
    for said in path.messages():
        reference = None if said.node is None else next(left)
        if said.role == TEMPLATE:
            last.setdefault(_OBSERVED, []).append(reference)
        elif said.role == "tool" and steps and steps[-1]["source"] == "agent" and _fits(steps[-1], reference):
            known = {call["tool_call_id"] for call in steps[-1].get("tool_calls", ())}
            result = {"source_call_id": said.call if said.call in known else None, "content": said.text}
            steps[-1].setdefault("observation", {"results": []})["results"].append(result)
            if reference is not None:
                del reference["text"]
                last.setdefault(_OBSERVED, []).append(reference)
        else:
            steps.append(_step(said, reference, len(steps) + 1))
            last = last if reference is None else reference
    return steps


def _fits(step: Line, reference: Line | None) -> bool:
    """Whether what a tool said can stand in a step: both are nodes, or both stand before the question."""
    return ("extra" in step) == (reference is not None)


def _step(said: Said, reference: Line | None, number: int) -> Line:
    """A step of a message; of a node, its reference less what stands elsewhere in the step."""
    step = {"step_id": number, "source": _SOURCES.get(said.role, "user"), "message": said.text}
    if said.calls:
        step["tool_calls"] = [_call(call) for call in said.calls]
    if reference is None:
        return step
    del reference["text"]
    if said.node["kind"] != "prompt":
        ids = {"completion_token_ids": reference.pop("token_ids", None), "logprobs": reference.pop("logprobs", None)}
        if metrics := {name: value for name, value in ids.items() if value is not None}:
            step["metrics"] = metrics
    return step | {"extra": {KEY: reference}}


def _call(call: Line) -> Line:
    """A tool call with its arguments as an object; text that is none stands under one name."""
    function = call["function"]
    try:
        arguments = msgspec.json.decode(function["arguments"], type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        arguments = {"arguments": function["arguments"]}
    return {"tool_call_id": call["id"], "function_name": function["name"], "arguments": arguments}


IMPORTER = Importer(parse, objects, (".json", ".jsonl"))
EXPORTER = Exporter(written, ".json")

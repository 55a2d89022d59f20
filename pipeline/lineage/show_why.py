"""Prints why a training row is as it is. Whatever a model wrote is made plain first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, TextIO

from pipeline.lineage.why import Made, Said, Step, Traced, Trained, Varied, Why
from pipeline.show import json_value, plain

_IDS = 12
"""Token ids on a line."""
_KEY = 8
"""Digits of a request beside a node."""


def print_why(found: Sequence[Why], *, as_json: bool, to: TextIO) -> None:
    """The rows of a name: one JSON object with all of them, or text for people."""
    if as_json:
        print(_as_json(found), file=to)
        return
    for why in found:
        for line in why_lines(why):
            print(line, file=to)


def _as_json(found: Sequence[Why]) -> str:
    rows = [{**asdict(one), "agrees": one.agrees} for one in found]
    return json.dumps(json_value({"rows": _as_objects(rows)}), ensure_ascii=False)


def _as_objects(value: Any) -> Any:
    """Named tuples as objects."""
    if isinstance(value, Made):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _as_objects(inner) for key, inner in value.items()}
    return [_as_objects(inner) for inner in value] if isinstance(value, list) else value


def why_lines(why: Why) -> Iterator[str]:
    """Everything that was found, for people."""
    yield plain(f"{why.row['row']}, a row of {why.dataset}")
    yield plain(f"  made by      {_maker(why.made)}")
    if why.task is None:
        yield plain(f"  task         {why.row['task']}, no longer in the store")
    else:
        yield plain(f"  task         {why.task['task']}: {why.task['question']}")
        yield plain(f"  answer       {why.task['answer']}, compared by {why.task['verifier']}")
    for name, value in why.row.items():
        if name not in ("row", "task", "suite", "tree"):
            yield plain(f"  {name:<12} {_value(value)}")
    yield f"  tokens       {'those of the nodes' if why.agrees else 'NOT those of the nodes'}"
    for answer in why.answers:
        yield from _answer(answer, why)
    yield from _section("variants", [line for varied in why.variants for line in _variant(varied)])
    yield from _section("requests", [_request(request) for request in why.requests])
    yield from _section("scored by", _methods(why))
    yield from _section("policies", [f"{name or 'not at hand'}: {policy}" for policy, name in why.policies.items()])
    yield from _section("prompts", [f"{name or 'changed since'}: {digest}" for digest, name in why.prompts.items()])
    yield from _section("nodes made by", [_maker(made) for made in why.grown])


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
    for line in lines:
        yield plain(f"  {line}")


def _answer(answer: Traced, why: Why) -> Iterator[str]:
    yield ""
    yield f"{answer.name}, node {answer.node}"
    if answer.difference is not None:
        yield plain(f"  DIFFERS: {answer.difference}")
    for step in answer.path:
        yield from (plain(line) for line in _step(step))
    trained = sum(weight != 0 for weight in answer.tokens.weights)
    yield f"  {trained} of {len(answer.tokens.ids)} tokens are trained; weight: {why.meaning}"
    yield from (plain(line) for line in _tokens(answer.tokens))


def _step(step: Step) -> Iterator[str]:
    node = step.node
    origin = node["origin"] if node["origin"] == node["kind"] else f"{node['kind']}, {node['origin']}"
    copied = "" if node["copied_from"] is None else f", copied from {node['copied_from']}"
    asked = "" if node["request"] is None else f", request {node['request'][:_KEY]}"
    finish = "" if node["finish"] is None else f", {node['finish']}"
    yield f"  {node['node']} {origin} by {node['agent']}{copied}{asked}{finish}: {node['text']}"
    for said in step.verdicts:
        row = said.row
        reward = f"failed: {row['error']}" if row["reward"] is None else f"reward {row['reward']:g}"
        yield f"      verdict {row['verifier']} {row['version']}: {reward}, answer {_value(row['parsed_answer'])}"
    for said in step.labels:
        yield f"      label {said.row['labeller']} {said.row['version']}: {_label(said)}"
    if step.credit:
        yield f"      credit {'; '.join(map(_credit, step.credit))}"


def _label(said: Said) -> str:
    row = said.row
    drawn = "" if row["k"] is None else f", {row['successes']} of {row['k']}"
    between = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"hard {_value(row['hard'])}, soft {_value(row['soft'])}{drawn}{between}"


def _credit(said: Said) -> str:
    row = said.row
    named = ("value", "weight", "mask")
    rest = "".join(f", {name} {_value(row[name])}" for name in named if row[name] is not None)
    return f"{row['method']} {_value(row['advantage'])}{rest}"


def _methods(why: Why) -> list[str]:
    """What credit and labels on the paths were computed by, each once."""
    steps = [step for answer in why.answers for step in answer.path]
    said = [f"credit {_maker(one.made)}" for step in steps for one in step.credit]
    return list(dict.fromkeys([*said, *(f"labels {_maker(one.made)}" for step in steps for one in step.labels)]))


def _tokens(tokens: Trained) -> Iterator[str]:
    """A line for each stretch of one node and one weight."""
    places = range(len(tokens.ids))
    for (node, weight), run in groupby(places, key=lambda at: (tokens.nodes[at], tokens.weights[at])):
        stretch = list(run)
        for start in range(0, len(stretch), _IDS):
            some = stretch[start : start + _IDS]
            ids = " ".join(str(tokens.ids[at]) for at in some)
            text = "" if tokens.pieces is None else f"  {'|'.join(tokens.pieces[at] for at in some)}"
            owner = "-" if node is None else str(node)
            by = "null" if weight is None else f"{weight:+g}"
            yield f"  {some[0]:>6}  node {owner:<5} weight {by:<6} {ids}{text}"


def _variant(varied: Varied) -> Iterator[str]:
    row = varied.row
    yield f"{row['variant']}: {row['kind']} of leaf {row['source_leaf']} by {row['author']}, {_maker(varied.made)}"
    yield f"  pivot {_value(row['pivot'])}, first node {row['first_node']}, blamed step {_value(row['blamed_step'])}"
    for arm in ("with", "without"):
        if row[f"{arm}_count"] is not None:
            yield f"  {arm}: {row[f'{arm}_successes']} of {row[f'{arm}_count']} right"
    if row["effect"] is not None:
        yield f"  effect {row['effect']:+g}"
    if row["dropped"] is not None:
        yield f"  dropped: {row['dropped']}"
    if row["edit"] is not None:
        yield f"  edit: {row['edit']}"
    if varied.report is not None:
        yield f"  report, node {row['report_node']}: {varied.report}"


def _request(row: dict[str, Any]) -> str:
    said = [
        f"{row['request']}: {row['stage']} asked {row['engine']} for sample {row['sample_index']}, {row['sampling']}",
        f"{row['prompt_tokens']} tokens sent",
        f"{_value(row['cached_tokens'])} of them cached",
        f"{_value(row['decoded_tokens'])} decoded",
        f"{row['attempts']} {'attempt' if row['attempts'] == 1 else 'attempts'}",
        "seconds not told" if row["seconds"] is None else f"{row['seconds']:.3f} s",
        f"policy {row['policy']}",
    ]
    return ", ".join([*said, *([] if row["error"] is None else [f"error: {row['error']}"])])


def _maker(made: Made) -> str:
    return f"{made.stage} {made.version}, {json.dumps(made.config)}, of {made.suite} {made.round} {made.shard}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return (
        f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(json_value(value))
    )

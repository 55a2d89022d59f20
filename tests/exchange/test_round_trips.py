"""What leaves the store as a foreign file and comes back is what it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exchange.imported import as_lines, bring_in, faults_in, send_out, table, violations, work_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.environments.tool_calls import ToolCall, calls_json
from pipeline.errors import BadConfig
from pipeline.exchange import EXPORTERS
from pipeline.stages.work import inputs
from pipeline.store.layout import EVERY_ROUND, Place
from pipeline.trees.grow import Tree, nodes_frame
from schemas import TABLES
from schemas.base import column_types

PRM = {
    "labeler": "ab-12",
    "timestamp": "2022-07-17T16:56:51.323252",
    "generation": 9,
    "is_quality_control_question": False,
    "is_initial_screening_question": False,
    "question": {
        "problem": "How many?",
        "ground_truth_solution": "Two of them.",
        "ground_truth_answer": "2",
        "pre_generated_steps": ["I count.", "Two."],
        "pre_generated_verifier_score": 0.75,
    },
    "label": {
        "steps": [
            {
                "completions": [
                    {"text": "I guess.", "rating": -1, "flagged": False},
                    {"text": "I count.", "rating": 1, "flagged": None},
                ],
                "human_completion": None,
                "chosen_completion": 1,
            },
            {
                "completions": [{"text": "Hm.", "rating": 0, "flagged": None}, {"text": "Ah.", "rating": None}],
                "human_completion": {"text": "One, two.", "rating": None, "source": "human"},
                "chosen_completion": None,
            },
            {
                "completions": [{"text": "Two.", "rating": 1, "flagged": None}],
                "human_completion": None,
                "chosen_completion": 0,
            },
        ],
        "total_time": 1234,
        "finish_reason": "solution",
    },
}
GIVEN_UP = {
    **PRM,
    "labeler": "cd",
    "label": {
        "steps": [
            {"completions": [{"text": "I guess.", "rating": 1}], "human_completion": None, "chosen_completion": None}
        ],
        "total_time": 5,
        "finish_reason": "give_up",
    },
}
ATIF = {
    "schema_version": "ATIF-v1.6",
    "session_id": "s",
    "agent": {"name": "a", "version": "1", "model_name": "m", "tool_definitions": [{"name": "ls"}]},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Be short.", "timestamp": "2026-01-01T00:00:00Z"},
        {"step_id": 2, "source": "user", "message": "List."},
        {
            "step_id": 3,
            "source": "agent",
            "message": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"tool_call_id": "c", "function_name": "ls", "arguments": {"path": "."}}],
            "metrics": {"prompt_tokens": 7, "completion_token_ids": [5, 6], "logprobs": [-0.5, -0.25]},
            "observation": {"results": [{"source_call_id": "c", "content": "a.txt"}]},
            "extra": {"mine": 1},
        },
        {"step_id": 4, "source": "agent", "message": "a.txt"},
    ],
    "final_metrics": {"total_steps": 4},
    "extra": {"note": "kept"},
}
LOOK, UNREAD = ToolCall("ls", {"path": "."}), ToolCall(None, {}, "the call names no tool")


def test_prm800k_survives(tmp_path: Path):
    work = work_at(tmp_path)
    bring_in(work, "prm800k", as_lines(tmp_path / "a.jsonl", PRM, GIVEN_UP))
    assert not faults_in(work)
    labels = table(work, "step_labels").select("node", "version", "hard").sort("node", "version").rows()
    assert labels == [(1, "ab-12", False), (1, "cd", True), (2, "ab-12", True), (3, "ab-12", None), (6, "ab-12", True)]
    (file,) = send_out(work, "prm800k", tmp_path / "out")
    back = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(back, key=lambda row: row["labeler"]) == [PRM, GIVEN_UP]


def test_atif_survives(tmp_path: Path):
    work = work_at(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(ATIF))
    bring_in(work, "atif", tmp_path / "a.json")
    assert not violations(work)
    assert not faults_in(work)
    (file,) = send_out(work, "atif", tmp_path / "out")
    back = json.loads(file.read_text())
    assert back["extra"].pop("branchpoint")["version"] == 1
    assert back == ATIF


def test_an_imported_trajectory_that_was_exported_restores_its_tree(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(ATIF))
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    bring_in(here, "atif", tmp_path / "a.json")
    send_out(here, "atif", tmp_path / "out")
    bring_in(there, "atif", tmp_path / "out")
    for name in ("tasks", "nodes", "scores"):
        assert_frame_equal(table(here, name), table(there, name))


@st.composite
def forests(draw) -> tuple[list[Tree], list[dict]]:
    """Trees with retries in other contexts, copies, verdicts and labels."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    ids = st.lists(st.integers(0, 2**31 - 1), max_size=3)
    logprob = st.floats(-50, 0, width=32)
    trees, said = [], []
    for number in range(draw(st.integers(1, 2))):
        tree = Tree(f"foreign/made/train/{number:06d}", f"foreign/made/train/{number:06d}@r0")
        tree.add_prompt(None, np.asarray(draw(ids), np.int32), text=draw(text), agent="solver")
        for _ in range(draw(st.integers(0, 8))):
            parent = draw(st.integers(0, len(tree) - 1))
            written = {"text": draw(text), "token_ids": draw(ids), "agent": draw(st.sampled_from(["solver", "editor"]))}
            match draw(st.sampled_from(["prompt", "step", "copy", "sampled"])):
                case "prompt":
                    tree.add(parent, kind="prompt", origin="prompt", **written)
                case "step":
                    calls = draw(
                        st.none()
                        | st.just('[{"id":"c","function":{"name":"f","arguments":"{"}}]')
                        | st.just(calls_json([LOOK, UNREAD], [True, False]))
                    )
                    tree.add(
                        parent,
                        kind="step",
                        origin="branch",
                        step_reward=draw(st.none() | logprob),
                        tool_calls=calls,
                        **written,
                    )
                case "copy":
                    source = draw(st.integers(0, len(tree) - 1))
                    kept = {"token_ids": tree[source]["token_ids"], "logprobs": tree[source]["logprobs"]}
                    tree.add(parent, kind="step", origin="retry", copied_from=source, **written | kept)
                case "sampled":
                    logprobs = [draw(logprob) for _ in written["token_ids"]]
                    finish = draw(st.sampled_from(["stop", "length", None]))
                    of = {"request": f"q{number}-{len(tree)}", "policy": "p", "finish": finish}
                    tree.add(parent, kind="step", origin="sample", sampled=True, logprobs=logprobs, **of, **written)
        trees.append(tree)
        said += draw(
            st.lists(
                st.tuples(
                    st.just(tree.task), st.just(tree.tree), st.integers(0, len(tree) - 1), st.sampled_from([0.0, 1.0])
                ),
                max_size=3,
                unique_by=lambda row: row[2],
            )
        )
    return trees, said


def store_forest(work, trees: list[Tree], said: list[tuple]) -> None:
    """As rollouts leave it."""

    def frame(name: str, rows: list[dict]) -> pl.DataFrame:
        types = column_types(TABLES[name])
        return pl.DataFrame([dict.fromkeys(types) | row for row in rows], schema=types, orient="row")

    place = Place("foreign", "r0", "rollouts", "train-000")
    tasks = [
        {"task": tree.task, "suite": "foreign", "band": "made", "split": "train", "question": tree[0]["text"]}
        | {"answer": "1", "verifier": "math"}
        for tree in trees
    ]
    verdicts = [
        {"task": task, "tree": tree, "node": node, "verifier": "math", "version": "1", "reward": reward}
        for task, tree, node, reward in said
    ]
    labels = [
        {"task": task, "tree": tree, "node": node, "labeller": "human", "version": "1", "hard": reward > 0}
        for task, tree, node, reward in said
    ]
    asked = {node["request"]: tree.task for tree in trees for node in tree.nodes if node["request"] and node["sampled"]}
    requests = [
        {"task": task, "request": request, "stage": "rollouts", "sample_index": 0, "policy": "p"}
        | {"engine": "vllm", "sampling": "{}", "prompt_tokens": 1, "seconds": 0.5, "attempts": 1}
        for request, task in asked.items()
    ]
    made = inputs("1", policy="p")
    work.store.write("tasks", frame("tasks", tasks), Place("foreign", EVERY_ROUND, "tasks", "train-000"), inputs=made)
    work.store.write("requests", frame("requests", requests), place, inputs=made)
    work.store.write("verdicts", frame("verdicts", verdicts), place, inputs=made)
    work.store.write("step_labels", frame("step_labels", labels), work.place("human", "train-000"), inputs=made)
    work.store.write("nodes", nodes_frame(trees), place, inputs=made)


@pytest.mark.parametrize("format", ["atif", "sessions"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(forest=forests())
def test_any_forest_is_restored(tmp_path_factory: pytest.TempPathFactory, format: str, forest: tuple):
    here, there = (work_at(tmp_path_factory.mktemp(name)) for name in ("here", "there"))
    store_forest(here, *forest)
    out = tmp_path_factory.mktemp("out")
    send_out(here, format, out)
    bring_in(there, format, out)
    assert not violations(there)
    assert not faults_in(there), "also the ledger has what was sampled"
    for name in ("tasks", "nodes", "verdicts", "step_labels", "requests"):
        assert_frame_equal(table(here, name), table(there, name))


@pytest.mark.parametrize("format", ["atif", "sessions"])
def test_an_answer_of_several_steps_is_restored_with_its_one_request(tmp_path: Path, format: str):
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    tree = Tree("foreign/made/train/000000", "foreign/made/train/000000@r0")
    tree.add_prompt(None, np.asarray([1, 2], np.int32), text="q", agent="solver")
    for number, finish in enumerate((None, "stop")):
        said = {"request": "q0", "policy": "p", "finish": finish, "text": f"step {number}", "agent": "solver"}
        tree.add(number, kind="step", origin="sample", sampled=True, token_ids=[3 + number], logprobs=[-0.5], **said)
    store_forest(here, [tree], [])
    send_out(here, format, tmp_path / "out")
    bring_in(there, format, tmp_path / "out")
    assert not violations(there)
    assert len(table(there, "requests")) == 1
    for name in ("nodes", "requests"):
        assert_frame_equal(table(here, name), table(there, name))


def test_labellers_of_any_name_are_kept_apart(tmp_path: Path):
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    store_forest(here, [tool_episode()], [("foreign/made/train/000000", "foreign/made/train/000000@r0", 5, 1.0)])
    (file,) = send_out(here, "sessions", tmp_path / "out")
    label = '{"labeller":"human"'
    names = ("\\u0000", "a b", "a-b", "a_b")
    others = ",".join(label.replace("human", name) + ',"version":"1","hard":true}' for name in names)
    file.write_text(file.read_text().replace(label, f"{others},{label}"))
    bring_in(there, "sessions", file)
    assert set(table(there, "step_labels")["labeller"]) == {"\0", "a b", "a-b", "a_b", "human"}


def tool_episode() -> Tree:
    """As our own environments leave it: a turn that calls a tool, its answer, a turn that calls nothing readable."""
    tree = Tree("foreign/made/train/000000", "foreign/made/train/000000@r0")
    tree.add_prompt(None, np.asarray([1, 2], np.int32), text="List.", agent="solver")
    said = {"origin": "sample", "agent": "solver"}
    tree.add(0, kind="step", token_ids=[3], text="I look.", tool_calls=calls_json([LOOK], [True]), **said)
    tree.add(1, kind="prompt", token_ids=[4], text="a.txt", origin="prompt", agent="solver")
    tree.add(2, kind="step", token_ids=[5], text="Hm.", tool_calls=calls_json([UNREAD], [False]), **said)
    tree.add(3, kind="prompt", token_ids=[6], text="error", origin="prompt", agent="solver")
    tree.add(4, kind="step", token_ids=[7], text="a.txt", finish="stop", **said)
    return tree


@pytest.mark.parametrize("format", EXPORTERS)
def test_a_tool_episode_of_our_own_leaves_in_every_format(tmp_path: Path, format: str):
    work = work_at(tmp_path / "here")
    store_forest(work, [tool_episode()], [("foreign/made/train/000000", "foreign/made/train/000000@r0", 5, 1.0)])
    (file,) = send_out(work, format, tmp_path / "out")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    function = {"name": "ls", "arguments": '{"path":"."}'}
    match format:
        case "messages":
            _, looked, *others = lines[0]["messages"]
            assert looked["tool_calls"] == [{"id": "call_1_0", "type": "function", "function": function}]
            assert others == [
                {"role": "tool", "content": "a.txt", "tool_call_id": "call_1_0"},
                {"role": "assistant", "content": "Hm."},
                {"role": "user", "content": "error"},
                {"role": "assistant", "content": "a.txt"},
            ]
        case "sessions":
            messages = [line["message"] for line in lines[1:]]
            assert messages[1]["toolCalls"] == [{"id": "call_1_0", "function": function}]
            assert messages[2] == {"role": "tool", "content": "a.txt", "toolCallId": "call_1_0"}
            assert [one["role"] for one in messages[3:]] == ["assistant", "user", "assistant"]
        case "atif":
            steps = lines[0]["steps"]
            assert [step["source"] for step in steps] == ["user", "agent", "agent", "user", "agent"]
            assert steps[1]["tool_calls"] == [
                {"tool_call_id": "call_1_0", "function_name": "ls", "arguments": {"path": "."}}
            ]
            assert steps[1]["observation"] == {"results": [{"source_call_id": "call_1_0", "content": "a.txt"}]}
        case _:
            assert "tool_calls" not in str(lines)
    if format in ("atif", "sessions"):
        there = work_at(tmp_path / "there")
        bring_in(there, format, tmp_path / "out")
        assert not violations(there)
        assert_frame_equal(table(work, "nodes"), table(there, "nodes"))


def test_math_shepherd_of_our_own_forest_reads_as_such(tmp_path: Path):
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    rows = {"prompt": "Q", "completions": ["Step 1: a", "Step 2: b"], "labels": [True, False]}
    bring_in(here, "trl_stepwise", as_lines(tmp_path / "a.jsonl", rows))
    (file,) = send_out(here, "math_shepherd", tmp_path / "out")
    bring_in(there, "math_shepherd", file)
    assert table(here, "nodes")["text"].to_list() == table(there, "nodes")["text"].to_list()
    assert table(there, "step_labels")["hard"].to_list() == [True, False]


def test_the_same_file_twice_gives_the_same_bytes(tmp_path: Path):
    file = as_lines(tmp_path / "a.jsonl", PRM, GIVEN_UP)
    here, there = work_at(tmp_path / "here"), work_at(tmp_path / "there")
    first = bring_in(here, "prm800k", file)
    assert bring_in(here, "prm800k", file).fresh == 0
    assert bring_in(there, "prm800k", file).digest == first.digest
    stored = [sorted((tmp_path / name / "store").rglob("*.parquet")) for name in ("here", "there")]
    assert [path.read_bytes() for path in stored[0]] == [path.read_bytes() for path in stored[1]]


def test_a_round_of_other_files_is_replaced_on_request_alone(tmp_path: Path):
    work = work_at(tmp_path)
    bring_in(work, "prm800k", as_lines(tmp_path / "a.jsonl", PRM))
    other = as_lines(tmp_path / "b.jsonl", {"prompt": "q", "completions": ["a"], "labels": [True]})
    with pytest.raises(BadConfig, match=r"not of .*b\.jsonl; import it into another --round, or give --replace"):
        bring_in(work, "trl_stepwise", other)
    assert len(table(work, "nodes")) == 7
    bring_in(work, "trl_stepwise", other, replace=True)
    assert table(work, "nodes")["text"].to_list() == ["q", "a"]
    assert table(work, "step_labels")["labeller"].to_list() == ["trl_stepwise"]
    assert bring_in(work, "trl_stepwise", other).fresh == 0


def test_a_suite_of_other_tasks_is_refused(tmp_path: Path):
    work = work_at(tmp_path)
    bring_in(work, "prm800k", as_lines(tmp_path / "a.jsonl", PRM))
    other = replace(work, round="r1")
    file = as_lines(tmp_path / "b.jsonl", {"prompt": "q", "completions": ["a"], "labels": [True]})
    with pytest.raises(BadConfig, match="other tasks"):
        bring_in(other, "trl_stepwise", file)

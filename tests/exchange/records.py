"""Records of some formats, and what they say; shared by tests of the exchange."""

from __future__ import annotations

MARK = "ки"
SHEPHERD = "2 + 2? Step 1: It is 2 + 2. {}\nStep 2: So - of course - 4. {}"
PREFERENCE = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "origin": "x"}
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "List the files."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "."}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    {"role": "assistant", "content": "One file: a.txt."},
]
NODES = [
    {"parent": None, "message": {"role": "system", "content": "s"}, "sampled": False, "token_ids": [1, 2]},
    {"parent": 0, "message": {"role": "user", "content": "q"}, "sampled": False, "token_ids": [3]},
    {
        "parent": 1,
        "message": {"role": "assistant", "content": "yes"},
        "sampled": True,
        "token_ids": [4, 5, 6],
        "mask": [False, True, True],
        "logprobs": [-0.5, -0.25],
    },
    {
        "parent": 1,
        "message": {"role": "assistant", "content": "no"},
        "sampled": True,
        "token_ids": [4, 7],
        "mask": [False, True],
        "logprobs": [-1.5],
    },
]
TRACE = {
    "id": "e1",
    "task": {"type": "t", "data": {"answer": "yes"}},
    "ok": True,
    "traces": [
        {
            "id": "t1",
            "nodes": NODES,
            "calls": [{"node": 2, "model": "m", "finish_reason": "stop"}, {"node": 3, "finish_reason": "length"}],
            "rewards": {"right": {"score": 0.5, "weight": 1.0}, "unknown": None},
        }
    ],
}


def shepherd(*marks: str) -> dict[str, str]:
    return {"input": SHEPHERD.format(MARK, MARK), "label": SHEPHERD.format(*marks), "task": "GSM8K"}

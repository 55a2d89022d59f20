"""The command `branchpoint` over a suite of one's own: what it prints, and how it refuses."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

from pipeline import cli, show
from pipeline.cli_options import Parser, add_config_options, read_config
from pipeline.store.layout import Place
from pipeline.store.query import ShownNode
from pipeline.store.store import Store
from schemas import TABLES
from schemas.base import column_types

HEAVY = {
    "torch",
    "vllm",
    "transformers",
    "trl",
    "dagster",
    "polars",
    "duckdb",
    "pandas",
    "pyarrow",
    "numpy",
    "datasets",
}
SUITE = """
name = "mine"
description = "Three sums of one's own."
prompts = "tiny"
separator = "\\n"
max_tokens = 32

[[bands]]
name = "easy"
source = "file"
path = "questions.jsonl"
held_out = 0.0
"""
QUESTIONS = [{"question": f"{number} + 1 =", "answer": str(number + 1)} for number in (1, 2, 3)]
HOSTILE = "\x1b[31mred[bold]\r\n\u202e\x07"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a suite, its questions and a folder that passes for a policy."""
    for name in ("STORE", "POLICIES", "RELEASE", "SUITES"):
        monkeypatch.delenv(f"BRANCHPOINT_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(SUITE)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    policy = tmp_path / "policies" / "tiny2"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text('{"max_position_embeddings": 64, "eos_token_id": 1}')
    (policy / "tokenizer.json").write_text("{}")
    (policy / "model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.fixture
def stored(place) -> Store:
    """A store of one tree with a hostile text: a prompt, a right sample of two steps and a wrong one."""
    shared = {"task": "mine/t", "tree": "mine/t@r0", "episode": "mine/t@r0", "context": 0, "turn": 0, "agent": "solver"}
    shared |= {"sampled": False, "token_ids": [7], "token_count": 1}
    nodes = [
        {"node": 0, "parent": None, "depth": 0, "kind": "prompt", "origin": "prompt", "text": "1 + 1 ="},
        {"node": 1, "parent": 0, "depth": 1, "kind": "step", "origin": "sample", "text": HOSTILE},
        {"node": 2, "parent": 1, "depth": 2, "kind": "step", "origin": "sample", "text": "#### 2", "finish": "stop"},
        {"node": 3, "parent": 0, "depth": 1, "kind": "step", "origin": "sample", "text": "#### 3", "finish": "stop"},
    ]
    verdicts = [
        {"task": "mine/t", "tree": "mine/t@r0", "node": node, "verifier": "math", "version": "1", "reward": reward}
        for node, reward in ((2, 1.0), (3, 0.0))
    ]
    store = Store(place / "store")
    for table, rows in {"nodes": [shared | node for node in nodes], "verdicts": verdicts}.items():
        frame = pl.DataFrame(rows, schema=column_types(TABLES[table]), orient="row")
        store.write(table, frame, Place("mine", "r0", "rollouts", "train-000"), inputs={})
    return store


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def refusal(capsys, *arguments: str) -> str:
    """The one line a refused command says."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (cli.BAD_USE, "")
    assert err.startswith("branchpoint: ")
    assert err.count("\n") == 1
    assert "; " in err
    return err


TASKS = ("tasks", "--suite", "mine.toml", "--policy", "tiny2")


def test_tasks(place, capsys):
    code, out, err = run(capsys, *TASKS)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "tasks of suite mine, round all"
    assert {"  tasks                3 rows", "  shards               1 written now, 0 already current"} < set(
        out.splitlines()
    )
    report = json.loads(run(capsys, *TASKS, "--json")[1])
    assert (report["rows"], report["fresh"], report["shards"]) == ({"tasks": 3}, 0, 1)
    assert (place / "store" / "branchpoint.duckdb").is_file()


def test_store_by_option_and_by_environment(place, capsys, monkeypatch):
    assert run(capsys, *TASKS, "--store", "here")[0] == 0
    monkeypatch.setenv("BRANCHPOINT_STORE", "there")
    assert run(capsys, *TASKS)[0] == 0
    assert all((place / name / "tasks" / "suite=mine").is_dir() for name in ("here", "there"))
    assert not (place / "store").exists()


def test_suite_by_name_from_the_folder_of_suites(place, capsys):
    (place / "suites").mkdir()
    for name in ("mine.toml", "questions.jsonl"):
        (place / name).rename(place / "suites" / name)
    assert run(capsys, "tasks", "--suite", "mine", "--policy", "tiny2")[0] == 0
    assert "did you mean 'mine'?" in refusal(capsys, "tasks", "--suite", "mnie")


GOOD_LINE = b'{"question": "1 + 1 =", "answer": "2"}\n'
BAD_INPUTS = {
    "unknown suite": ({}, ("--suite", "chain_sun"), "did you mean 'chain_sum'?"),
    "suite of no file": ({}, ("--suite", "yours.toml"), "yours.toml cannot be read"),
    "suite no TOML": ({"mine.toml": b"name ="}, (), "mine.toml is not TOML"),
    "unknown key": ({"mine.toml": SUITE.replace("held_out", "heldout").encode()}, (), "unknown key 'heldout'"),
    "no questions": ({"questions.jsonl": None}, (), "questions.jsonl does not exist"),
    "broken line": ({"questions.jsonl": GOOD_LINE + b'{"question": \n'}, (), "questions.jsonl:2 is not JSON"),
    "not text": ({"questions.jsonl": b'{"question": "\xff"}\n'}, (), "questions.jsonl:1 is not JSON"),
    "no object": ({"questions.jsonl": b"[1]\n"}, (), "questions.jsonl:1 is no JSON object"),
    "no question": ({"questions.jsonl": b'{"answer": "2"}\n'}, (), "row 1: no 'question'"),
    "no answer": ({"questions.jsonl": GOOD_LINE + b'{"question": "2 + 2 ="}\n'}, (), "row 2: no answer"),
    "no such policy": ({}, ("--policy", "none"), "policy 'none' is neither"),
    "policy no model": ({}, ("--policy", "policies"), "config.json is missing"),
    "policy without weights": ({"policies/tiny2/model.safetensors": None}, (), "no *.safetensors"),
    "unknown engine": ({}, ("--engine", "vlm"), "did you mean 'vllm'?"),
    "bad round": ({}, ("--round", "../r0"), "'../r0' cannot be the name"),
    "store without a name": ({}, ("--store", ""), "--store names nothing; give a folder or URL, or leave --store out"),
    "store under a file": ({}, ("--store", "mine.toml/store"), "mine.toml is not a folder"),
    "store is a file": ({}, ("--store", "mine.toml"), "mine.toml is not a folder"),
    "store is half a URL": ({}, ("--store", "s3:bucket"), "write a URL as s3://bucket/folder"),
    "store that cannot be written": ({}, ("--store", "/proc/store"), "cannot be written: /proc: "),
    "such a store by a URL": ({}, ("--store", "file:///proc/store"), "cannot be written: /proc: "),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line_and_writes_nothing(place, capsys, name):
    files, options, message = BAD_INPUTS[name]
    for path, content in files.items():
        (place / path).unlink() if content is None else (place / path).write_bytes(content)
    before = sorted(place.rglob("*"))
    assert message in refusal(capsys, *TASKS, *options)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no command is given; see branchpoint --help"),
        (("rolouts",), "there is no command 'rolouts'; did you mean 'rollouts'?"),
        (("query", "select 1"), "there is no command 'query'; did you mean 'sql'?"),
        (("rollouts", "--goup", "3"), "'--goup' is not understood; did you mean '--group'?"),
        (("rollouts", "--group", "x"), "argument --group: invalid int value: 'x'; see branchpoint rollouts --help"),
        (("rollouts", "--temperature", "nan"), "argument --temperature: 'nan' is no finite number; see branchpoint"),
        (("rollouts", "--top-p", "0"), "top_p is 0.0; give more than 0 and at most 1"),
        (("rollouts", "--params", '{"top_p": 1.5}'), "top_p is 1.5; give more than 0"),
        (("trees", "--temperature", "-1"), "temperature is -1.0; give at least 0"),
        (("rollouts", "--grou", "3"), "did you mean '--group'?"),
        (("credit", "--method", "spo"), "did you mean 'spo_tree'?"),
        (("step-labels", "--labeller", "monte-carlo"), "did you mean 'monte_carlo'?"),
        (("patches", "--clone", "suffix"), "choose one of prefix+intervention, "),
        (("path", "t", "one"), "argument NODE: invalid int value"),
        (("--store",), "'--store' is not understood"),
        (("tables",), "there is no store at store; run `branchpoint tasks` first"),
        (("sql", "select 1"), "there is no store at store"),
    ],
)
def test_misuse(place, capsys, arguments, message):
    assert message in refusal(capsys, *arguments)
    assert not (place / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sql", "from nods"), 'Did you mean "nodes"'),
        (("sql", "selec 1"), "Parser Error"),
        (("sql", "select 1 as a, 2 as a", "--json"), "two columns are called 'a'"),
        (("sql", "select 1", "--json", "--csv"), "choose one"),
        (("sql", "select 1; select 2", "--csv"), "a CSV holds one answer"),
        (("sql", ""), "the query is empty"),
        (("sql", "drop view nodes"), "'drop view nodes' does not only read"),
        (("sql", "select '\udcff'"), "is no UTF-8"),
        (("show", "mine/t"), "did you mean 'mine/t@r0'?"),
        (("path", "mine/t@r0", "9"), "its nodes are 0 to 3"),
        (("path", "mine/t@r0", "-1"), "its nodes are 0 to 3"),
        (("view", "--most", "-1"), "most is -1; give at least 1"),
        (("serve", "--port", "70000"), "there is no port 70000; give one from 0"),
        (("bench", "train", "--device", "cuba"), "did you mean 'cuda'?"),
    ],
)
def test_bad_questions(stored, capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


def test_sql_forms(stored, capsys):
    columns = "node, text, [1.5, 'nan'::float] as figures, null as nothing"
    sql = f"select {columns} from nodes where node in (1, 2) order by node"
    text = show.plain(HOSTILE)
    hostile, harmless = run(capsys, "sql", sql, "--json")[1].splitlines()
    assert json.loads(hostile) == {"node": 1, "text": HOSTILE, "figures": [1.5, None], "nothing": None}
    assert hostile.isprintable()
    assert harmless == '{"node": 2, "text": "#### 2", "figures": [1.5, null], "nothing": null}'
    assert run(capsys, "sql", sql.replace("(1, 2)", "(2)"), "--csv")[1] == (
        'node,text,figures,nothing\n2,#### 2,"[1.5, null]",\n'
    )
    table = run(capsys, "sql", sql)[1]
    assert text in table
    assert "null" in table
    assert "\x1b" not in table
    assert "\u202e" not in table


def test_json_keeps_letters_and_escapes_what_is_not_printable(capsys):
    rows = [("ü 🌲", ["\u202e\x85\x1b", {"a": "\U000e0001"}])]
    show.print_json(("x", "y"), rows, to=sys.stdout)
    out = capsys.readouterr().out
    assert out.startswith('{"x": "ü 🌲", "y": ["\\u202e\\u0085\\u001b", ')
    assert json.loads(out) == {"x": "ü 🌲", "y": ["\u202e\x85\x1b", {"a": "\U000e0001"}]}


def test_csv_is_raw_in_a_file_and_plain_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for to, text in ((io.StringIO(), HOSTILE), (Terminal(), show.plain(HOSTILE))):
        show.print_csv(("a\x1b",), [(HOSTILE,)], to=to)
        header, row = csv.reader(io.StringIO(to.getvalue(), newline=""))
        assert row == [text]
        assert header == ["a\x1b" if text == HOSTILE else "a\\x1b"]


def test_sql_answers_statement_after_statement(stored, capsys):
    assert (
        run(capsys, "sql", "select 1 as a; select 2 as b; select 3 as a", "--json")[1]
        == '{"a": 1}\n{"b": 2}\n{"a": 3}\n'
    )
    code, out, err = run(capsys, "sql", "select 1 as a; from nods", "--json")
    assert (code, out) == (cli.BAD_USE, '{"a": 1}\n')
    assert 'Did you mean "nodes"' in err


@pytest.mark.parametrize(
    ("piped", "code", "out"),
    [(b"select 1 as a;\nselect 2 as a;\n", 0, '{"a": 1}\n{"a": 2}\n'), (b"", 2, ""), (b"select '\xff'", 2, "")],
    ids=["two statements", "empty", "no text"],
)
def test_sql_piped_in(stored, capsys, monkeypatch, piped, code, out):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
    assert run(capsys, "sql", "--json")[:2] == (code, out)


def test_sql_table_stops_early_and_says_so(stored, capsys):
    out = run(capsys, "sql", "select range as n from range(1000)")[1]
    assert "the first 200 rows; --csv or --json gives all" in out
    assert [line.strip() for line in out.splitlines() if line.strip().isdigit()] == [str(n) for n in range(200)]
    assert len(run(capsys, "sql", "select range as n from range(3000)", "--csv")[1].splitlines()) == 3001


def test_tables(stored, capsys):
    assert [json.loads(line) for line in run(capsys, "tables", "--json")[1].splitlines()] == [
        {"table": table, "suite": "mine", "round": "r0", "stage": "rollouts", "rows": rows, "shards": 1}
        for table, rows in (("nodes", 4), ("verdicts", 2))
    ]
    assert "rollouts" in run(capsys, "tables")[1]


def test_show_obeys_no_text(stored, capsys):
    assert run(capsys, "show", "mine/t@r0") == (
        0,
        "0 prompt: 1 + 1 =\n"
        "  1 sample: \\x1b[31mred[bold]\\r\\n\\u202e\\x07\n"
        "    2 sample [reward 1]: #### 2\n"
        "  3 sample [reward 0]: #### 3\n",
        "",
    )


def test_path(stored, capsys):
    assert run(capsys, "path", "mine/t@r0", "3")[1] == "0 prompt: 1 + 1 =\n3 sample [reward 0]: #### 3\n"
    lines = run(capsys, "path", "mine/t@r0", "2", "--json")[1].splitlines()
    assert [json.loads(line)["node"] for line in lines] == [0, 1, 2]


def test_deep_tree_is_no_recursion():
    chain = [ShownNode(number, number - 1 if number else None, "sample", "x", None) for number in range(5000)]
    assert sum(1 for _ in show.tree_lines(chain)) == 5000


@pytest.mark.parametrize("name", [name for name, stage in cli.STAGES.items() if stage.config])
def test_a_stage_can_be_run_without_an_option_of_its_own(name):
    stage = cli.STAGES[name]
    config = getattr(import_module(stage.module), stage.config)
    parser = Parser(prog=name)
    add_config_options(parser, config)
    assert read_config(parser.parse_args([]), config) == config()


@pytest.mark.parametrize("name", cli.STAGES)
def test_every_stage_has_its_function_and_options(name, capsys):
    stage = cli.STAGES[name]
    module = import_module(stage.module)
    assert callable(getattr(module, stage.function))
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    fields = getattr(module, stage.config).__slots__ if stage.config else ()
    assert all(f"--{field.replace('_', '-')}" in out for field in fields)


def test_the_help_lists_every_command_once_under_a_heading(capsys):
    assert sorted(name for names in cli.GROUPS.values() for name in names) == sorted({**cli.STAGES, **cli.QUESTIONS})
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: branchpoint [-h] [--version] COMMAND ...\n")
    assert "\n\nVary:\n  retries          reflect on failures and try again\n" in out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rolouts"], ["sql", "--json", "--csv"]])
def test_nothing_heavy_is_imported(arguments):
    code = f"""
import sys
from pipeline.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print(sorted(set(sys.modules) & {HEAVY}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["rollouts", "evals"])
def test_no_engine_or_trainer_is_imported_for_a_stage(name):
    code = f"import sys; from pipeline.cli import main; main(['{name}', '--group=x'])\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "vllm", "transformers", "dagster"} & set(done.stdout.replace("'", "").split(", "))


def test_interrupt(place, capsys, monkeypatch):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.tasks.write_tasks", interrupted)
    code, out, err = run(capsys, *TASKS)
    assert (code, out) == (130, "")
    assert err == "branchpoint: interrupted; what is recorded is kept, the same command goes on from there\n"


def test_an_interrupt_ends_a_wait(place, capsys, monkeypatch):
    """Also one that the system would take up again, as polars has it do."""
    with subprocess.Popen(["sleep", "30"]) as other:

        def waiting(work):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            other.wait()

        monkeypatch.setattr("pipeline.stages.tasks.write_tasks", waiting)
        signal.siginterrupt(signal.SIGINT, False)
        code, *_ = run(capsys, *TASKS)
        assert (code, other.poll()) == (130, None)
        other.kill()


def test_closed_pipe_is_quiet(stored):
    code = "import sys; from pipeline.cli import main; sys.exit(main())"
    arguments = ("sql", "select range from range(300000)", "--csv")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "range\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == cli.PIPE_CLOSED


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("branchpoint 0.")

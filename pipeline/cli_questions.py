"""The commands that ask and change nothing: of the store in SQL or by name, and of Branchpoint's own speed.

Imports nothing heavy itself; what a command needs is imported when it is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pipeline import show
from pipeline.bench import BENCHES, ON_ENGINES
from pipeline.bench.shape import SHAPES, Shape, Sizes
from pipeline.builders.pack_command import PACK, run_pack
from pipeline.cli_options import check_choice
from pipeline.cli_progress import progress_on
from pipeline.cli_store import database_of, settings_of, store_of
from pipeline.errors import BadConfig
from pipeline.exchange.commands import EXPORT, IMPORT, run_export, run_import
from pipeline.lineage.datasets import DATASETS
from pipeline.publish.commands import PUBLISH, VERIFY, run_publish, run_verify
from pipeline.settings import Settings, heed_interrupts
from pipeline.view.command import VIEW, run_view

if TYPE_CHECKING:
    from pipeline.store.audit import Audited
    from pipeline.store.query import ShownNode

FAILED = 1
"""Exit code of a check that found something."""
LAST_PORT = 65535


class Question(NamedTuple):
    """A command that changes nothing. of_store: it asks the store that the options name."""

    run: Callable[[argparse.Namespace], int | None]
    summary: str
    arguments: dict[str, dict[str, Any]]
    of_store: bool = True


def _sql(options: argparse.Namespace) -> None:
    """Answer the query, else what is piped in, else whatever is typed."""
    if options.json and options.csv:
        raise BadConfig("--json and --csv are both given", remedy="choose one")
    form = show.print_json if options.json else show.print_csv if options.csv else show.print_table
    typed = options.query is None and sys.stdin.isatty()
    if typed and not sys.stdout.isatty():
        raise BadConfig("no query is given", remedy="name one, or pipe it in")
    query = _read_text(sys.stdin) if options.query is None and not typed else options.query

    from pipeline.store.query import ask, reading

    with database_of(options) as connection:
        if typed:
            from pipeline.cli_prompt import converse

            return converse(connection, form)
        if options.csv and len(reading(connection, query)) > 1:
            raise BadConfig("a CSV holds one answer", remedy="ask one statement, or for --json")
        for answer in ask(connection, query):
            form(answer.columns, answer.rows, to=sys.stdout)


def _read_text(source: TextIO) -> str:
    """All of a stream.

    Raises:
        BadConfig: it is no text.
    """
    try:
        return source.read()
    except UnicodeDecodeError as error:
        raise BadConfig("what is piped in is not UTF-8", remedy="pipe in SQL as text") from error


def _tables(options: argparse.Namespace) -> None:
    from pipeline.store.query import Count, count_rows

    counts = count_rows(store_of(options))
    (show.print_json if options.json else show.print_table)(Count._fields, counts, to=sys.stdout)


def _check(options: argparse.Namespace) -> int:
    """Print what is checked; 1 where something is not as it should be.

    Raises:
        BadConfig: there is nothing to check, as where a suite is misspelt.
    """
    from pipeline.store.audit import Audited

    failed, looked = 0, False
    for found in _audited(options):
        looked = True
        failed += not found.passed
        if options.json:
            show.print_json(Audited._fields, [found], to=sys.stdout)
        else:
            where = " ".join(filter(None, (found.table, found.suite, found.round)))
            print(show.plain(f"{'ok' if found.passed else 'FAILED':<6}  {where:<36}  {found.check}: {found.detail}"))
    if not looked:
        raise BadConfig("the store has nothing of the kind to check", remedy="`branchpoint tables` lists what there is")
    return FAILED if failed else 0


def _audited(options: argparse.Namespace) -> Iterator[Audited]:
    """Files, what must hold between them, what was made from what; on request, what is drift and no failure."""
    from pipeline.stages.standing import audit_standing
    from pipeline.store.audit import Audited, audit

    store, of = store_of(options), {"suite": options.suite, "round": options.round}
    failed = False
    for found in audit(store, **of):
        failed |= not found.passed and found.check == "file"
        yield found
    if not failed:
        yield from audit_standing(store, **of)
    if options.drift and not failed:
        from pipeline.lineage.at_hand import AtHand
        from pipeline.lineage.drift import find_drift
        from pipeline.lineage.show_drift import drift_detail

        for drift in find_drift(store, AtHand(settings_of(options)), **of):
            yield Audited("nodes", drift.suite, drift.round, "drift", True, drift_detail(drift))


def _show(options: argparse.Namespace) -> None:
    from pipeline.store.query import tree_nodes

    with database_of(options) as connection:
        _print_nodes(tree_nodes(connection, options.tree), show.tree_lines, options)


def _path(options: argparse.Namespace) -> None:
    from pipeline.store.query import path_nodes

    with database_of(options) as connection:
        nodes = path_nodes(connection, options.tree, options.node)
        _print_nodes(nodes, lambda found: map(show.node_line, found), options)


def _print_nodes(
    nodes: Sequence[ShownNode], lines: Callable[[Sequence[ShownNode]], Iterable[str]], options: argparse.Namespace
) -> None:
    if options.json:
        show.print_json(nodes[0]._fields, nodes, to=sys.stdout)
    else:
        for line in lines(nodes):
            print(line)


def _why(options: argparse.Namespace) -> int:
    """Print all that a training row came from; 1 where its tokens are not those of its nodes."""
    from pipeline.lineage.at_hand import AtHand
    from pipeline.lineage.show_why import print_why
    from pipeline.lineage.why import why

    at_hand = AtHand(settings_of(options), policy=options.policy)
    found = why(store_of(options), options.dataset, options.row, at_hand=at_hand)
    print_why(found, as_json=options.json, to=sys.stdout)
    return 0 if all(one.agrees for one in found) else FAILED


def _drift(options: argparse.Namespace) -> None:
    from pipeline.lineage.at_hand import AtHand
    from pipeline.lineage.drift import find_drift
    from pipeline.lineage.show_drift import print_drift

    store, at_hand = store_of(options), AtHand(settings_of(options), policy=options.policy)
    if not store.places("nodes", suite=options.suite, round=options.round):
        raise BadConfig("the store has no such nodes", remedy="`branchpoint tables` lists what there is")
    with progress_on(sys.stderr) as on_progress:
        found = find_drift(store, at_hand, suite=options.suite, round=options.round, on_progress=on_progress)
        print_drift(found, as_json=options.json, to=sys.stdout)


def _report(options: argparse.Namespace) -> None:
    """Print a report of a round; draw it, where a file is named."""
    check_choice("report", options.what, REPORTS)
    store, of = store_of(options), {"suite": options.suite, "round": options.round}
    if options.what not in ("credit", "labels") and options.picture is not None:
        raise BadConfig(f"a report of {options.what} has no picture", remedy="leave --picture out")
    if options.what == "variants":
        from pipeline.variants.report import ask_variants

        return ask_variants(store, **of, as_json=options.json, to=sys.stdout)
    if options.what == "cost":
        from pipeline.plan.ask import ask_cost

        return ask_cost(store, **of, as_json=options.json, to=sys.stdout)
    if options.what == "labels":
        from pipeline.label_report.ask import ask_labels

        return ask_labels(store, **of, picture=options.picture, as_json=options.json, to=sys.stdout)
    from pipeline.credit_report.ask import ask_credit

    ask_credit(store, **of, picture=options.picture, as_json=options.json, to=sys.stdout)


def _golden(options: argparse.Namespace) -> int:
    """Print a line a file of vectors; 1 where a case fails."""
    from pipeline.golden.run import Ran, run_folder

    ran = list(run_folder(options.folder))
    (show.print_json if options.json else show.print_table)(Ran._fields, ran, to=sys.stdout)
    return FAILED if any(one.failed for one in ran) else 0


def _serve(options: argparse.Namespace) -> None:
    from pipeline.generation.policies import find_policy
    from pipeline.generation.serve import serve

    if not 0 <= options.port <= LAST_PORT:
        raise BadConfig(f"there is no port {options.port}", remedy=f"give one from 0, any that is free, to {LAST_PORT}")
    policy = find_policy(options.policy, policies=Settings.from_environment().policies)
    heed_interrupts()
    print(f"loading {policy.name}; about a minute on a CPU", file=sys.stderr, flush=True)
    serve(policy, port=options.port, host=options.host)


def _bench(options: argparse.Namespace) -> None:
    check_choice("device", options.device, ("cpu", "cuda"))
    if options.device != "cpu":
        if options.names != ["train"]:
            raise BadConfig(f"--device {options.device} is for the bench train", remedy="name that alone")
        from importlib import import_module

        import_module(BENCHES["train"]).main(["--device", options.device, "--model", options.model])
        return
    for name in options.names:
        check_choice("bench", name, BENCHES)
    check_choice("shape", options.shape, SHAPES)
    if options.engine:
        check_choice("engine", options.engine, _ENGINES)
    given = {name: value for name in ("tasks", "shard_tasks") if (value := getattr(options, name)) is not None}
    shape = replace(SHAPES[options.shape], seed=options.seed, **given)
    sizes = Sizes(**{name: getattr(options, name) for name in _SIZES})
    from pipeline.bench.metric import Metric
    from pipeline.bench.run import print_metrics, run_benches

    with progress_on(sys.stderr) as on_progress:
        names = tuple(dict.fromkeys(options.names)) or tuple(BENCHES)
        metrics = run_benches(names, shape, on_progress, sizes=sizes, engine=options.engine)
        if options.json:
            show.print_json(Metric._fields, metrics, to=sys.stdout)
            return
        measured = list(metrics)
    print_metrics(measured, shape, to=sys.stdout)


REPORTS = ("credit", "labels", "cost", "variants")
_SHAPE = Shape()
_ENGINES = tuple(sorted({engine for engines in ON_ENGINES.values() for engine in engines}))
_SIZES = {
    "nodes": "of the larger forest, in query and credit",
    "leaves": "put together from disk, in query",
    "trees": "of the store that is opened, in query",
    "rows": "of steps that are credited in one shard, in query",
}
_TREE = {"metavar": "TREE", "help": "such as chain_sum/8x1/train/000000@r0"}
QUESTIONS: dict[str, Question] = {
    "sql": Question(
        _sql,
        "ask the store in SQL",
        {
            "query": {
                "metavar": "QUERY",
                "nargs": "?",
                "help": "statements that read; default what is piped in, else a prompt; see docs/queries.md",
            },
            "--csv": {"action": "store_true", "help": "print CSV, of one statement"},
        },
    ),
    "check": Question(
        _check,
        "check every file of the store and what must hold between them",
        {
            "--suite": {"metavar": "NAME", "help": "of this suite alone"},
            "--round": {"metavar": "NAME", "help": "of this round alone"},
            "--drift": {"action": "store_true", "help": "also what branchpoint drift says, on a line a round"},
        },
    ),
    "tables": Question(_tables, "count the rows of the store by table and stage", {}),
    "show": Question(_show, "show a tree as indented text", {"tree": _TREE}),
    "path": Question(
        _path,
        "show the steps from the root to a node",
        {"tree": _TREE, "node": {"metavar": "NODE", "type": int, "help": "number in the tree"}},
    ),
    "view": Question(run_view, "write trees with their credit as one HTML page to look at", VIEW),
    "why": Question(
        _why,
        "show what a training row came from and which tokens it trains",
        {
            "dataset": {"metavar": "DATASET", "help": "|".join(DATASETS)},
            "row": {"metavar": "ROW", "help": "such as chain_sum/8x1/train/000000@r0/outcome/8/64"},
            "--policy": {
                "metavar": "NAME",
                "default": "",
                "help": "name, or folder of a model, to read tokens with; default that which sampled",
            },
        },
    ),
    "drift": Question(
        _drift,
        "count the stored tokens that would be others if their text were encoded today",
        {
            "--suite": {"metavar": "NAME", "help": "of this suite alone"},
            "--round": {"metavar": "NAME", "help": "of this round alone"},
            "--policy": {
                "metavar": "NAME",
                "default": "",
                "help": "name, or folder of a model, to encode with; default that which sampled",
            },
        },
    ),
    "report": Question(
        _report,
        "compare the credit methods and labellers of a round, or plan and cost",
        {
            "what": {"metavar": "WHAT", "help": "|".join(REPORTS)},
            "--suite": {"metavar": "NAME", "help": "of this suite; default the only one that has a report"},
            "--round": {"metavar": "NAME", "help": "of this round; default the only one that has a report"},
            "--picture": {"metavar": "FILE", "type": Path, "help": "draw it into this PNG too"},
        },
    ),
    "import": Question(run_import, "bring in what others recorded", IMPORT),
    "export": Question(run_export, "write paths as files of other formats", EXPORT),
    "pack": Question(run_pack, "write training rows as packs, each shared token once, for other trainers", PACK),
    "publish": Question(run_publish, "upload a round's release, or a policy, to the Hub", PUBLISH),
    "verify": Question(
        run_verify, "check a release: its bytes, its card, and its rows built again", VERIFY, of_store=False
    ),
    "golden": Question(
        _golden,
        "run reference vectors through the methods",
        {"folder": {"metavar": "DIR", "type": Path, "help": "of JSON files with a method and its cases"}},
        of_store=False,
    ),
    "serve": Question(
        _serve,
        "start a vLLM server on a policy, for --engine served:URL",
        {
            "--policy": {"default": "tiny", "help": "name, or folder of a model; default tiny"},
            "--host": {"default": "127.0.0.1", "help": "default 127.0.0.1"},
            "--port": {"type": int, "default": 8000, "help": "0: any that is free; default 8000"},
        },
        of_store=False,
    ),
    "bench": Question(
        _bench,
        "measure Branchpoint on a drawn forest",
        {
            "names": {"metavar": "NAME", "nargs": "*", "help": f"{'|'.join(BENCHES)}; default all"},
            "--shape": {"metavar": "NAME", "default": "mixed", "help": f"{'|'.join(SHAPES)}; default mixed"},
            "--engine": {"metavar": "NAME", "default": "", "help": f"measured too, by gen: {'|'.join(_ENGINES)}"},
            "--device": {"default": "cpu", "metavar": "NAME", "help": "cpu, or cuda for train; default cpu"},
            "--model": {"default": "qwen3-0.6b", "metavar": "NAME", "help": "of train on cuda; default qwen3-0.6b"},
            "--tasks": {"type": int, "help": f"trees to draw; default {_SHAPE.tasks}"},
            "--shard-tasks": {"type": int, "help": f"tasks in a shard; default {_SHAPE.shard_tasks}"},
            "--seed": {"type": int, "default": _SHAPE.seed, "help": f"of what is drawn; default {_SHAPE.seed}"},
            **{
                f"--{name}": {"type": int, "default": size, "help": f"{_SIZES[name]}; default {size:,}"}
                for name, size in asdict(Sizes()).items()
            },
        },
        of_store=False,
    ),
}
"""Commands that change no store."""

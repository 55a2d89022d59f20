"""AdaSearch: whether a run rightly judged that it can, or cannot, answer from memory.

Does not know how a decision was written: it comes as a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.credit.columns import ZERO, CreditColumns, Trees, mean_by
from pipeline.credit.group import GroupParams, group_advantages
from pipeline.credit.scored import one_of, refuse
from pipeline.credit.spoken import chosen, expected, lay_trajectories, spoken
from pipeline.errors import check_words

DECISIONS = ("no_search", "search")
"""What a run decides and what is right for a question; codes are places in this tuple, `UNPARSED` stands for neither.
"""
UNPARSED = -1


@dataclass(frozen=True, slots=True)
class AdaSearchParams:
    """Parameters of AdaSearch.

    solvable_threshold: mean closed-book reward from which on a question needs no search; 1 with one greedy sample.
    positive_class: word of DECISIONS, what precision and recall are about.

    Raises:
        BadConfig: no such class.
    """

    solvable_threshold: float = 1.0
    positive_class: str = "no_search"

    def __post_init__(self) -> None:
        check_words(self, of="adasearch", positive_class=DECISIONS)


DEFAULTS = AdaSearchParams()


class Labels(NamedTuple):
    """Of `G` questions.

    accuracy: `[G]` float64, mean closed-book reward; NaN without a sample.
    label: `[G]` int64, place in DECISIONS; -1 without a sample.
    """

    accuracy: np.ndarray
    label: np.ndarray


class Awareness(NamedTuple):
    """How well `R` runs on `G` questions decided; an empty denominator gives 0.

    reward: `[R]` float64, 1 where the decision is the question's label, else 0; NaN where the question has none.
    decision_reward: `[G]` float64, mean over the question's runs; NaN without a label or a run.
    true_positive, false_positive, false_negative, true_negative: runs on questions with a label.
    precision, recall, f1: of the positive class. search_rate: share of all runs that decided to search.
    """

    reward: np.ndarray
    decision_reward: np.ndarray
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    precision: float
    recall: float
    f1: float
    search_rate: float


def label_questions(
    rewards: np.ndarray, questions: np.ndarray, *, count: int, params: AdaSearchParams = DEFAULTS
) -> Labels:
    """What is right for each question, by its closed-book samples.

    Args:
        rewards: `[S]` float64, of the samples; no NaN.
        questions: `[S]` int, code of each sample's question, below `count`.
        count: `G`, the number of questions.
        params: the threshold; a mean that falls short of it by rounding alone reaches it.
    """
    accuracy = mean_by(questions, rewards, count)
    needs_search = accuracy < params.solvable_threshold - ZERO
    return Labels(accuracy, np.where(np.isnan(accuracy), UNPARSED, needs_search.astype(np.int64)))


def adasearch(
    decisions: np.ndarray, questions: np.ndarray, labels: np.ndarray, params: AdaSearchParams = DEFAULTS
) -> Awareness:
    """Score the decisions of adaptive runs.

    Args:
        decisions: `[R]` int, place in DECISIONS; `UNPARSED` for a decision that was made but cannot be read: it
            counts as negative and earns 0. A run without a decision has that of what it did: search if it searched.
        questions: `[R]` int, code of each run's question.
        labels: `[G]` int, of `label_questions`.
        params: the positive class.

    Source: AdaSearch (2025). Deviations: the reward of a decision is reconstructed from the text; runs on questions
        without a closed-book sample earn nothing known and are not counted.
    """
    label = labels[questions]
    known, positive = label >= 0, DECISIONS.index(params.positive_class)
    said, suffices = decisions == positive, label == positive
    reward = np.where(known, (decisions == label).astype(np.float64), np.nan)
    true_positive, false_positive = int((known & said & suffices).sum()), int((known & said & ~suffices).sum())
    false_negative, true_negative = int((known & ~said & suffices).sum()), int((known & ~said & ~suffices).sum())
    precision = _share(true_positive, true_positive + false_positive)
    recall = _share(true_positive, true_positive + false_negative)
    return Awareness(
        reward=reward,
        decision_reward=mean_by(questions[known], reward[known], len(labels)),
        true_positive=true_positive,
        false_positive=false_positive,
        false_negative=false_negative,
        true_negative=true_negative,
        precision=precision,
        recall=recall,
        f1=_share(2 * precision * recall, precision + recall),
        search_rate=_share(int((decisions == DECISIONS.index("search")).sum()), len(decisions)),
    )


def adasearch_credit(trees: Trees, params: AdaSearchParams = DEFAULTS) -> CreditColumns:
    """Credit the adaptive runs of a question, its tree, for deciding as its closed-book runs say is right.

    Needs `searched` on leaves, `closed_book`, and `kind`. A run that nobody calls closed-book is adaptive; only the
    closed-book ones need a verdict, and earn nothing here. Where they are of another round, the root says their mean
    reward, which counts as one sample.

    Args:
        trees: `N` nodes.
        params: the threshold.

    Returns:
        value: `[N]` float64, mean reward of the adaptive runs through the node; NaN where none is known.
        advantage: `[N]` float64, mean of their advantages among those of the tree, as verl's GRPO has them; 0 where the
            policy said nothing, NaN where no adaptive run passes or the question has no label.

    Raises:
        BadScore: `searched` is not 1, 0 or -1, or `closed_book` not 1 or 0, or on a root not in [0, 1].

    Source: as `adasearch`; the paper names a group-relative gradient and no formula.
    """
    said, searched = trees.given["closed_book"], one_of(trees, "searched", (0.0, 1.0, UNPARSED))
    root = trees.parent < 0
    good = np.isnan(said) | np.where(root, (said >= 0) & (said <= 1), np.isin(said, (0.0, 1.0)))
    refuse(said, good, name="closed_book", what="0 or 1, on a root in [0, 1]")
    closed = ~root & (said == 1)
    found = spoken(trees)
    samples = found.ends[closed[found.ends] & ~np.isnan(trees.reward[found.ends])]
    questions = int(trees.tree.max(initial=-1)) + 1
    told = np.flatnonzero(root & ~np.isnan(said))
    rewards, of = np.concatenate((trees.reward[samples], said[told])), trees.tree[np.concatenate((samples, told))]
    label = label_questions(rewards, of, count=questions, params=params).label
    runs = chosen(found, ~closed[found.ends] & ~np.isnan(searched[found.ends]) & (label[found.tasks] != UNPARSED))
    decisions = searched[runs.ends].astype(np.int64)
    reward = adasearch(decisions, runs.tasks, label, params).reward
    advantage = group_advantages(reward, runs.tasks, lengths=np.ones(len(reward)), params=GroupParams("grpo_verl"))
    return CreditColumns(value=expected(trees, runs, reward), advantage=lay_trajectories(trees, runs, advantage))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

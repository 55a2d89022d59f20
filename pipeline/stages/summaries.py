"""Stage: attempts cut at token budgets and made to answer at once (the anytime summaries of BRPO).

A budget ends at the last step that fits into it, so what is kept is the attempt's own nodes, and a summary is as right
as what had been worked out by then. The words that force the answer are the prompt pack's; they are a step of their own
that nobody sampled. Scores named `budget` say which budget a step or a summary is of, for credit by BRPO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from pipeline.credit.inputs import SCORES
from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.report import Report
from pipeline.stages.earlier import BEFORE, ROLLOUTS
from pipeline.stages.growing import Grower, Rewards, Tasks
from pipeline.stages.varying import Case, cases_of, go_on, rate, sampled_tokens, write_variants
from pipeline.stages.work import Work, inputs
from pipeline.trees.fork import Attempt
from pipeline.trees.grow import Tree
from pipeline.variants.budgets import NAME, WITHIN, budget_scores
from pipeline.variants.intervene import tally

STAGE = "summaries"
VERSION = "1"
ORIGIN = "summary"
_READ = ("task", "tree", "node", "parent", "depth", "origin", "finish")


@dataclass(frozen=True, slots=True)
class SummaryConfig:
    """per_task: attempts summarised. support: budgets, in equal parts of the longest answer. summaries: answers to each
    attempt at each budget. summary_tokens: of one, at most.
    """

    per_task: int = 2
    support: int = 4
    summaries: int = 4
    summary_tokens: int = 118
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(slots=True)
class SummaryCase(Case):
    """An attempt at a budget.

    budget: in tokens. steps: how many of the attempt fit into it. forced: node of the words that ask for the answer.
    leaves: of the summaries.
    """

    budget: int = 0
    steps: int = 0
    forced: int | None = None
    leaves: list[int] = field(default_factory=list)

    @property
    def pivot(self) -> int:
        """The last node that is kept."""
        return self.source.steps[self.steps - 1] if self.steps else 0


def write_summaries(work: Work, config: SummaryConfig = SummaryConfig()) -> Report:
    """Summarise attempts at every budget.

    Raises:
        BadConfig: there are more budgets than an answer may have tokens, or the rollouts were cut at budgets already.
    """
    check_counts(config, per_task=1, support=1, summaries=1, summary_tokens=1)
    if config.support > work.suite.max_tokens:
        raise BadConfig(
            f"support is {config.support}, an answer of suite {work.suite.name} has {work.suite.max_tokens} tokens",
            remedy="give as many budgets or fewer",
        )
    for place in work.places(SCORES, stage=NAME):
        cut = work.store.entry(SCORES, place).inputs.get(ROLLOUTS)
        if cut is not None and cut == work.store.digest("nodes", work.place(ROLLOUTS, place.shard)):
            raise BadConfig(
                f"the rollouts of {work.suite.name}, round {work.round}, are cut at budgets already",
                remedy="run `branchpoint credit --method brpo`, or begin another --round",
            )
    budgets = [work.suite.max_tokens * part // config.support for part in range(1, 1 + config.support)]

    def vary(grower: Grower, trees: dict[str, Tree], rewards: Rewards, tasks: Tasks) -> list[SummaryCase]:
        attempts = cases_of(trees, rewards, case=Case, per_task=config.per_task, which="all")
        cases = [_at(one.tree, one.source, budget) for one in attempts for budget in budgets]
        _summarise(grower, [case for case in cases if case.dropped is None], config)
        return cases

    shards = write_variants(work, STAGE, config, version=VERSION, vary=vary, row=_row)
    for place in work.places("variants", stage=STAGE):
        _write_budgets(work, place.shard)
    variants = shards.read("variants")
    return shards.finish(
        cut=variants["dropped"].null_count(),
        pass_rate=rate(variants, "with"),
        tokens=sampled_tokens(shards),
    )


def _write_budgets(work: Work, shard: str) -> None:
    """Write which budget is whose, unless that is there."""
    store, here, at = work.store, work.place(STAGE, shard), work.place(NAME, shard)
    made_from = inputs(VERSION, **{STAGE: f"{store.digest('nodes', here)} {store.digest('variants', here)}"})
    if not store.is_current((SCORES,), at, made_from):
        nodes = store.read("nodes", [work.place(stage, shard) for stage in (*BEFORE[STAGE], STAGE)], columns=_READ)
        store.write(SCORES, budget_scores(nodes, store.read("variants", [here])), at, inputs=made_from)


def _at(tree: Tree, source: Attempt, budget: int) -> SummaryCase:
    """How much of an attempt fits into a budget."""
    ends = accumulate(tree[step]["token_count"] for step in source.steps)
    steps = sum(end <= budget for end in ends)
    return SummaryCase(tree, source, budget=budget, steps=steps, dropped=WITHIN if steps == len(source.steps) else None)


def _summarise(grower: Grower, cases: list[SummaryCase], config: SummaryConfig) -> None:
    """Force answers; budgets that end after the same step share what forces them, and are drawn for each."""
    pack, forced, used = grower.work.pack, {}, {}
    text = pack.cut + pack.header
    ids = grower.tokens.encode(text).tolist()
    sampling, asked = Sampling(config.temperature, config.top_p, config.summary_tokens), []
    for case in cases:
        place = (case.tree.tree, case.pivot)
        if place not in forced:
            forced[place] = case.tree.add(
                case.pivot, kind="step", origin=ORIGIN, agent="summariser", token_ids=ids, text=text.strip()
            )
        case.forced, first = forced[place], used.get(place, 0)
        used[place] = first + config.summaries
        requests = go_on(grower, case.tree, case.forced, sampling, samples=config.summaries, first=first)
        asked += [(case, request) for request in requests]
    entries = grower.run(request for _, request in asked)
    for case, request in asked:
        if request.key in entries:
            case.leaves.append(
                grower.add(case.tree, case.forced, entries[request.key], origin=ORIGIN, agent="summariser")
            )
    for case in cases:
        if not case.leaves:
            case.dropped = "no summary came"


def _row(case: SummaryCase, rewards: Rewards) -> dict[str, Any]:
    tried = tally([rewards.get((case.tree.tree, leaf)) for leaf in case.leaves])
    return {
        "variant": f"{case.tree.tree}/summary/{case.source.leaf}/{case.budget}",
        "kind": "summary",
        "pivot": None if case.forced is None else case.pivot,
        "first_node": case.leaves[0] if case.leaves else None,
        "budget": case.budget,
        "with_count": tried.count or None,
        "with_successes": tried.successes if tried.count else None,
    }

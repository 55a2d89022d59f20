"""Stage: R3L in an environment. A failed episode is reflected on, and made anew from the turn that is blamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pipeline.environments.anew import Anew, Laid
from pipeline.stages.reflecting import QUOTES, STAGE, VERSION, RetryCase, RetryConfig, reflect, retry_row
from pipeline.stages.replaying import Replays, said, write_replayed
from pipeline.stages.work import Shards, Work
from pipeline.variants.quoting import guidance_of, quotes
from pipeline.variants.restart import GUIDANCE, guided_messages

NEVER = 2**31
"""Actions in a row that cannot be taken and yet end no retry."""


@dataclass(slots=True)
class _Case(RetryCase):
    """source.steps are the turns of the episode."""

    retry: Anew | None = None

    @property
    def pivot(self) -> int:
        """What was seen before the turn that is made anew."""
        return self.way.before(self.kept)


def retry_episodes(work: Work, config: RetryConfig) -> Shards:
    """Reflect on episodes of the round and retry those whose reflection is valid.

    Raises:
        BadConfig: see `write_replayed`.
    """

    def vary(replays: Replays) -> list[_Case]:
        growth = replays.growth
        cases = replays.chosen(_Case, per_task=config.per_task, which=config.which)
        live = replays.go_again(cases)
        reflect(growth.grower, live, growth.tasks, config, question=replays.question)
        live = [case for case in live if case.dropped is None]
        replays.play(_begun(live, config))
        for case in live:
            replays.laid += _laid(case, replays)
        return cases

    rules = {"temperature": config.temperature, "top_p": config.top_p, "invalid": NEVER}
    return write_replayed(work, STAGE, config, version=VERSION, rules=rules, vary=vary, row=retry_row)


def _begun(cases: list[_Case], config: RetryConfig) -> Iterator[Anew]:
    """The guided episodes, to be played."""
    alike: Counter[tuple[str, bytes, str]] = Counter()
    for case in cases:
        case.kept = 0 if config.begin == "prompt" else case.reflection.pivot
        same = (case.tree.tree, case.tree.tokens(case.pivot).tobytes(), case.reflection.report)
        guide = partial(guided_messages, report=case.reflection.report)
        case.retry = Anew(case.way, case.kept, alike[same], guide=guide)
        alike[same] += 1
        yield case.retry


def _laid(case: _Case, replays: Replays) -> Iterator[Laid]:
    """Append a retry to its tree: the guided transcript below the report, and the distilled one at the pivot unless it
    quotes the guidance."""
    if case.retry.error is not None:
        case.dropped = said(case.retry.error)
        return
    guided = case.retry.lay(case.tree, case.answer, text=case.reflection.report)
    yield guided
    if _quotes(case, guided, question=replays.question(replays.growth.tasks[case.tree.task])):
        case.dropped = QUOTES
        return
    distilled = case.retry.distil(guided)
    case.first_node = distilled.turns[0]
    yield distilled


def _quotes(case: _Case, guided: Laid, *, question: str) -> bool:
    """Whether the new turns of a guided episode quote what it alone was told."""
    new = "\n".join(case.tree[node]["text"] for node in guided.turns[case.kept :])
    plain = [question, *case.texts, *(seen.shown for seen in case.retry.episode.seen)]
    return quotes(new, guidance=guidance_of(case.reflection.report, [GUIDANCE.substitute(report="")]), plain=plain)

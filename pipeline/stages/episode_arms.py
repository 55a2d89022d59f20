"""The two arms of an edit in an episode: continuations from the turn written anew and from the turn it replaces.

They are played to the end in an environment that is brought back there. Who proposed the edit is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.environments.anew import Anew
from pipeline.errors import BadConfig
from pipeline.stages.arms import FIRST_SAMPLE, Edited
from pipeline.stages.replaying import Replays, said
from pipeline.stages.varying import Case
from pipeline.variants.intervene import Proposal

MOST = 1 << 10
"""Continuations of a turn; draws of one are numbered so far from those of the next. Numbers of draws have 31 bits: room
for trees of a million nodes."""


@dataclass(slots=True)
class EditCase(Case):
    """A failed attempt on its way through check, edit and continuation."""

    proposal: Proposal | None = None
    edited: Edited | None = None

    @property
    def replaced(self) -> int:
        """The node of the step that is written anew."""
        return self.source.steps[self.proposal.first_error]


def check_most(continuations: int) -> None:
    """Refuse more continuations than a turn can have.

    Raises:
        BadConfig: they are more.
    """
    if continuations > MOST:
        raise BadConfig(f"continuations is {continuations}", remedy=f"give at most {MOST} of a turn of an episode")


def play_arms(replays: Replays, cases: Sequence[EditCase], *, continuations: int) -> None:
    """Play both arms of every edit that can be put in; an original turn that ended its episode has none.

    A draw that fails at the edit itself is left out where others went on: they hang on one edit, which has not failed.

    Args:
        cases: their ways were gone again. continuations: MOST at most.
    """
    with_edit = [_edited(case, continuations) for case in cases]
    replays.play(_flat(with_edit))
    without = [
        _original(case, continuations) if any(one.error is None for one in arm) else []
        for case, arm in zip(cases, with_edit, strict=True)
    ]
    replays.play(_flat(without))
    for case, edited, original in zip(cases, with_edit, without, strict=True):
        begun = [one for one in edited if one.went_on] or edited
        arms = [
            [laid for one in some if (laid := replays.hang(one, origin="continuation")) is not None]
            for some in (begun, original)
        ]
        if not arms[0]:
            case.dropped = said(begun[0].error)
            continue
        leaves = tuple(list(dict.fromkeys(laid.turns[-1] for laid in some)) for some in arms)
        case.edited = Edited(case.tree, case.replaced, arms[0][0].turns[0], leaves)


def _edited(case: EditCase, continuations: int) -> list[Anew]:
    wrong, text = case.proposal.first_error, case.proposal.text
    first = _first_sample(case, written=True)
    return [Anew(case.way, wrong, first + number, edit=text) for number in range(continuations)]


def _original(case: EditCase, continuations: int) -> list[Anew]:
    after = case.proposal.first_error + 1
    if after == len(case.source.steps):
        return []
    first = _first_sample(case, written=case.tree[case.replaced]["origin"] == "intervention")
    return [Anew(case.way, after, first + number) for number in range(continuations)]


def _first_sample(case: EditCase, *, written: bool) -> int:
    """Number of the first draw after a turn: that of the node after which it is written, or of the node that it is.

    So a draw hangs on a turn once: equal edits in one place share theirs, and equal turns of two episodes, or one that
    a continuation of another leads to, are continued apart. More nodes change none.
    """
    node = case.tree[case.replaced]["parent"] if written else case.replaced
    return FIRST_SAMPLE + MOST * (2 * node + written)


def _flat(arms: Iterable[list[Anew]]) -> Iterable[Anew]:
    return (one for arm in arms for one in arm)

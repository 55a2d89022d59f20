"""Judges in a round: those that a credit method rests on, and what no round can fill in. Knows no recipe."""

from __future__ import annotations

from pipeline.credit import METHODS, labelled, scored_by
from pipeline.judges import JUDGES
from pipeline.labels import LABELLERS
from pipeline.stages.step_labels import HUMAN
from trainers.scores import PASSES

GIVES = {score: name for name, judge in JUDGES.items() for score in judge().names}
"""The judge by what it scores."""
LOOPED = tuple(name for name in LABELLERS if name != HUMAN)
"""Labellers that a round can ask."""
_PASSED = {score for name, scores in PASSES.items() if name != "tuned_logprobs" for score in scores}


def judges_of(method: str, labeller: str) -> tuple[str, ...]:
    """Judges whose labels or scores a credit method reads."""
    label = [labeller] if labelled(METHODS[method]) and labeller in JUDGES else []
    return tuple(dict.fromkeys(label + [GIVES[name] for name in scored_by(METHODS[method]) if name in GIVES]))


def lacking(method: str, *, strategy: str = "") -> list[str]:
    """What a credit method reads and nothing in a round makes: scores that come from a file, trees of other roles."""
    given = {*GIVES, *_PASSED, *(("budget",) if strategy == "brpo" else ())}
    scores = [name for name in scored_by(METHODS[method]) if name not in given]
    return scores + [f"answers of the {role}" for role in METHODS[method].agents]

"""Judges in a round: those that a credit method rests on, and what no round can fill in. Knows no recipe."""

from __future__ import annotations

from pipeline.credit import METHODS, labelled, scored_by
from pipeline.credit.inputs import INPUTS
from pipeline.errors import BadConfig
from pipeline.judges import JUDGES
from pipeline.labels import LABELLERS
from pipeline.stages.credit import read_params
from pipeline.stages.step_labels import HUMAN
from pipeline.tasks.suites import Suite
from trainers.scores import PASSES

GIVES = {score: name for name, judge in JUDGES.items() for score in judge().names}
"""The judge by what it scores."""
LOOPED = tuple(name for name in LABELLERS if name != HUMAN)
"""Labellers that a round can ask."""
PLAYED = ("state", "step_reward")
"""Of INPUTS, what an environment alone fills in."""
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


def check_played(method: str, params: str, suite: Suite) -> None:
    """Refuse a credit method that reads what an environment says, on a suite without one.

    Args:
        method: key of METHODS.
        params: its parameters as a JSON object.
        suite: to be sampled.

    Raises:
        BadConfig: names what is lacking, or a parameter that the method has not.
    """
    needs = METHODS[method].under(read_params(method, params)).needs
    lacks = [INPUTS[name].column for name in needs if name in PLAYED]
    if lacks and suite.environment is None:
        raise BadConfig(
            f"{method} reads {', '.join(lacks)}, which suite {suite.name} has not without an environment",
            remedy="choose another method or recipe, or give the suite an [environment]",
        )

"""What a card says a reader should mind: what hygiene found and left out, and the known limits. Pure."""

from __future__ import annotations

from pipeline.hygiene.report import hygiene_section
from pipeline.publish.card_figures import rows_of
from pipeline.publish.facts import ReleaseFacts
from pipeline.publish.markdown import figures_table, names

_SEARCHED = (
    "Near duplicates, questions of benchmarks, secrets and personal data were searched for as the section on hygiene "
    "says, by their form alone: what has another form was not found."
)
_UNSEARCHED = (
    "Duplicate or nearly equal questions across splits were not searched for by this release, nor were secrets and "
    "personal data."
)
_LICENCES = "Licence and language are as the publisher stated them; the licence of the model was not examined. "
_LICENCES_KNOWN = f"{_LICENCES}Those of the questions are in the section on hygiene, where they were stated."
_LICENCES_UNKNOWN = f"{_LICENCES}Nor were those of the questions."
_LEFT = {
    "": "Their rows are here all the same.",
    "drop": "Tasks held to be withheld are not here: all their rows were left out, in every table.",
    "redact": "Tasks held to be withheld for personal data are here in words alone, with a mark in place of what was "
    "found and without tokens; all rows of the other ones were left out.",
}
"""What was done, by policy."""


def left_section(facts: ReleaseFacts) -> str:
    """What was found before the rows left the store, and what did not leave; empty where nobody looked."""
    found = facts.account.hygiene
    if found is None:
        return ""
    parts = [hygiene_section(found)]
    if found.withheld:
        parts.append(_LEFT[facts.account.policy])
    if facts.account.left:
        head = ("table", "rows left out", "rows with texts redacted", "rows without their tokens")
        rows = ((f"`{one.table}`", one.withheld, one.redacted, one.tokens_withheld) for one in facts.account.left)
        parts.append(figures_table(head, rows))
    return "\n\n".join(parts)


def limits_section(facts: ReleaseFacts) -> str:
    """What the rows do not say, or not for sure."""
    held_out = [config.name for config in facts.configs if rows_of(config, "held_out")]
    failed = sum(request.failed for request in facts.account.requests)
    limits = [
        "A verdict judges the final answer alone: a right answer may follow from wrong steps.",
        "`logprobs` are those of the policy that sampled the tokens; for any other policy the data are off-policy.",
        _UNSEARCHED if facts.account.hygiene is None else _SEARCHED,
        _LICENCES_UNKNOWN if facts.account.hygiene is None else _LICENCES_KNOWN,
        "Nobody has read the text through: it may be wrong, odd or offensive.",
        f"Held-out rows are in {names(held_out)} only." if held_out else "There are no held-out rows.",
    ]
    if {"credit", "step_labels"} & facts.names:
        limits.append("Credit and labels are estimates from the few leaves below each node, not truths about a step.")
    if any(origin.origin not in ("sample", "branch") for origin in facts.origins):
        limits.append(
            "Retries and interventions begin from failed attempts and some saw a hint: their pass rates "
            "are not the policy's."
        )
    if facts.judged < facts.leaves:
        lost = facts.leaves - facts.judged
        limits.append(f"{lost:,} of {facts.leaves:,} leaves have no reward; unknown is null, never 0.")
    if failed:
        limits.append(f"Requests that failed for good, and so left no nodes: {failed:,}.")
    return "## Known limits\n\n" + "\n".join(f"- {limit}" for limit in limits)

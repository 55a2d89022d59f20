"""What a card says that follows from a release's files alone: counts, repeats, digests. Pure."""

from __future__ import annotations

from pipeline.publish.facts import ConfigFacts, ReleaseFacts
from pipeline.publish.markdown import UNKNOWN, code, figures_table
from schemas.words import SPLITS


def said_of_files(facts: ReleaseFacts) -> dict[str, str]:
    """The parts of a card that follow from a release's files alone, by what they are about; empty ones left out."""
    parts = {
        "numbers": numbers_section(facts),
        "what is there more than once": repeats_section(facts),
        "digests": digests_section(facts),
    }
    return {name: text for name, text in parts.items() if text}


def numbers_section(facts: ReleaseFacts) -> str:
    """Counts of tasks, trees, tokens and leaves, and rows by config."""
    rows = [(f"tasks, {split}", count) for split, count in facts.tasks.items()]
    rows += [
        ("trees", facts.trees),
        ("nodes", facts.nodes),
        ("leaves", facts.leaves),
        ("leaves with a reward", facts.judged),
    ]
    rows += [("tokens in nodes", facts.tokens), ("of these sampled where they stand", facts.sampled_tokens)]
    parts = ["## Numbers", figures_table(("", "count"), rows)]
    if facts.origins:
        parts.append("Leaves by how they came about. The pass rate is the mean reward of the leaves that have one.")
        head = ("origin", "leaves", "with a reward", "cut at the token limit", "pass rate")
        rates = ((code(o.origin), o.leaves, o.judged, o.truncated, _rate(o.pass_rate)) for o in facts.origins)
        parts.append(figures_table(head, rates))
    counts = ((f"`{c.name}`", *(rows_of(c, split) for split in SPLITS), f"{c.file_bytes:,}") for c in facts.configs)
    parts.append(figures_table(("config", *(f"rows, {split}" for split in SPLITS), "bytes of Parquet"), counts))
    return "\n\n".join(parts)


def repeats_section(facts: ReleaseFacts) -> str:
    """What a reader would count twice; empty where nothing is there twice."""
    found, said = facts.repeats, []
    if found.distinct_pairs < found.pairs:
        said.append(
            f"Of the {found.pairs:,} rows of `pairs` {found.distinct_pairs:,} are distinct in their tokens. Two "
            "answers to one prompt may come from several sources (`source`), or from several nodes that read the same."
        )
    if found.answers < found.leaves:
        said.append(
            f"The {found.leaves:,} leaves that were sampled where they stand are of {found.answers:,} answers of the "
            "engine. Requests from one prefix with one sample number are one request (`request`), whichever step or "
            "stage asks, so equal prefixes share their branches and continuations."
        )
    if found.copies:
        said.append(
            f"The {found.copies:,} nodes with `copied_from`, of {found.copied_tokens:,} tokens, are there again: a "
            "retry under the task's own prompt repeats the steps of the guided one. They are not `sampled`, yet have "
            "`request`, `policy` and `logprobs`, which are those of the guided attempt."
        )
    return "\n\n".join(["## What is there more than once", "\n".join(f"- {text}" for text in said)]) if said else ""


def digests_section(facts: ReleaseFacts) -> str:
    """A digest a config."""
    rows = ((f"`{config.name}`", config.rows, f"`{config.digest}`") for config in facts.configs)
    return (
        "## Content digests\n\nA digest is of a config's rows over all "
        "splits, in order of task and key, whatever the files' encoding; `manifest.json` has the SHA-256 of each file."
        f"\n\n{figures_table(('config', 'rows', 'digest'), rows)}"
    )


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def rows_of(config: ConfigFacts, split: str) -> int:
    """Rows of a config in a split."""
    return sum(found.rows for found in config.splits if found.name == split)

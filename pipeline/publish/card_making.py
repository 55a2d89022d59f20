"""What a card says of its columns, how the rows were made, and what that cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.publish.facts import ReleaseFacts
from pipeline.publish.markdown import UNKNOWN, code, figures_table, names, prose
from schemas import TABLES
from schemas.base import ColumnDoc, column_docs, describe


def rows_section(facts: ReleaseFacts) -> str:
    """What a row of each config is, and its columns."""
    parts = ["## What a row is", "Splits go by task: whatever grew from a task is in the split of that task."]
    for config in facts.configs:
        table = TABLES[config.name]
        parts.append(f"### `{config.name}`\n\n{prose(describe(table))} Key: {names(table.primary_key())}.")
        parts.append(columns_table(column_docs(table)))
    return "\n\n".join(parts)


def columns_table(docs: Iterable[ColumnDoc]) -> str:
    """A config's columns, their types and units, and what null means."""
    rows = ((f"`{doc.name}`", f"`{doc.type}`", *_null_apart(doc.description, nullable=doc.nullable)) for doc in docs)
    return figures_table(("column", "type", "null means", "description"), rows)


def _null_apart(description: str, *, nullable: bool) -> tuple[str, str]:
    """What null means, and the rest of a column's description."""
    rest, _, null = description.partition("Null: ")
    if not nullable:
        return "never null", prose(description)
    return prose(null.strip().rstrip(".")) or "not stated", prose(rest.strip())


def making_section(facts: ReleaseFacts) -> str:
    """Requests, verifiers, methods and stages."""
    parts = ["## How it was made"]
    if facts.account.requests:
        parts.append(
            "Requests sent to the engine. A policy's fingerprint covers config, tokenizer and weights, then the "
            "engine's number format and version. The seed of a request is taken from its content."
        )
        head = ("stage", "engine", "policy", "sampling", "requests", "failed", "tokens sent", "tokens decoded")
        texts = [map(code, (r.stage, r.engine, r.policy, r.sampling)) for r in facts.account.requests]
        counts = [(r.requests, r.failed, r.prompt_tokens, r.decoded_tokens) for r in facts.account.requests]
        parts.append(figures_table(head, ((*text, *count) for text, count in zip(texts, counts, strict=True))))
    if facts.verifiers:
        parts.append("Verifiers, which compare the final answer of a leaf with the task's reference answer.")
        rows = ((code(v.name), code(v.version), v.verdicts, v.failed) for v in facts.verifiers)
        parts.append(figures_table(("verifier", "version", "verdicts", "of these without a reward"), rows))
    if facts.methods:
        parts.append("Credit methods and step labellers.")
        rows = ((code(m.name), f"`{m.config}`", prose(m.summary), prose(m.source)) for m in facts.methods)
        parts.append(figures_table(("name", "config", "what it does", "source"), rows))
    parts.append("Stages, and what each was made from. Where shards differ in an input, the digest is of all of them.")
    rows = (
        (
            code(stage.name),
            ", ".join(f"{table} {rows:,}" for table, rows in stage.rows.items()),
            ", ".join(f"{name} {code(value)}" for name, value in stage.inputs.items() if value),
        )
        for stage in facts.account.stages
    )
    parts.append(figures_table(("stage", "rows", "inputs"), rows))
    return "\n\n".join(parts)


def costs_section(facts: ReleaseFacts) -> str:
    """What the engine did for the round; empty where that is not known."""
    if not facts.account.costs:
        return ""
    head = ("stage", "requests paid", "reused", "tokens sent", "of these computed", "tokens decoded", "request seconds")
    rows = (
        (
            code(cost.stage),
            *(cost.paid, cost.reused, cost.prompt_tokens),
            UNKNOWN if cost.computed_tokens is None else cost.computed_tokens,
            cost.decoded_tokens,
            UNKNOWN if cost.seconds is None else f"{cost.seconds:,.1f}",
        )
        for cost in facts.account.costs
    )
    said = "Requests run side by side, so their seconds add up to more than the time that passed."
    return f"## What it cost\n\n{said}\n\n{figures_table(head, rows)}"

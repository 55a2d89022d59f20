"""The README of a dataset repository, made from facts handed in. Pure: reads no store and writes no file.

Text of tasks and models is untrusted here: it stands in a fence longer than any it holds, or in code spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.hygiene.report import hygiene_section
from pipeline.publish.facts import ConfigFacts, ReleaseFacts
from pipeline.publish.features import table_features
from schemas import TABLES
from schemas.base import column_docs, describe
from schemas.words import SPLITS

TAGS = ("branchpoint", "reasoning", "rollouts", "tree-search", "process-supervision", "credit-assignment")
TASK_CATEGORIES = ("text-generation", "reinforcement-learning")
DEFAULT = "nodes"
"""Config the viewer shows first, if the release has it."""

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
    "withhold": "Tasks held to be withheld are not here: all their rows were left out, in every table.",
    "redact": "Tasks held to be withheld for personal data are here in words alone, with a mark in place of what was "
    "found and without tokens; all rows of the other ones were left out.",
}
"""What was done, by policy."""
_LONGEST_TEXT = 600
_MOST_STEPS, _MOST_IDS = 24, 24
_UNKNOWN = "unknown"


def release_card(facts: ReleaseFacts) -> str:
    """The text of README.md: YAML that `datasets` loads by, then what a reader wants to know."""
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(**card_data(facts))
    sections = (_head, _rows, _making, _costs, _numbers, _repeats, _hygiene, _example, _limits, _loading, _digests)
    body = "\n\n".join(text for section in sections if (text := section(facts)))
    return str(DatasetCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body}\n"))


def card_data(facts: ReleaseFacts) -> dict[str, Any]:
    """The card's YAML as a value."""
    default = DEFAULT if DEFAULT in facts.names else facts.configs[0].name
    return {
        "license": facts.licence,
        "language": [facts.language],
        "pretty_name": f"Branchpoint {facts.suite}, round {facts.round}",
        "tags": list(TAGS),
        "task_categories": list(TASK_CATEGORIES),
        "size_categories": [size_category(sum(config.rows for config in facts.configs))],
        "configs": [
            {
                "config_name": config.name,
                "data_files": [
                    {"split": split.name, "path": f"{config.name}/{split.name}-*.parquet"} for split in config.splits
                ],
                **({"default": True} if config.name == default else {}),
            }
            for config in facts.configs
        ],
        "dataset_info": [
            {
                "config_name": config.name,
                "features": table_features(TABLES[config.name]),
                "splits": [
                    {"name": split.name, "num_bytes": split.bytes, "num_examples": split.rows}
                    for split in config.splits
                ],
                "download_size": config.file_bytes,
                "dataset_size": config.bytes,
            }
            for config in facts.configs
        ],
    }


def said_of_files(facts: ReleaseFacts) -> dict[str, str]:
    """The parts of a card that follow from a release's files alone, by what they are about; empty ones left out."""
    parts = {"numbers": _numbers(facts), "what is there more than once": _repeats(facts), "digests": _digests(facts)}
    return {name: text for name, text in parts.items() if text}


def size_category(rows: int) -> str:
    """The Hub's word for so many rows."""
    names, low = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"), ""
    for power, high in enumerate(names, start=3):
        if rows < 10**power:
            return f"{low}<n<{high}" if low else f"n<{high}"
        low = high
    return f"n>{low}"


def fence(text: str) -> str:
    """Untrusted text as a code block that nothing in it can close; what does not print is escaped."""
    shown = "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def code(text: str) -> str:
    """Untrusted text as a code span of one line."""
    shown = "".join(char if char.isprintable() else _escape(char) for char in text)
    if not shown.strip():
        return "(empty)"
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _prose(text: str) -> str:
    """Our own words in Markdown: outside code spans, what looks like HTML or emphasis is neither."""
    spans = re.split(r"(`[^`]*`)", text)
    spans[::2] = [span.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*") for span in spans[::2]]
    return "".join(spans)


def figures_table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table in Markdown; whole numbers with commas."""
    lines = [head, ["---"] * len(head), *([f"{c:,}" if isinstance(c, int) else c for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _head(facts: ReleaseFacts) -> str:
    policies = sorted({request.policy for request in facts.account.requests})
    by = f", drawn from {'the policy' if len(policies) == 1 else 'the policies'} {', '.join(map(code, policies))}"
    return (
        f"# Branchpoint {facts.suite}, round {facts.round}\n\n"
        f"Answers of a language model to the tasks of suite {code(facts.suite)}{by if policies else ''}, kept as trees "
        "of steps with their exact token ids. Each config is one table; rows of different tables belong together by "
        "`task`, `tree` and `node`. Text and ids are as they came: treat them as untrusted."
    )


def _rows(facts: ReleaseFacts) -> str:
    parts = ["## What a row is", "Splits go by task: whatever grew from a task is in the split of that task."]
    for config in facts.configs:
        table = TABLES[config.name]
        parts.append(f"### `{config.name}`\n\n{_prose(describe(table))} Key: {_names(table.primary_key())}.")
        docs = (
            (f"`{doc.name}`", f"`{doc.type}`", *_null_apart(doc.description, nullable=doc.nullable))
            for doc in column_docs(table)
        )
        parts.append(figures_table(("column", "type", "null means", "description"), docs))
    return "\n\n".join(parts)


def _names(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _null_apart(description: str, *, nullable: bool) -> tuple[str, str]:
    """What null means, and the rest of a column's description."""
    rest, _, null = description.partition("Null: ")
    if not nullable:
        return "never null", _prose(description)
    return _prose(null.strip().rstrip(".")) or "not stated", _prose(rest.strip())


def _making(facts: ReleaseFacts) -> str:
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
        rows = ((code(m.name), f"`{m.config}`", _prose(m.summary), _prose(m.source)) for m in facts.methods)
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


def _costs(facts: ReleaseFacts) -> str:
    """What the engine did for the round; empty where that is not known."""
    if not facts.account.costs:
        return ""
    head = ("stage", "requests paid", "reused", "tokens sent", "of these computed", "tokens decoded", "request seconds")
    rows = (
        (
            code(cost.stage),
            *(cost.paid, cost.reused, cost.prompt_tokens),
            _UNKNOWN if cost.computed_tokens is None else cost.computed_tokens,
            cost.decoded_tokens,
            _UNKNOWN if cost.seconds is None else f"{cost.seconds:,.1f}",
        )
        for cost in facts.account.costs
    )
    said = "Requests run side by side, so their seconds add up to more than the time that passed."
    return f"## What it cost\n\n{said}\n\n{figures_table(head, rows)}"


def _numbers(facts: ReleaseFacts) -> str:
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
    counts = ((f"`{c.name}`", *(_count(c, split) for split in SPLITS), f"{c.file_bytes:,}") for c in facts.configs)
    parts.append(figures_table(("config", *(f"rows, {split}" for split in SPLITS), "bytes of Parquet"), counts))
    return "\n\n".join(parts)


def _repeats(facts: ReleaseFacts) -> str:
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


def _hygiene(facts: ReleaseFacts) -> str:
    """What was found before the rows left the store, and what did not leave; empty where nobody looked."""
    found = facts.account.hygiene
    if found is None:
        return ""
    parts = [hygiene_section(found)]
    if found.withheld:
        parts.append(_LEFT[facts.account.private])
    if facts.account.left:
        head = ("table", "rows left out", "rows with texts redacted", "rows without their tokens")
        rows = ((f"`{one.table}`", one.withheld, one.redacted, one.tokens_withheld) for one in facts.account.left)
        parts.append(figures_table(head, rows))
    return "\n\n".join(parts)


def _rate(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3f}"


def _count(config: ConfigFacts, split: str) -> int:
    return sum(found.rows for found in config.splits if found.name == split)


def _example(facts: ReleaseFacts) -> str:
    if facts.example is None:
        return "## An example\n\nThere is no answer in this release."
    shown = facts.example
    lines = [f"task       {shown.task}", f"tree       {shown.tree}"]
    lines += [f"question   {_cut(shown.question)}", f"reference  {_cut(shown.answer)}"]
    for step in shown.steps[:_MOST_STEPS]:
        ids = " ".join(map(str, step.token_ids[:_MOST_IDS]))
        more = len(step.token_ids) - _MOST_IDS
        lines += ["", f"node {step.node} ({step.origin}){''.join(f'; {note}' for note in step.notes)}", _cut(step.text)]
        lines.append(f"token_ids  {ids}{f' and {more} more' if more > 0 else ''}")
    if len(shown.steps) > _MOST_STEPS:
        lines += ["", f"and {len(shown.steps) - _MOST_STEPS} more nodes"]
    reward = _UNKNOWN if shown.reward is None else f"{shown.reward:g}"
    parsed = "none" if shown.parsed_answer is None else _cut(shown.parsed_answer)
    lines += ["", f"verdict    reward {reward}, answer found: {parsed}"]
    return "## An example\n\nOne answer, from the prompt to the verdict.\n\n" + fence("\n".join(lines))


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} (and {more} more characters)"


def _limits(facts: ReleaseFacts) -> str:
    held_out = [config.name for config in facts.configs if _count(config, "held_out")]
    failed = sum(request.failed for request in facts.account.requests)
    limits = [
        "A verdict judges the final answer alone: a right answer may follow from wrong steps.",
        "`logprobs` are those of the policy that sampled the tokens; for any other policy the data are off-policy.",
        _UNSEARCHED if facts.account.hygiene is None else _SEARCHED,
        _LICENCES_UNKNOWN if facts.account.hygiene is None else _LICENCES_KNOWN,
        "Nobody has read the text through: it may be wrong, odd or offensive.",
        f"Held-out rows are in {_names(held_out)} only." if held_out else "There are no held-out rows.",
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


def _loading(facts: ReleaseFacts) -> str:
    first = DEFAULT if DEFAULT in facts.names else facts.configs[0].name
    split = next(config.splits[0].name for config in facts.configs if config.name == first)
    query = f"select count(*) from '{{folder}}/{first}/*.parquet'"
    if {"nodes", "verdicts"} <= facts.names:
        query = (
            "select origin, count(*) as verdicts, avg(reward) as pass_rate\n"
            "    from '{folder}/nodes/*.parquet' join '{folder}/verdicts/*.parquet' using (tree, node)\n"
            "    group by origin order by origin"
        )
    return f"""## How to load

`OWNER/NAME` stands for this repository; give the tag you mean as `revision`. If you have the folder already, set
`folder` to it.

```python
from huggingface_hub import snapshot_download

folder = snapshot_download("OWNER/NAME", repo_type="dataset")
```

```python
from datasets import load_dataset

rows = load_dataset(folder, "{first}", split="{split}")
```

```python
import polars as pl

rows = pl.read_parquet(f"{{folder}}/{first}/{split}-*.parquet")
```

```python
import duckdb

rows = duckdb.sql(f\"\"\"
    {query}
\"\"\").pl()
```"""


def _digests(facts: ReleaseFacts) -> str:
    rows = ((f"`{config.name}`", config.rows, f"`{config.digest}`") for config in facts.configs)
    return (
        "## Content digests\n\nA digest is of a config's rows over all "
        "splits, in order of task and key, whatever the files' encoding; `manifest.json` has the SHA-256 of each file."
        f"\n\n{figures_table(('config', 'rows', 'digest'), rows)}"
    )

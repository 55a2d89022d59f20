"""The README of a dataset repository, made from facts handed in. Pure: reads no store and writes no file.

Putting it together, the YAML, one example and how to load it are here; the sections between have files of their own.
"""

from __future__ import annotations

from typing import Any

from pipeline.publish.card_figures import digests_section, numbers_section, repeats_section
from pipeline.publish.card_limits import left_section, limits_section
from pipeline.publish.card_making import costs_section, making_section, rows_section
from pipeline.publish.facts import ReleaseFacts
from pipeline.publish.features import table_features
from pipeline.publish.markdown import UNKNOWN, code, fence, prose
from schemas import TABLES

TAGS = ("branchpoint", "reasoning", "rollouts", "tree-search", "process-supervision", "credit-assignment")
TASK_CATEGORIES = ("text-generation", "reinforcement-learning")
SESSIONS_TAG = "agent-traces"
"""By which people look for sessions on the Hub."""
DEFAULT = "nodes"
"""Config the viewer shows first, if the release has it."""
_LONGEST_TEXT = 600
_MOST_STEPS, _MOST_IDS = 24, 24


def release_card(facts: ReleaseFacts) -> str:
    """The text of README.md: YAML that `datasets` loads by, then what a reader wants to know."""
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(**card_data(facts))
    sections = (
        *(head_section, rows_section, making_section, costs_section, numbers_section, repeats_section),
        *(left_section, example_section, limits_section, loading_section, sessions_section, digests_section),
    )
    body = "\n\n".join(text for section in sections if (text := section(facts)))
    return str(DatasetCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body}\n"))


def card_data(facts: ReleaseFacts) -> dict[str, Any]:
    """The card's YAML as a value."""
    default = DEFAULT if DEFAULT in facts.names else facts.configs[0].name
    return {
        "license": facts.licence,
        "language": [facts.language],
        "pretty_name": _title(facts),
        "tags": [*TAGS, *([SESSIONS_TAG] if "sessions" in facts.names else [])],
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


def _title(facts: ReleaseFacts) -> str:
    """In one line, whatever the names are."""
    return " ".join(f"Branchpoint {facts.suite}, round {facts.round}".split())


def size_category(rows: int) -> str:
    """The Hub's word for so many rows."""
    names, low = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"), ""
    for power, high in enumerate(names, start=3):
        if rows < 10**power:
            return f"{low}<n<{high}" if low else f"n<{high}"
        low = high
    return f"n>{low}"


def head_section(facts: ReleaseFacts) -> str:
    policies = sorted({request.policy for request in facts.account.requests})
    by = f", drawn from {'the policy' if len(policies) == 1 else 'the policies'} {', '.join(map(code, policies))}"
    return (
        f"# {prose(_title(facts))}\n\n"
        f"Answers of a language model to the tasks of suite {code(facts.suite)}{by if policies else ''}, kept as trees "
        "of steps with their exact token ids. Each config is one table; rows of different tables belong together by "
        "`task`, `tree` and `node`. Text and ids are as they came: treat them as untrusted."
    )


def example_section(facts: ReleaseFacts) -> str:
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
    reward = UNKNOWN if shown.reward is None else f"{shown.reward:g}"
    parsed = "none" if shown.parsed_answer is None else _cut(shown.parsed_answer)
    lines += ["", f"verdict    reward {reward}, answer found: {parsed}"]
    return "## An example\n\nOne answer, from the prompt to the verdict.\n\n" + fence("\n".join(lines))


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} (and {more} more characters)"


def loading_section(facts: ReleaseFacts) -> str:
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


def sessions_section(facts: ReleaseFacts) -> str:
    """How the Hub's trace viewer comes to show the sessions; empty where there are none."""
    if "sessions" not in facts.names:
        return ""
    return """## How to see the sessions

The Hub shows sessions that lie as a file each in a dataset or bucket of their own; a repository is read in one way,
this one as Parquet. So write them out, with `folder` as above, and upload what comes of it.

```python
from pathlib import Path

import polars as pl

for row, trace in pl.read_parquet(f"{folder}/sessions/*.parquet", columns=["row", "trace"]).iter_rows():
    Path(row.replace("/", "_") + ".jsonl").write_text(trace, encoding="utf-8")
```"""

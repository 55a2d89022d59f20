"""The file of a suite whose tasks come from an import, so that every other command knows it by its name."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import BadConfig
from pipeline.store.layout import Place
from pipeline.tasks.suites import suite_names

SHARD_TASKS = 512
_TEXT = """# Written by `branchpoint import`, which its tasks come from; `branchpoint tasks` cannot read them.
name = "{name}"
description = "Imported."
prompts = "instruct"
separator = "\\n"
max_tokens = 1024
shard_tasks = {shard_tasks}

[[bands]]
name = "imported"
source = "imported"
"""


def ensure_suite(name: str, *, folder: Path) -> None:
    """Write the file of a suite of which there is none.

    Raises:
        BadConfig: it cannot be the name of a suite.
    """
    if name.endswith(".toml") or name in suite_names(folder):
        return
    Place(name, "all", "tasks", "check")
    file = folder / f"{name}.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(_TEXT.format(name=name, shard_tasks=SHARD_TASKS))
    except OSError as error:
        raise BadConfig(f"{file} cannot be written: {error.strerror}", remedy="set BRANCHPOINT_SUITES") from error

"""The command `pack`: its options, and how it is run. Imports nothing heavy itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import BadConfig
from pipeline.lineage.datasets import DATASETS

MAX_TOKENS = 8192
PACK: dict[str, dict[str, Any]] = {
    "dataset": {"metavar": "DATASET", "help": "|".join(DATASETS)},
    "folder": {"metavar": "DIR", "type": Path, "help": "to write packs.parquet and unpack.parquet into"},
    "--suite": {"metavar": "NAME", "required": True, "help": "whose rows"},
    "--round": {"metavar": "NAME", "default": "r0", "help": "default r0"},
    "--max-tokens": {"type": int, "default": MAX_TOKENS, "help": f"unique tokens of a pack; default {MAX_TOKENS:,}"},
}


def run_pack(options: argparse.Namespace) -> None:
    """Write the files, and print what packing saves."""
    from pipeline import show
    from pipeline.builders.pack_files import pack_table
    from pipeline.cli_options import check_choice
    from pipeline.cli_store import store_of

    check_choice("dataset", options.dataset, DATASETS)
    if options.max_tokens < 1:
        raise BadConfig(f"max_tokens is {options.max_tokens}", remedy="give at least 1")
    found = pack_table(
        store_of(options),
        options.dataset,
        options.folder,
        suite=options.suite,
        round=options.round,
        max_tokens=options.max_tokens,
    )
    if options.json:
        show.print_json(("path_tokens", "unique", "packs", "ratio"), [(*found, found.ratio)], to=sys.stdout)
    else:
        print(found)

"""The command `view`: which options it has, and how it is run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.cli_store import database_of, settings_of
from pipeline.errors import BadConfig

VIEW: dict[str, dict[str, Any]] = {
    "trees": {
        "metavar": "TREE",
        "nargs": "*",
        "help": "such as chain_sum/8x1/train/000000@r0; default those whose answers are most divided",
    },
    "--suite": {"metavar": "NAME", "help": "of this suite alone"},
    "--round": {"metavar": "NAME", "help": "of this round alone"},
    "--most": {"type": int, "metavar": "N", "default": 24, "help": "trees, where none is named; default 24"},
    "--out": {"type": Path, "metavar": "FILE", "default": Path("trees.html"), "help": "default trees.html"},
}


def run_view(options: argparse.Namespace) -> None:
    """Write the page, and print where it is.

    Raises:
        BadConfig: there is no such tree, or none is asked for.
        StoreFull: the page cannot be written.
    """
    from pipeline.lineage.at_hand import AtHand
    from pipeline.view.gather import gather_tree, telling_trees
    from pipeline.view.write import write_page

    if options.most < 1:
        raise BadConfig(f"most is {options.most}", remedy="give at least 1")
    at_hand = AtHand(settings_of(options))
    with database_of(options) as connection:
        of = {"suite": options.suite, "round": options.round, "most": options.most}
        names = options.trees or telling_trees(connection, **of)
        write_page([gather_tree(connection, name, at_hand=at_hand) for name in names], options.out)
    said = {"page": str(options.out), "trees": names}
    print(json.dumps(said) if options.json else f"{options.out}: {len(names)} trees; open it in a browser")

"""The store that the options of a command name, opened."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import BadConfig
from pipeline.settings import Settings
from pipeline.store.files import is_url

if TYPE_CHECKING:
    import duckdb

    from pipeline.store.store import Store


def settings_of(options: argparse.Namespace) -> Settings:
    """Settings, with the store that the options name."""
    settings = Settings.from_environment()
    return replace(settings, store=options.store) if options.store else settings


def store_of(options: argparse.Namespace) -> Store:
    """The store that the options name.

    Raises:
        BadConfig: there is none.
    """
    from pipeline.store.store import Store

    root = settings_of(options).store
    folder = str(root).removeprefix("file://")
    if not is_url(folder) and not Path(folder).is_dir():
        raise BadConfig(
            f"there is no store at {root}",
            remedy="run `branchpoint tasks` first, or name it with --store or BRANCHPOINT_STORE",
        )
    return Store(root)


def database_of(options: argparse.Namespace) -> duckdb.DuckDBPyConnection:
    """A database over the store that the options name.

    Raises:
        BadConfig: there is none.
    """
    from pipeline.store.query import open_database

    return open_database(store_of(options))

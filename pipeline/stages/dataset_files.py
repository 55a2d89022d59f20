"""The folder of a built dataset: Parquet files that `datasets` finds by themselves, and what was done, beside them.

Knows no recipe. Nothing is seen at the folder's place before it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadConfig
from pipeline.store.folders import new_folder
from pipeline.store.write import META

ABOUT = "dataset.json"
"""What was done to make the dataset; its presence says that the folder is one of ours."""


def about_dataset(folder: Path) -> dict[str, Any] | None:
    """What a dataset says of itself. None: there is nothing there.

    Raises:
        BadConfig: something else lies there, which is not ours to replace.
    """
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if (folder.is_dir() and not any(folder.iterdir())) or not os.path.lexists(folder):
            return None
        raise BadConfig(
            f"{folder} is there and is no dataset", remedy="move it away, or choose another --folder"
        ) from None


class DatasetWriter:
    """Takes rows by split and part, batch by batch. counts: rows by split."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.counts: dict[str, int] = {}
        self._open: dict[tuple[str, int], pq.ParquetWriter] = {}

    def add(self, split: str, part: int, rows: pl.DataFrame) -> None:
        """The next rows of a part; a part is a file."""
        if rows.is_empty():
            return
        table = _plain(rows.to_arrow())
        if (split, part) not in self._open:
            path = self.folder / f"{split}-{part:05d}"
            self._open[split, part] = pq.ParquetWriter(
                path,
                table.schema,
                compression="zstd",
                compression_level=3,
                write_page_index=True,
                use_content_defined_chunking=True,
            )
        self._open[split, part].write_table(table)
        self.counts[split] = self.counts.get(split, 0) + rows.height

    def finish(self, about: dict[str, Any]) -> None:
        """Close the files, each with what was done, and give them the names by which they are found."""
        for writer in self._open.values():
            writer.add_key_value_metadata({META.decode(): json.dumps(about)})
            writer.close()
        for split in self.counts:
            paths = [self.folder / f"{split}-{part:05d}" for of, part in sorted(self._open) if of == split]
            for number, path in enumerate(paths):
                path.rename(self.folder / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")
        self._open = {}

    def close(self) -> None:
        """Give up."""
        for writer in self._open.values():
            writer.close()


@contextmanager
def new_dataset(folder: Path) -> Iterator[DatasetWriter]:
    """A writer of a folder that takes its place once the block ends; an older dataset there is replaced.

    Raises:
        StoreFull: the disk refused; what was there is still there.
    """
    with new_folder(folder, setting="--folder") as part:
        (part / "data").mkdir()
        with closing(DatasetWriter(part / "data")) as writer:
            yield writer


def write_about(writer: DatasetWriter, about: dict[str, Any]) -> None:
    """Write what was done beside the files."""
    path = writer.folder.parent / ABOUT
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n")


def _plain(table: pa.Table) -> pa.Table:
    """The same without large types and views, as the Hub wants them."""
    return table.cast(pa.schema([pa.field(field.name, _plain_type(field.type)) for field in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain_type(field.type)) for field in kind])
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind

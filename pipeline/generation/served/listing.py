"""Where the servers are listed: in the engine's name, or in a file that is read again when it changes."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import BadConfig

DEFAULT = "http://127.0.0.1:8000"
"""The server that `branchpoint serve` starts."""
_REMEDY = "write one http://host:port a line; # begins a comment"
_log = logging.getLogger(__name__)


class Listing:
    """URLs with commas between them, or the path of a text file with one a line.

    While a run goes on, a file that cannot be read leaves the list as it was. A file without URLs is a list of none.

    Raises:
        BadConfig: a URL is none, or the file cannot be read or lists nothing.
    """

    def __init__(self, place: str):
        self._file = None if "://" in place else Path(place)
        self._stamp: tuple[int, int] | None = None
        self._urls: tuple[str, ...] = ()
        if self._file is None:
            self._urls = _urls(place.replace(",", "\n"), where=f"served:{place}")
        else:
            self._read(self._file)
        if not self._urls:
            raise BadConfig(f"{place or 'served:'} lists no server", remedy=_REMEDY)

    def urls(self) -> tuple[str, ...]:
        """What is listed now, in the order of the list."""
        if self._file is not None:
            try:
                self._read(self._file)
            except BadConfig as error:
                _log.warning("the servers stay as they were: %s", error)
        return self._urls

    def _read(self, file: Path) -> None:
        try:
            found = file.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._stamp = stamp
                self._urls = _urls(file.read_text(), where=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(
                f"the list of servers {file} cannot be read: {error}", remedy=f"{_REMEDY}, or give URLs"
            ) from error


def _urls(text: str, *, where: str) -> tuple[str, ...]:
    """URLs without the path that OpenAI's clients want at their end, each once.

    Raises:
        BadConfig: names the line.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        url = line.split("#")[0].strip().rstrip("/").removesuffix("/v1")
        if url:
            _check(url, where=f"{where}, line {number}")
            found[url] = None
    return tuple(found)


def _check(url: str, *, where: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:
        valid = False
    if not valid:
        raise BadConfig(f"{where}: {url!r} is no server", remedy=_REMEDY)

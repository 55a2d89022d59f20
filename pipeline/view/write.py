"""The page: the template with the trees in it as data. Nothing that a model wrote is ever read as markup or script."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

from pipeline.errors import StoreFull
from pipeline.show import json_value
from pipeline.view.gather import Json

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def page(trees: list[Json]) -> str:
    """The whole page. It loads nothing and may not: its policy allows its own style and script alone, by their hashes.

    Args:
        trees: as `gather_tree` gives them.
    """
    template = resources.files("pipeline.view").joinpath("page.html").read_text(encoding="utf-8")
    policy = f"default-src 'none'; script-src {_hash(_SCRIPT, template)}; style-src {_hash(_STYLE, template)}"
    data = json.dumps(json_value(trees), ensure_ascii=True, separators=(",", ":"))
    safe = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return template.replace("@POLICY@", policy).replace("@DATA@", safe)


def write_page(trees: list[Json], out: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        StoreFull: the disk refused.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page(trees), encoding="utf-8")
        os.replace(part, out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreFull(
            f"{out} cannot be written: {error.strerror}", remedy="name another file, or free the disk"
        ) from error


def _hash(of: re.Pattern[str], template: str) -> str:
    """The one inline block, as a content security policy names it."""
    (block,) = of.findall(template)
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"

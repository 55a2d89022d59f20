"""The commands `publish` and `verify`: show what would change, ask, print what came of it.

Imports nothing heavy itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from pipeline import show
from pipeline.cli_store import settings_of
from pipeline.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.publish.hub import Plan, Published

FAILED = 1
_LISTED = 12
PUBLISH: dict[str, dict[str, Any]] = {
    "repo": {"metavar": "REPO", "help": "OWNER/NAME on the Hub; made, private, where there is none"},
    "--suite": {"default": "chain_sum", "help": "name, or path of a .toml file; default chain_sum"},
    "--round": {"default": "r0", "help": "default r0"},
    "--policy": {"metavar": "NAME", "default": "", "help": "publish this policy in place of a round's dataset"},
    "--licence": {"default": "cc-by-4.0", "help": "identifier of the Hub's list; default cc-by-4.0"},
    "--language": {"default": "en", "help": "ISO 639 code of questions and answers; default en"},
    "--tag": {"metavar": "NAME", "default": "", "help": "of the release, never moved; default the next number"},
    "--public": {"action": "store_true", "help": "let everybody read it; without it the repository is private"},
    "--gate": {
        "choices": ("as_is", "auto", "manual"),
        "default": "as_is",
        "help": "readers must ask, and are let in at once (auto) or by you (manual); default as it is on the Hub",
    },
    "--withheld": {
        "choices": ("drop", "redact", "keep"),
        "default": "drop",
        "help": "what becomes of tasks that hygiene holds to be withheld; default drop",
    },
    "--dry-run": {"action": "store_true", "help": "show what would be uploaded, and stop"},
    "--yes": {"action": "store_true", "help": "upload without asking"},
}
VERIFY: dict[str, dict[str, Any]] = {
    "release": {"metavar": "FOLDER|REPO", "help": "folder of a release, or OWNER/NAME on the Hub"},
    "--revision": {"metavar": "TAG", "help": "of a repository; default its newest state"},
    "--no-rebuild": {"action": "store_true", "help": "compare files, card and numbers only; build no rows again"},
}


def run_publish(options: argparse.Namespace) -> int:
    """Stage, show, ask, upload; prints the link."""

    def agree(plan: Plan) -> bool:
        if not options.json:
            for line in plan_lines(plan):
                print(show.plain(line))
        if plan.settled or options.yes:
            return not options.dry_run
        return not options.dry_run and _confirmed(sys.stdin, sys.stdout)

    plan, published = _publish(options, agree)
    if options.json:
        print(json.dumps(_as_json(plan, published)))
    elif published is not None:
        done = f"{published.sent} files" if published.sent else "nothing: all of it was there"
        print(f"sent {done}; {published.url}, {'private' if published.private else 'public'}")
    else:
        print("nothing was uploaded")
    return 0


def _publish(options: argparse.Namespace, agree: Callable[[Plan], bool]) -> tuple[Plan, Published | None]:
    settings = settings_of(options)
    if options.policy:
        from pipeline.publish.policy import PolicyConfig, publish_policy

        config = PolicyConfig(options.policy, options.repo, options.public, options.tag, options.licence, options.gate)
        return publish_policy(settings, config, agree=agree)
    from pipeline.stages.publish import PublishConfig, write_publication
    from pipeline.stages.work import make_work

    config = PublishConfig(
        options.repo, options.public, options.tag, options.licence, options.language, options.withheld, options.gate
    )
    work = make_work(settings, suite=options.suite, round=options.round)
    made = write_publication(work, config, agree=agree)
    return made.plan, made.published


def plan_lines(plan: Plan) -> list[str]:
    """What an upload would do, for people."""
    state = ("private" if plan.private else "PUBLIC") + (f", gated ({plan.gated})" if plan.gated else "")
    lines = [f"{plan.repo}: {state}, {'is there' if plan.exists else 'would be made'}"]
    if plan.before:
        lines.append(f"holds {plan.before}")
    new = sorted(plan.new.items(), key=lambda item: -item[1])
    lines += [f"  + {name}  {_bytes(size)}" for name, size in new[:_LISTED]]
    lines += [f"  + and {len(new) - _LISTED} more files"] if len(new) > _LISTED else []
    lines += [f"  - {name}" for name in plan.gone[:_LISTED]]
    lines += [f"  - and {len(plan.gone) - _LISTED} more files"] if len(plan.gone) > _LISTED else []
    lines.append(
        f"{len(new)} files to send, at most {_bytes(sum(plan.new.values()))} (parts the Hub has are not sent), "
        f"{len(plan.gone)} to remove, {plan.same} there already"
    )
    if plan.gating and plan.exists:
        lines.append(f"the gate there would become {plan.gated}")
    lines.append(f"tag {plan.tag}{', which it has' if plan.tagged else ''}")
    return lines


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _confirmed(asked: TextIO, to: TextIO) -> bool:
    """Whether the person at the keyboard says yes.

    Raises:
        BadConfig: nobody is there.
    """
    if not asked.isatty():
        raise BadConfig("nobody is there to say yes", remedy="give --yes to upload, or --dry-run to look only")
    print("upload? [y/N] ", end="", file=to, flush=True)
    return asked.readline().strip().lower() in ("y", "yes")


def _as_json(plan: Plan, published: Published | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {"plan": asdict(plan), "published": None if published is None else asdict(published)}


def run_verify(options: argparse.Namespace) -> int:
    """Print a line for everything compared; 1 where something differs."""
    folder = Path(options.release)
    if folder.exists():
        return _verify(folder, options)
    if options.release.count("/") != 1 or options.release.startswith((".", "/")):
        raise BadConfig(f"there is no folder {options.release}", remedy="correct it, or name a repository OWNER/NAME")
    from pipeline.publish.folder import Folder
    from pipeline.publish.hub import Hub

    with TemporaryDirectory(prefix="branchpoint-verify-") as place:
        Hub().fetch(options.release, Path(place), revision=options.revision)
        Folder(Path(place)).drop_others()
        return _verify(Path(place), options)


def _verify(path: Path, options: argparse.Namespace) -> int:
    from pipeline.publish.check import Compared, check_release
    from pipeline.publish.folder import Folder
    from pipeline.publish.rebuild import check_rebuilt

    folder, failed = Folder(path), 0
    for check in (check_release, *(() if options.no_rebuild else (check_rebuilt,))):
        if failed:
            break
        for found in check(folder):
            failed += not found.passed
            if options.json:
                show.print_json(Compared._fields, [found], to=sys.stdout)
            else:
                print(show.plain(f"{'ok' if found.passed else 'FAILED':<6}  {found.what:<44}  {found.detail}"))
    return FAILED if failed else 0

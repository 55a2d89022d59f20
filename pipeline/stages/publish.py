"""Stage: the release of a round, or a policy, on the Hub. Off unless a repository is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import BadConfig
from pipeline.publish.check import refuse_unsound
from pipeline.publish.folder import Folder, local_release
from pipeline.publish.hub import Gate, Hub, Plan, Published
from pipeline.publish.source import Withheld
from pipeline.report import Report
from pipeline.stages.release import ReleaseConfig, release_folder, write_release
from pipeline.stages.work import Work

STAGE = "publish"


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """repo: OWNER/NAME on the Hub; nothing is published without. public: let everybody read it. tag: of the release;
    the next number where it is empty. licence: identifier of the Hub's list. language: ISO 639 code of questions and
    answers. withheld: as of a release. gate: readers must ask, and are let in at once (auto) or by a person (manual);
    as_is: as the repository has it.
    """

    repo: str = ""
    public: bool = False
    tag: str = ""
    licence: str = "cc-by-4.0"
    language: str = "en"
    withheld: Withheld = "drop"
    gate: Gate = "as_is"


@dataclass(frozen=True, slots=True)
class Publication:
    """What came of it. published: None where nothing was to be uploaded, or it was declined."""

    report: Report
    plan: Plan | None
    published: Published | None

    @property
    def done(self) -> tuple[Published, ...]:
        """What was published: one, or none."""
        return (self.published,) if self.published else ()


def write_publication(
    work: Work, config: PublishConfig, *, hub: Hub = Hub(), agree: Callable[[Plan], bool] = lambda plan: True
) -> Publication:
    """Stage the round's release, check it, and upload what the repository does not have.

    Args:
        agree: is shown what would be uploaded; nothing is where it says no.

    Raises:
        BadConfig, BadTable: as `write_release`; or the release's files are not what its card says.
        HubRefused: as `Hub.plan` and `Hub.upload`.
    """
    started = time.monotonic()
    if not config.repo:
        return Publication(
            _report(work, started, None, notes=("no repository is named: nothing was published",)), None, None
        )
    if "/" not in config.repo:
        raise BadConfig(f"{config.repo!r} is no repository", remedy="write OWNER/NAME")
    write_release(work, ReleaseConfig(config.licence, config.language, config.withheld))
    folder = Folder(release_folder(work))
    refuse_unsound(folder)
    local = local_release(folder)
    plan = hub.plan(config.repo, local, private=not config.public, tag=config.tag, gate=config.gate)
    if not agree(plan):
        return Publication(_report(work, started, None, notes=("nothing was uploaded",)), plan, None)
    published = hub.upload(plan, local)
    return Publication(_report(work, started, published), plan, published)


def _report(work: Work, started: float, published: Published | None, *, notes: tuple[str, ...] = ()) -> Report:
    report = Report(STAGE, work.suite.name, work.round, notes=notes, seconds=time.monotonic() - started)
    if published is not None:
        report.numbers = {"files_sent": published.sent, "bytes_sent": published.bytes}
        report.fresh, report.shards, report.digest = int(published.sent > 0), 1, published.commit
        report.notes = (f"{published.url}, {'private' if published.private else 'public'}",)
    return report

"""The release: a folder as the Hub wants it, and, where a repository is named, its place on the Hub."""

from collections.abc import Iterator

import dagster as dg

from assets.annotate import agreement, credits_of_every_round, judges, labels
from assets.build import best_answers, pairs, patches, prm_steps, rl_prompts, sessions, unpaired
from assets.generate import verdicts
from assets.resources import Workplace
from assets.score import scores
from assets.tables import filled, launch_form, result, round_asset
from assets.train import evals
from pipeline.publish.hub import Published
from pipeline.stages.hygiene import HygieneConfig, write_hygiene
from pipeline.stages.publish import PublishConfig, write_publication
from pipeline.stages.release import ReleaseConfig, write_release

Hygiene, Release, Publish = launch_form(HygieneConfig), launch_form(ReleaseConfig), launch_form(PublishConfig)
MUST_BE_NONE = {"no_benchmark_questions": "withheld_benchmark", "no_secrets": "secrets"}
"""Checks of hygiene, each with the number that must be 0. A run stops there, for a person to look; a release that is
asked for by itself goes on, and leaves out what is withheld."""


@round_asset(
    deps=[verdicts, *labels, *judges, *scores],
    group="publish",
    kinds={"parquet"},
    owners=["team:data"],
    tables=("hygiene",),
    checks=[dg.AssetCheckSpec(name=name, asset="hygiene", blocking=True) for name in MUST_BE_NONE],
)
def hygiene(context: dg.AssetExecutionContext, config: Hygiene, workplace: Workplace) -> dg.MaterializeResult:
    """Near-duplicates, questions of benchmarks, secrets and personal data in what the round holds."""
    work = workplace.open(context)
    report = write_hygiene(work, filled(HygieneConfig, config))
    done = result(work, report, tables=("hygiene",))
    found = [
        dg.AssetCheckResult(
            passed=not report.numbers[number], check_name=name, metadata={"found": report.numbers[number]}
        )
        for name, number in MUST_BE_NONE.items()
    ]
    return done._replace(check_results=[*done.check_results, *found])


@round_asset(
    deps=[
        *(pairs, patches, prm_steps, unpaired, rl_prompts, sessions, best_answers, agreement, hygiene),
        *(*credits_of_every_round, *labels, *evals),
    ],
    group="publish",
    kinds={"huggingface", "parquet"},
    owners=["team:data"],
)
def release(context: dg.AssetExecutionContext, config: Release, workplace: Workplace) -> dg.MaterializeResult:
    """A dataset folder with every table, its card and its digests, which `datasets.load_dataset` opens."""
    work = workplace.open(context)
    return result(work, write_release(work, filled(ReleaseConfig, config)))


@round_asset(
    "release",
    "hub",
    deps=[release],
    group="publish",
    kinds={"huggingface"},
    owners=["team:data"],
    output_required=False,
)
def published(
    context: dg.AssetExecutionContext, config: Publish, workplace: Workplace
) -> Iterator[dg.MaterializeResult]:
    """The release on the Hub, private unless told otherwise; nothing unless `repo` names a repository."""
    work = workplace.open(context)
    made = write_publication(work, filled(PublishConfig, config))
    yield from (linked(result(work, made.report), found) for found in made.done)


def linked(done: dg.MaterializeResult, found: Published) -> dg.MaterializeResult:
    """The same with the place on the Hub."""
    place = {
        "link": dg.MetadataValue.url(found.url),
        "commit": found.commit,
        "tag": found.tag,
        "private": found.private,
    }
    return dg.MaterializeResult(metadata={**done.metadata, **place}, data_version=done.data_version)

"""Suites: a named set of tasks with its verifier, prompts and segmentation, one TOML file each."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pipeline.errors import BadConfig

SUITES = ("chain_sum",)


@dataclass(frozen=True, slots=True)
class Band:
    """Tasks of one difficulty from one source; sizes and seeds are by split."""

    name: str
    source: str
    dataset: str
    parameters: dict[str, Any]
    sizes: dict[str, int]
    seeds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Suite:
    name: str
    description: str
    prompts: str
    separator: str
    bands: tuple[Band, ...]


def load_suite(name: str) -> Suite:
    if name not in SUITES:
        raise BadConfig(f"suite {name!r} does not exist", remedy=f"choose one of {', '.join(SUITES)}")
    fields = tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text())
    bands = tuple(Band(**band) for band in fields.pop("bands"))
    return Suite(**fields, bands=bands)


def suite_questions(suite: Suite, *, size: int) -> list[str]:
    import reasoning_gym

    return [
        reasoning_gym.create_dataset(band.dataset, seed=seed, size=size, **band.parameters)[index]["question"]
        for band in suite.bands
        for seed in band.seeds.values()
        for index in range(size)
    ]

"""Tasks of reasoning-gym by dataset name, parameters and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import BadConfig
from pipeline.tasks.arithmetic import read_sum, reference_steps
from pipeline.tasks.row import TaskRow
from schemas.words import SPLITS

VERIFIER = "reasoning_gym"
MORE = {"train": "give sizes and seeds a train", "held_out": "give sizes and seeds a held_out"}
"""What to change in a band that has no task of a split."""


@dataclass(frozen=True, slots=True)
class Options:
    """dataset and its parameters; sizes and seeds by split."""

    dataset: str
    sizes: dict[str, int]
    seeds: dict[str, int]
    parameters: dict[str, Any] = field(default_factory=dict)


def read(options: Options, *, base: object = None) -> Iterator[TaskRow]:
    """The tasks of a band. Sums get their worked solution as the reference.

    Raises:
        BadConfig: reasoning-gym has no such dataset, or refuses the parameters.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if options.dataset not in DATASETS:
        raise BadConfig(
            f"reasoning-gym has no dataset {options.dataset!r}", remedy="see reasoning_gym.factory.DATASETS"
        )
    if unknown := sorted(options.sizes.keys() - set(SPLITS)):
        raise BadConfig(
            f"reasoning-gym {options.dataset}: sizes name a split {unknown[0]!r}",
            remedy=f"the splits are {' and '.join(SPLITS)}",
        )
    for split, size in options.sizes.items():
        if size == 0:
            continue
        try:
            tasks = reasoning_gym.create_dataset(
                options.dataset, seed=options.seeds[split], size=size, **options.parameters
            )
        except (TypeError, AssertionError, KeyError) as error:
            raise BadConfig(
                f"reasoning-gym {options.dataset}: {error}", remedy="correct sizes, seeds or parameters of the band"
            ) from error
        for index in range(size):
            task = tasks[index]
            problem = read_sum(task["question"]) if options.dataset == "chain_sum" else None
            yield TaskRow(
                split=split,
                question=task["question"],
                answer=str(task["answer"]),
                reference_solution="\n".join(reference_steps(problem)) if problem else None,
                info=json.dumps({"dataset": options.dataset, "metadata": task["metadata"]}, default=str),
            )

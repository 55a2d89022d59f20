"""Vectors of implicit process rewards: one group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pipeline.credit.implicit_prm import ImplicitPrmParams, implicit_prm
from pipeline.credit.ragged import ragged, split
from pipeline.golden.nodes import chosen

_PARAMS = tuple(field.name for field in fields(ImplicitPrmParams))


def answer(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the group and the tokens of its responses."""
    group = given["group"]
    model = ragged(one["logprobs_prm"] for one in group)
    found = implicit_prm(
        model,
        ragged(one["logprobs_reference"] for one in group),
        outcomes=np.array([one["outcome"] for one in group], np.float64),
        groups=np.zeros(len(group), np.int64),
        params=ImplicitPrmParams(**chosen(params, *_PARAMS)),
    )
    return {
        "token_rewards": split(found.token_rewards, model.offsets),
        "prm_ce_loss": found.loss,
        "pairwise_accuracy": found.accuracy[0],
        "returns": split(found.returns, model.offsets),
        "advantages": split(found.advantages, model.offsets),
    }

"""Step labellers, by name."""

from collections.abc import Callable

import polars as pl

from pipeline.credit.groundedprm import GroundedprmParams
from pipeline.labels.given import GIVEN
from pipeline.labels.groundedprm import groundedprm
from pipeline.labels.intervention import intervention
from pipeline.labels.monte_carlo import MonteCarloParams, monte_carlo
from pipeline.labels.tool import tool

LABELLERS: dict[str, Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]] = {
    "monte_carlo": monte_carlo,
    "intervention": intervention,
    "tool": tool,
    "groundedprm": groundedprm,
    **GIVEN,
}
"""Take nodes and verdicts, and parameters by `params` where PARAMS has a class of them."""

PARAMS: dict[str, type] = {"monte_carlo": MonteCarloParams, "groundedprm": GroundedprmParams}

UNVERIFIED = ("tool", *GIVEN)
"""Labellers that no verdict of a verifier enters."""

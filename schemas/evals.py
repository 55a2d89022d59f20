"""The table of evaluations."""

import dataframely as dy

from schemas.base import Table


class Evals(Table):
    """A figure measured of a policy, a credit method or a labeller on a suite."""

    policy = dy.String(
        primary_key=True, description="What was measured: a policy, credit/<method>, step_labels/<labeller> or plan."
    )
    suite = dy.String(primary_key=True, description="Suite it was measured on.")
    split = dy.String(primary_key=True, description="Split it was measured on.")
    metric = dy.String(
        primary_key=True,
        description="pass@1, pass@8, oracle_auc, zero_share, ...; spearman:<other> is a rank correlation.",
    )
    value = dy.Float64(nullable=True, description="The figure. Null: undefined on these data.")
    low = dy.Float64(nullable=True, description="Lower end of the 95 % interval. Null: none computed.")
    high = dy.Float64(nullable=True, description="Upper end of it. Null: none computed.")
    count = dy.Int64(min=0, description="Tasks, attempts or steps behind the figure.")

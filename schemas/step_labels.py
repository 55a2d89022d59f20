"""The table of step labels."""

import dataframely as dy

from schemas.base import Table


class StepLabels(Table):
    """What a labeller says of a step: an entry of an immutable ledger."""

    task = dy.String(description="Task the tree grew from.")
    tree = dy.String(primary_key=True, description="Tree the node belongs to.")
    node = dy.Int32(primary_key=True, min=0, description="The step, or the question.")
    labeller = dy.String(primary_key=True, description="Key of LABELLERS.")
    version = dy.String(primary_key=True, description="Number of the entry, a slash, and who spoke.")
    hard = dy.Bool(nullable=True, description="Can still succeed (or is right). Null: undecided.")
    soft = dy.Float32(nullable=True, min=0, max=1, description="Estimated chance of success. Null: unknown.")
    k = dy.Int32(
        nullable=True,
        min=0,
        description="Continuations drawn from the step, or readable answers of a judge. Null: neither.",
    )
    successes = dy.Int32(nullable=True, min=0, description="Right ones, or answers that find it right. Null: as k.")
    low = dy.Float32(nullable=True, min=0, max=1, description="Lower end of the 95 % Wilson interval. Null: no sample.")
    high = dy.Float32(nullable=True, min=0, max=1, description="Upper end of it. Null: no sample.")
    rationale = dy.String(nullable=True, description="The labeller's reasons. Null: none given.")
    unread = dy.Int32(
        nullable=True,
        min=0,
        description="Answers of a judge that could not be read, each at one of its steps. Null: not a judge's.",
    )
    tool_exit = dy.Int32(nullable=True, description="Exit code of the tool that judged. Null: no tool.")
    tokens = dy.Int32(nullable=True, min=0, description="Tokens decoded for the label. Null: none.")
    created = dy.Datetime(
        nullable=True,
        time_zone="UTC",
        time_unit="us",
        description="When somebody outside gave it. Null: computed here, from the inputs that the file names.",
    )

"""The table of credit."""

import dataframely as dy

from schemas.base import Table


class Credit(Table):
    """A node under a credit method."""

    task = dy.String(description="Task the tree grew from.")
    tree = dy.String(primary_key=True, description="Tree the node belongs to.")
    node = dy.Int32(primary_key=True, min=0, description="Number in the tree; parents come first.")
    method = dy.String(primary_key=True, description="Key of METHODS.")
    value = dy.Float32(nullable=True, description="Expected reward at the node. Null: the method has none.")
    advantage = dy.Float32(nullable=True, description="What the step moved, in the method's units. Null: unknown.")
    weight = dy.Float32(nullable=True, description="Weight of the node in the loss. Null: 1.")
    mask = dy.Bool(nullable=True, description="False: the method leaves the node out of the loss. Null: kept.")
    token_advantages = dy.List(
        dy.Float32(nullable=True), nullable=True, description="As long as token_ids. Null: advantage on every token."
    )
    degenerate = dy.Bool(
        nullable=True,
        description="True: all judged leaves of the tree that the method sees have one reward, so that their "
        "comparison says nothing. Null: none is judged.",
    )

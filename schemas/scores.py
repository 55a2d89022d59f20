"""The table of scores: what models, judges and people say of nodes, as input of credit methods."""

import dataframely as dy

from schemas.base import Table


class Scores(Table):
    """What a model, a judge or a person says of a node under a name, for credit methods to read."""

    task = dy.String(description="Task the tree grew from.")
    tree = dy.String(primary_key=True, description="Tree of the node.")
    node = dy.Int32(primary_key=True, min=0, description="Number in the tree.")
    name = dy.String(primary_key=True, description="What is said: key of pipeline.credit.inputs.INPUTS, or pruned.")
    value = dy.Float64(nullable=True, description="A number for the node. Null: none is said of it.")
    token_values = dy.List(
        dy.Float32(nullable=True), nullable=True, description="A number a token, as long as token_ids. Null: none."
    )
    text = dy.String(nullable=True, description="What is no number: JSON. Null: none.")

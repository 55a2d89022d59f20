"""The table of variants: retries and interventions."""

import dataframely as dy

from schemas.base import Table, one_of


class Variants(Table):
    """A failed attempt made anew from some point on."""

    task = dy.String(description="Task the tree grew from.")
    variant = dy.String(primary_key=True, description="tree/kind/number of the source leaf.")
    tree = dy.String(description="Tree that holds source and variant.")
    kind = dy.String(regex=one_of(("retry", "intervention")), description="retry or intervention.")
    source_leaf = dy.Int32(min=0, description="Leaf of the failed attempt.")
    pivot = dy.Int32(nullable=True, min=0, description="Node after which the variant departs. Null: dropped before.")
    first_node = dy.Int32(nullable=True, min=0, description="First new node at the pivot. Null: dropped before.")
    blamed_step = dy.Int32(nullable=True, min=0, description="0-based step held responsible. Null: none named.")
    report_node = dy.Int32(nullable=True, min=0, description="Node with the reflection or critique. Null: none came.")
    edit = dy.String(nullable=True, description="Step written in place of the blamed one. Null: not an intervention.")
    author = dy.String(description="policy, tool or person.")
    dropped = dy.String(nullable=True, description="Why it went no further. Null: it was carried out.")
    with_count = dy.Int32(nullable=True, min=0, description="Judged continuations of the variant. Null: none.")
    with_successes = dy.Int32(nullable=True, min=0, description="Right ones among them. Null: none.")
    without_count = dy.Int32(
        nullable=True, min=0, description="Judged continuations of the original step, same prefix. Null: none drawn."
    )
    without_successes = dy.Int32(nullable=True, min=0, description="Right ones among them. Null: none drawn.")
    effect = dy.Float32(
        nullable=True, min=-1, max=1, description="Success rate with less without. Null: an arm is missing."
    )

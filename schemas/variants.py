"""The table of variants: attempts made anew from some point on, and what came of it."""

import dataframely as dy

from schemas.base import Table, one_of

KINDS = ("retry", "intervention", "regeneration", "refinement", "summary")
"""What a variant is.

retry         reflected on, and tried again in view of the report (R3L)
intervention  one step written anew, with continuations of it and of the original (InT, or by hand)
regeneration  cut before its first flawed step and drawn anew from there (Search-R2)
refinement    checked by a second role and answered anew by a third (MALT)
summary       cut at a token budget and made to answer at once (BRPO)
"""


class Variants(Table):
    """An attempt made anew from some point on."""

    task = dy.String(description="Task the tree grew from.")
    variant = dy.String(primary_key=True, description="tree/kind/source leaf, and more where it has several.")
    tree = dy.String(description="Tree that holds source and variant.")
    kind = dy.String(regex=one_of(KINDS), description="retry, intervention, regeneration, refinement or summary.")
    source_leaf = dy.Int32(min=0, description="Leaf of the attempt it was made from.")
    pivot = dy.Int32(nullable=True, min=0, description="Node after which the variant departs. Null: dropped before.")
    first_node = dy.Int32(nullable=True, min=0, description="First new node at the pivot. Null: dropped before.")
    blamed_step = dy.Int32(nullable=True, min=0, description="0-based step held responsible. Null: none named.")
    report_node = dy.Int32(
        nullable=True, min=0, description="Node with the reflection, critique or check. Null: none came."
    )
    edit = dy.String(nullable=True, description="Step written in place of the blamed one. Null: not an intervention.")
    author = dy.String(regex=one_of(("policy", "tool", "person")), description="policy, tool or person.")
    parsed = dy.String(
        nullable=True,
        regex=one_of(("exact", "repaired", "failed")),
        description="Whether the JSON asked for was read as it stood, after repair, or not. Null: none was asked for.",
    )
    score = dy.Float32(
        nullable=True, min=0, max=1, description="Chance a discriminator gives the source to be right. Null: not asked."
    )
    budget = dy.Int32(nullable=True, min=0, description="Tokens of the source that were kept. Null: not by budget.")
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
    effect_low = dy.Float32(
        nullable=True, min=-1, max=1, description="Lower end of its 95 % interval (Newcombe). Null: no effect."
    )
    effect_high = dy.Float32(nullable=True, min=-1, max=1, description="Upper end of it. Null: no effect.")

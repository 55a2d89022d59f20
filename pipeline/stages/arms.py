"""The two arms of an edit: continuations of a step written anew and of the step it replaces, after the same prefix.

Nobody is asked about the attempt here, and no continuation sees more than the tokens before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.generation.engine import Request, Sampling
from pipeline.stages.growing import Grower, Rewards
from pipeline.stages.varying import go_on
from pipeline.trees.grow import Tree
from pipeline.variants.effect import effect_of
from pipeline.variants.intervene import Continuations, tally

FIRST_SAMPLE = 1 << 17
"""Samples are numbered from here on, so that none is a draw that the tree has from the same prefix: what shows which
step is worth an edit must not tell its effect too."""


@dataclass(slots=True)
class Edited:
    """An edit in the place of a step.

    original: node of the step it replaces. node: of the edit.
    leaves:   of the continuations of the edit, and of the original; none of an original that ended the attempt.
    """

    tree: Tree
    original: int
    node: int
    leaves: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    @property
    def pivot(self) -> int:
        """The node after which both arms depart."""
        return self.tree[self.node]["parent"]


def put_edit(grower: Grower, tree: Tree, original: int, text: str) -> Edited:
    """Put a step in the place of another; one that stands there already is taken."""
    ids, above = grower.tokens.encode(text + grower.work.suite.separator).tolist(), tree[original]["parent"]
    for node in tree.children(above):
        if tree[node]["origin"] == "intervention" and tree[node]["token_ids"] == ids:
            return Edited(tree, original, node)
    node = tree.add(above, kind="step", origin="intervention", agent="editor", token_ids=ids, text=text)
    return Edited(tree, original, node)


def draw_arms(grower: Grower, edits: list[Edited], sampling: Sampling, *, continuations: int) -> None:
    """Draw both arms of every edit and append what comes.

    A draw hangs on a step once: edits of one step share the continuations of the original, earlier stages' too.
    """

    def asked(edit: Edited, node: int) -> list[Request]:
        ends = edit.tree[node]["finish"] is not None
        return [] if ends else go_on(grower, edit.tree, node, sampling, samples=continuations, first=FIRST_SAMPLE)

    arms = [(edit, [asked(edit, node) for node in (edit.node, edit.original)]) for edit in edits]
    entries = grower.run(request for _, both in arms for requests in both for request in requests)
    for edit, both in arms:
        for node, requests, leaves in zip((edit.node, edit.original), both, edit.leaves, strict=True):
            hung = {edit.tree[child]["request"]: child for child in edit.tree.children(node)}
            for request in requests:
                if request.key in hung:
                    leaves.append(edit.tree.last_of(hung[request.key]))
                elif request.key in entries:
                    leaves.append(grower.add(edit.tree, node, entries[request.key], origin="continuation"))


def arm_columns(edit: Edited, rewards: Rewards) -> dict[str, Any]:
    """Pivot, counts and effect of an edit, as columns of the variants table."""
    changed, original = (tally([rewards.get((edit.tree.tree, leaf)) for leaf in leaves]) for leaves in edit.leaves)
    effect = effect_of(changed, original)
    return {
        "pivot": edit.pivot,
        "first_node": edit.node,
        **_counts("with", changed),
        **_counts("without", original),
        "effect": effect and effect.effect,
        "effect_low": effect and effect.low,
        "effect_high": effect and effect.high,
    }


def _counts(arm: str, tried: Continuations) -> dict[str, int | None]:
    """Nulls where none was judged."""
    known = tried.count > 0
    return {f"{arm}_count": tried.count if known else None, f"{arm}_successes": tried.successes if known else None}

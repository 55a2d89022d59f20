"""The tables trainers read. Rows carry token ids and name the nodes they came from."""

import dataframely as dy

from schemas.base import Table, one_of


class Pairs(Table):
    """A preference between two answers to the same prompt."""

    task = dy.String(description="Task both answers belong to.")
    row = dy.String(primary_key=True, description="tree/source/chosen leaf/rejected leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree both leaves belong to.")
    chosen_node = dy.Int32(min=0, description="Leaf of the chosen answer.")
    rejected_node = dy.Int32(min=0, description="Leaf of the rejected answer.")
    source = dy.String(
        regex=one_of(("outcome", "step", "retry")),
        description="outcome: a right sample against a wrong one; step: a right continuation against a wrong one of "
        "the same prefix; retry: a repaired attempt against the failed one it was made from.",
    )
    prompt_ids = dy.List(dy.Int32(min=0), description="Tokens both answers follow.")
    chosen_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the chosen answer after the prompt.")
    rejected_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the rejected answer after the prompt.")
    margin = dy.Float32(description="Reward of chosen less rejected.")
    prompt = dy.String(description="The prompt as text, for people.")
    chosen = dy.String(description="The chosen answer as text, for people.")
    rejected = dy.String(description="The rejected answer as text, for people.")


class Patches(Table):
    """An InT training row: a right prefix and the one step written in place of the first wrong one."""

    task = dy.String(description="Task of the failed attempt.")
    row = dy.String(primary_key=True, description="The variant.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of attempt and intervention.")
    node = dy.Int32(min=0, description="The intervention.")
    input_ids = dy.List(dy.Int32(min=0), min_length=1, description="Prompt, prefix and intervention; no end token.")
    labels = dy.List(dy.Int32(), min_length=1, description="As long as input_ids; -100 where not trained.")
    accuracy = dy.Float32(min=0, max=1, description="Share of continuations that succeeded.")
    text = dy.String(description="Prefix and intervention as text, for people.")

    @dy.rule()
    def labels_match(cls):
        """A label for every token."""
        return cls.labels.col.list.len() == cls.input_ids.col.list.len()

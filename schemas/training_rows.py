"""The tables trainers read. Rows carry token ids and name the nodes they came from."""

import dataframely as dy
import polars as pl

from schemas.base import Table, as_long_as, one_of


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

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {"labels": cls.input_ids.col}


class TokenRewards(Table):
    """A preference pair with a reward a token (T-REG), a row an answer."""

    task = dy.String(description="Task of the pair.")
    row = dy.String(primary_key=True, description="Row of the pair in pairs.")
    side = dy.String(primary_key=True, regex=one_of(("chosen", "rejected")), description="Which answer of the pair.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the answer.")
    node = dy.Int32(min=0, description="Leaf of the answer.")
    prompt_ids = dy.List(dy.Int32(min=0), description="Tokens the answer follows.")
    answer_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the answer.")
    rewards = dy.List(
        dy.Float32(), min_length=1, description="As long as answer_ids; in [-0.5, 0.5], self-generated reward a token."
    )

    @dy.rule()
    def rewards_match(cls):
        """A reward for every token."""
        return cls.rewards.col.list.len() == cls.answer_ids.col.list.len()

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {"rewards": as_long_as(cls.answer_ids, pl.element() % 2 - 0.5)}


class PrmSteps(Table):
    """An attempt with a label a step, for process reward models."""

    task = dy.String(description="Task of the attempt.")
    row = dy.String(primary_key=True, description="tree/labeller/leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the attempt.")
    node = dy.Int32(min=0, description="Leaf of the attempt.")
    labeller = dy.String(description="Key of LABELLERS.")
    prompt = dy.String(description="The question as text.")
    steps = dy.List(dy.String(), min_length=1, description="Texts of the steps, in order.")
    step_nodes = dy.List(dy.Int32(min=0), min_length=1, description="Their nodes.")
    hard = dy.List(dy.Bool(nullable=True), min_length=1, description="Hard label a step. Null inside: undecided.")
    soft = dy.List(dy.Float32(nullable=True), min_length=1, description="Soft label a step. Null inside: unknown.")
    input_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of prompt and attempt.")
    step_ends = dy.List(
        dy.Int32(min=0), min_length=1, description="Index in input_ids of each step's last token: where it is scored."
    )

    @dy.rule()
    def a_label_a_step(cls):
        """Every list of steps is as long as the steps."""
        steps = cls.steps.col.list.len()
        return (
            (cls.step_nodes.col.list.len() == steps)
            & (cls.hard.col.list.len() == steps)
            & (cls.soft.col.list.len() == steps)
            & (cls.step_ends.col.list.len() == steps)
        )

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {
            "step_nodes": as_long_as(cls.steps, pl.int_range(pl.len())),
            "hard": as_long_as(cls.steps, pl.int_range(pl.len()) % 2 == 0),
            "soft": as_long_as(cls.steps, 1 / (1 + pl.int_range(pl.len()))),
            "step_ends": as_long_as(cls.steps, pl.int_range(pl.len())),
        }


class RlSamples(Table):
    """An attempt with what the policy said of it when it was sampled, and its credit: online RL's batch."""

    task = dy.String(description="Task of the attempt.")
    row = dy.String(primary_key=True, description="tree/method/leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the attempt; its attempts are a group.")
    node = dy.Int32(min=0, description="Leaf of the attempt.")
    policy = dy.String(description="Fingerprint of the policy that sampled it.")
    method = dy.String(description="Key of METHODS, the credit below.")
    prompt_ids = dy.List(dy.Int32(min=0), description="Tokens of the prompt.")
    answer_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the answer, tools' words included.")
    loss_mask = dy.List(dy.Bool(), min_length=1, description="As long as answer_ids. True: sampled here, and trained.")
    logprobs = dy.List(
        dy.Float32(nullable=True), min_length=1, description="As long as answer_ids, when sampled. Null: not sampled."
    )
    advantages = dy.List(
        dy.Float32(nullable=True), min_length=1, description="As long as answer_ids. Null inside: unknown, or no loss."
    )
    reward = dy.Float32(nullable=True, min=0, max=1, description="Verdict of the leaf. Null: unjudged.")

    @dy.rule()
    def a_figure_a_token(cls):
        """Mask, log-probabilities and advantages are as long as the answer."""
        tokens = cls.answer_ids.col.list.len()
        return (
            (cls.loss_mask.col.list.len() == tokens)
            & (cls.logprobs.col.list.len() == tokens)
            & (cls.advantages.col.list.len() == tokens)
        )

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {
            "loss_mask": as_long_as(cls.answer_ids, pl.element() % 2 == 0),
            "logprobs": as_long_as(cls.answer_ids, -(pl.element() % 97) / 7),
            "advantages": as_long_as(cls.answer_ids, pl.element() % 3 - 1.0),
        }


class Sft(Table):
    """An answer to imitate."""

    task = dy.String(description="Task of the answer.")
    row = dy.String(primary_key=True, description="tree/leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the answer.")
    node = dy.Int32(min=0, description="Leaf of the answer.")
    input_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of prompt and answer.")
    weights = dy.List(
        dy.Float32(min=0),
        min_length=1,
        description="As long as input_ids: weight of a token in the loss. 0: not trained.",
    )
    prompt = dy.String(description="The prompt as text, for people.")
    answer = dy.String(description="The answer as text, for people.")

    @dy.rule()
    def a_weight_a_token(cls):
        """A weight for every token."""
        return cls.weights.col.list.len() == cls.input_ids.col.list.len()

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {"weights": as_long_as(cls.input_ids, pl.element() % 2)}

"""The tables trainers read. Rows carry token ids and name the nodes they came from."""

import dataframely as dy
import polars as pl

from schemas.base import Table, as_long_as, one_of

PAIR_SOURCES = ("outcome", "step", "retry", "intervention", "regeneration", "generator", "verifier", "refiner")


class Pairs(Table):
    """A preference between two answers to the same prompt."""

    task = dy.String(description="Task both answers belong to.")
    row = dy.String(primary_key=True, description="tree/source/chosen leaf/rejected leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree both leaves belong to.")
    chosen_node = dy.Int32(min=0, description="Last node of the chosen answer.")
    rejected_node = dy.Int32(min=0, description="Last node of the rejected answer.")
    source = dy.String(
        regex=one_of(PAIR_SOURCES),
        description="outcome: a right sample against a wrong one; step: a right continuation against a wrong one of "
        "the same prefix; retry: a repaired attempt against the failed one it was made from; intervention: a step "
        "written anew against the one it replaces; regeneration: an attempt drawn anew from a cut against what was cut "
        "off; generator, verifier, refiner: a good output of the role against a bad one in the same context.",
    )
    prompt_ids = dy.List(dy.Int32(min=0), description="Tokens both answers follow.")
    chosen_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the chosen answer after the prompt.")
    rejected_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the rejected answer after the prompt.")
    margin = dy.Float32(
        description="Reward of chosen less rejected; effect of an intervention; of a role the difference in value."
    )
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
    labeller = dy.String(description="Key of LABELLERS, or outcome_broadcast.")
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
    record = dy.String(
        nullable=True,
        regex=one_of(("base", "distilled_retry", "reflection", "guided_retry")),
        description="What R3L holds it for; a distilled retry was sampled in another context, whose logprobs it has. "
        "Null: a plain attempt.",
    )
    group = dy.String(nullable=True, description="Group in which its advantage was taken. Null: its tree.")

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
    role = dy.String(nullable=True, description="Role whose output it is. Null: a plain answer to the task.")

    @dy.rule()
    def a_weight_a_token(cls):
        """A weight for every token."""
        return cls.weights.col.list.len() == cls.input_ids.col.list.len()

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {"weights": as_long_as(cls.input_ids, pl.element() % 2)}


class Unpaired(Table):
    """An answer that was right or wrong, without a counterpart (KTO)."""

    task = dy.String(description="Task of the answer.")
    row = dy.String(primary_key=True, description="tree/leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the answer.")
    node = dy.Int32(min=0, description="Leaf of the answer.")
    prompt_ids = dy.List(dy.Int32(min=0), description="Tokens the answer follows.")
    answer_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the answer.")
    label = dy.Bool(description="True: the answer is right.")
    reward = dy.Float32(min=0, max=1, description="Verdict of the leaf.")
    prompt = dy.String(description="The prompt as text.")
    completion = dy.String(description="The answer as text.")


class RlPrompts(Table):
    """A task to sample answers to, and how hard it was found: a prompt of online RL."""

    task = dy.String(primary_key=True, description="The task.")
    suite = dy.String(description="Suite of the task.")
    band = dy.String(description="Part of the suite of one difficulty.")
    prompt_ids = dy.List(dy.Int32(min=0), min_length=1, description="Tokens of the prompt as the policy is sent it.")
    verifier = dy.String(description="Key of VERIFIERS: who judges an answer.")
    info = dy.String(nullable=True, description="What the verifier is told beside the answer, JSON. Null: nothing.")
    difficulty = dy.Float32(nullable=True, description="Rank of the band in its suite, 0 the easiest. Null: unknown.")
    policy = dy.String(nullable=True, description="Fingerprint of who was tried. Null: nobody, or several.")
    attempts = dy.Int32(min=0, description="Judged plain samples.")
    pass_rate = dy.Float32(nullable=True, min=0, max=1, description="Their mean reward. Null: there are none.")
    pass_low = dy.Float32(nullable=True, min=0, max=1, description="Lower end of its 95 % interval (Wilson).")
    pass_high = dy.Float32(nullable=True, min=0, max=1, description="Upper end of it.")
    answer = dy.String(description="Reference answer the verifier compares with.")
    prompt = dy.String(description="The question as text.")

    @dy.rule()
    def rate_of_attempts(cls):
        """A pass rate stands where there are attempts, and nowhere else."""
        return cls.pass_rate.col.is_null().eq(cls.attempts.col == 0)

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {"attempts": pl.when(cls.pass_rate.col.is_null()).then(0).otherwise(4).cast(pl.Int32)}

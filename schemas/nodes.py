"""The table of nodes: the forest itself."""

import dataframely as dy
import polars as pl

from schemas.base import Table, as_long_as, one_of
from schemas.words import AGENTS, FINISHES, KINDS, ORIGINS


class Nodes(Table):
    """A step of a tree: its tokens, where it came from, and the context it was written in."""

    task = dy.String(description="Task the tree grew from.")
    tree = dy.String(primary_key=True, description="Tree: task@round; a seat of a dialogue has its own.")
    episode = dy.String(description="Trees of one dialogue share it; else the tree itself.")
    node = dy.Int32(primary_key=True, min=0, description="Number in the tree; parents come first.")
    parent = dy.Int32(nullable=True, min=0, description="What led to this node. Null: the root.")
    context = dy.Int32(min=0, description="Prompt node at which this node's token context begins; itself for a prompt.")
    depth = dy.Int32(min=0, description="Edges from the root.")
    turn = dy.Int32(min=0, description="Message of the dialogue, from 0.")
    agent = dy.String(regex=one_of(AGENTS), description="Who wrote it, or whom the prompt addresses.")
    kind = dy.String(regex=one_of(KINDS), description="What the node holds.")
    origin = dy.String(regex=one_of(ORIGINS), description="Why the node exists.")
    sampled = dy.Bool(description="True: its tokens were drawn from the policy in this very context.")
    copied_from = dy.Int32(
        nullable=True,
        min=0,
        description="Node of this tree whose sampled tokens stand here in another context; logprobs are of that one. "
        "Null: not a copy.",
    )
    token_ids = dy.List(dy.Int32(min=0), description="Tokens this node adds to its parent, end token included.")
    token_count = dy.Int32(min=0, description="Tokens in token_ids, to be counted without reading them.")
    logprobs = dy.List(
        dy.Float32(nullable=True),
        nullable=True,
        description="Natural log-probabilities under the policy, untempered; as long as token_ids. Null: neither "
        "sampled nor copied.",
    )
    text = dy.String(description="The tokens as text, without the separator that closes the step.")
    state_key = dy.String(nullable=True, description="Hash of the environment's state. Null: no environment.")
    step_reward = dy.Float32(nullable=True, description="What the environment paid for the step. Null: none does.")
    tool_calls = dy.String(nullable=True, description="Tool calls of the message, JSON. Null: none.")
    request = dy.String(nullable=True, description="Request that produced the tokens. Null: rendered or written.")
    policy = dy.String(
        nullable=True,
        description="Fingerprint of the policy that sampled it or its original. Null: rendered, written.",
    )
    finish = dy.String(nullable=True, regex=one_of(FINISHES), description="How a leaf ended. Null: not an end.")

    @dy.rule()
    def tokens_counted(cls):
        """The count is that of the tokens."""
        return cls.token_count.col == cls.token_ids.col.list.len()

    @dy.rule()
    def logprobs_match_tokens(cls):
        """A log-probability for every token, wherever there are any."""
        return cls.logprobs.col.is_null() | (cls.logprobs.col.list.len() == cls.token_ids.col.list.len())

    @dy.rule()
    def parents_first(cls):
        """A parent has a smaller number; only node 0 has none."""
        return cls.parent.col.is_null().eq(cls.node.col == 0) & (
            cls.parent.col.is_null() | (cls.parent.col < cls.node.col)
        )

    @dy.rule()
    def context_at_or_before(cls):
        """A context begins at the node or before it."""
        return cls.context.col <= cls.node.col

    @dy.rule()
    def sampled_has_source(cls):
        """A sampled node names its request and policy and has log-probabilities."""
        return ~cls.sampled.col | (
            cls.request.col.is_not_null() & cls.policy.col.is_not_null() & cls.logprobs.col.is_not_null()
        )

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        return {
            "token_count": cls.token_ids.col.list.len(),
            "logprobs": as_long_as(cls.token_ids, -(pl.element() % 97) / 7),
            "context": pl.min_horizontal(cls.context.col, cls.node.col),
        }

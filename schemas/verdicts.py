"""The table of verdicts."""

import dataframely as dy

from schemas.base import Table


class Verdicts(Table):
    """A judged leaf."""

    task = dy.String(description="Task the tree grew from.")
    tree = dy.String(primary_key=True, description="Tree of the leaf.")
    node = dy.Int32(primary_key=True, min=0, description="The leaf.")
    verifier = dy.String(primary_key=True, description="Key of VERIFIERS.")
    version = dy.String(description="Version of the verifier; a new one judges anew.")
    reward = dy.Float32(nullable=True, min=0, max=1, description="0 wrong to 1 right. Null: the verifier failed.")
    components = dy.String(nullable=True, description="Named parts of the reward, JSON object. Null: it has none.")
    parsed_answer = dy.String(nullable=True, description="Answer found in the text. Null: none was found.")
    error = dy.String(nullable=True, description="Why the verifier failed. Null: it did not.")

    @dy.rule()
    def reward_or_error(cls):
        """A verdict has a reward or says why not."""
        return cls.reward.col.is_null().eq(cls.error.col.is_not_null())

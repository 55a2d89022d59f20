"""The table of requests: what was asked of which engine, and what it cost."""

import dataframely as dy

from schemas.base import Table


class Requests(Table):
    """A call of an engine."""

    task = dy.String(description="Task it was made for.")
    request = dy.String(primary_key=True, description="Content key: prompt tokens, sampling, sample index, policy.")
    stage = dy.String(primary_key=True, description="Stage that asked.")
    sample_index = dy.Int32(min=0, description="Index among requests of the same content.")
    policy = dy.String(description="Fingerprint of the policy asked.")
    engine = dy.String(description="Key of ENGINES.")
    sampling = dy.String(description="Sampling parameters, JSON.")
    prompt_tokens = dy.Int32(min=0, description="Tokens sent.")
    cached_tokens = dy.Int32(nullable=True, min=0, description="Of those, found in the prefix cache. Null: not told.")
    decoded_tokens = dy.Int32(nullable=True, min=0, description="Tokens returned. Null: failed.")
    seconds = dy.Float32(nullable=True, min=0, description="From being sent to its end. Null: not told.")
    reused = dy.Bool(
        nullable=True,
        description="True: another stage or round asked first, and its row books the cost. Null: not told.",
    )
    attempts = dy.Int32(min=1, description="Times it was tried, failures included.")
    error = dy.String(nullable=True, description="Why it failed for good. Null: it did not.")

"""The table of tasks."""

import dataframely as dy

from schemas.base import Table, one_of
from schemas.words import SPLITS


class Tasks(Table):
    """A question and its checkable answer."""

    task = dy.String(primary_key=True, description="suite/band/split/number; the same task in every round.")
    suite = dy.String(description="Suite the task belongs to.")
    band = dy.String(description="Part of the suite of one difficulty.")
    split = dy.String(regex=one_of(SPLITS), description="train or held_out; all that grows from a task stays there.")
    question = dy.String(description="The user's message.")
    messages = dy.String(
        nullable=True, description="Messages before the question, JSON list as OpenAI has them. Null: none."
    )
    tools = dy.String(nullable=True, description="Tools offered, JSON list of their schemas. Null: none.")
    answer = dy.String(description="Reference answer the verifier compares with.")
    reference_solution = dy.String(nullable=True, description="Worked solution. Null: none is known.")
    verifier = dy.String(description="Key of VERIFIERS.")
    info = dy.String(nullable=True, description="What the source says of the task, JSON. Null: nothing.")
    difficulty = dy.Float32(nullable=True, description="Rank of the band in its suite, 0 the easiest. Null: unknown.")

"""The table of sessions: paths to be read by people, as a viewer of sessions shows them."""

import dataframely as dy

from schemas.base import Table


class Sessions(Table):
    """A path of a tree as a session file of the Hub's trace viewer."""

    task = dy.String(description="Task of the path.")
    row = dy.String(primary_key=True, description="tree/leaf.")
    suite = dy.String(description="Suite of the task.")
    tree = dy.String(description="Tree of the path.")
    node = dy.Int32(min=0, description="Leaf at which it ends.")
    reward = dy.Float32(nullable=True, min=0, max=1, description="Verdict of the leaf. Null: unjudged.")
    message_count = dy.Int32(min=1, description="Messages of the session.")
    call_count = dy.Int32(min=0, description="Tool calls in them.")
    prompt = dy.String(description="The question as text.")
    trace = dy.String(description="The file: a JSON object a line, first the session, then its messages.")

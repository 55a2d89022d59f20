"""BRPO: thinking is cut at token budgets, and at each the policy is made to answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import BadConfig, check_counts
from pipeline.generation.engine import Sampling
from pipeline.trees.draft import Answer, Ask, Draft, Piece, Spot
from pipeline.trees.strategy import Growing, spread

NAME = "budget"
"""Of its scores."""


@dataclass(frozen=True, slots=True)
class Brpo:
    """Texts are encoded by the policy's tokenizer; the tokens they make are steps of origin `prompt`, not sampled.

    budgets:    of thinking tokens, rising; the last is also the most that is thought.
    traces:     thought a task.
    summaries:  answers to each trace at each budget, of at most `summary_tokens`, which come on top of the budget.
    end_marker: closes the thinking. Empty: thinking is all that comes before the end token.
    cut:        what a trace that is cut is given before the marker and the header.
    header:     what an answer begins with.

    Under the name `budget` it says, as the credit method reads it, the place of its budget, from 0, of each stretch of
    thinking, the first where several end there, and of each summary.

    Source: AnytimeReasoner (Qi et al., 2025), by its code.
    """

    budgets: tuple[int, ...] = (2000, 4000, 6000, 8000)
    traces: int = 8
    summaries: int = 4
    summary_tokens: int = 118
    end_marker: str = "</think>"
    cut: str = "...\n\n...\n\n"
    header: str = "\n\n**Final Answer**\n\n"
    temperature: float = 1.0
    top_p: float = 1.0

    needs_rewards = False
    by_step = False

    def __post_init__(self):
        check_counts(self, of="brpo", traces=1, summaries=1, summary_tokens=1)
        if not self.budgets or min(self.budgets) < 1 or (np.diff(self.budgets) <= 0).any():
            raise BadConfig(f"brpo budgets {self.budgets} do not rise from above 0", remedy="give rising numbers")
        if not self.header:
            raise BadConfig("brpo has no header", remedy="say what an answer begins with, such as '#### '")

    def grow(self, draft: Draft) -> Growing:
        """Summarise each trace at every budget the moment the trace has come.

        A trace that closed its thinking before a budget is summarised where it closed it, with the header alone, and
        anew for each later budget: the summaries below its header are of the last budgets, in their order. Of a trace
        that ended without closing its thinking there are none from its end on; it is an attempt that answers nothing,
        its last stretch of the first budget that it does not reach.
        What a trace says after closing its thinking stays, as one more answer.
        """
        encode = draft.reading.encode
        marker = encode(self.end_marker)
        texts = {True: encode(self.header), False: encode(self.cut + self.end_marker + self.header)}
        brief = Sampling(self.temperature, self.top_p, self.summary_tokens)

        def follow(answer: Answer) -> Sequence[Ask]:
            if answer.piece is None:
                return ()
            if answer.ask.at != draft.root:
                draft.score(NAME, draft.end_of(answer.piece), answer.ask.note)
                return ()
            places: dict[tuple[int, bool], Spot] = {}
            asks = []
            for number, budget in enumerate(self.budgets):
                place = _place(draft.pieces[answer.piece], budget, marker)
                end, closed = place or (len(draft.pieces[answer.piece].token_ids), False)
                draft.score(NAME, Spot(answer.piece, end), number)
                if place is None:
                    continue
                if place not in places:
                    forced = draft.write(Spot(answer.piece, end), texts[closed], origin="prompt", kind="step")
                    places[place] = draft.end_of(forced)
                first = (answer.ask.sample * len(self.budgets) + number) * self.summaries  # each is drawn afresh
                asks += [
                    Ask(places[place], first + n, brief, origin="branch", note=number) for n in range(self.summaries)
                ]
            return asks

        thinking = Sampling(self.temperature, self.top_p, min(self.budgets[-1], draft.max_tokens))
        yield from spread([Ask(draft.root, sample, thinking) for sample in range(self.traces)], follow)


def _place(trace: Piece, budget: int, marker: np.ndarray) -> tuple[int, bool] | None:
    """After how many tokens a trace is summarised at a budget, and whether its thinking is closed there."""
    length, begins = len(trace.token_ids), _find(trace.token_ids, marker)
    if begins is not None and begins < budget:
        return begins + len(marker), True
    if budget < length:
        return budget, False
    if trace.cut_short:
        return length, False
    return (max(length - 1, 0), True) if not len(marker) else None


def _find(token_ids: np.ndarray, marker: np.ndarray) -> int | None:
    """Where a marker first begins; None where it does not, or is empty."""
    if not 0 < len(marker) <= len(token_ids):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(token_ids, len(marker))
    found = np.flatnonzero((windows == marker).all(axis=1))
    return int(found[0]) if len(found) else None

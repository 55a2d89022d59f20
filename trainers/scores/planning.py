"""Heavy: torch, transformers. Planning phrases (HICRA): mined from a round's right answers, and marked in its tokens.

Phrases of one meaning are told by the mean state that the policy itself has over them: no other encoder is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedModel

from pipeline.builders.packing import pack_rows, spans
from pipeline.credit.strategic_grams import GramMatcher, cluster_grams, count_grams, mine_grams
from pipeline.generation.policies import Policy
from pipeline.generation.tokens import tokens_of
from trainers.packed.forward import hidden_states, pack_tensors
from trainers.scores.contexts import Contexts


def mined_grams(
    model: PreTrainedModel, policy: Policy, solutions: Sequence[str], *, most: int, max_tokens: int
) -> list[str]:
    """Phrases of three to five words that right answers have in common, sorted.

    Args:
        model: of the policy.
        policy: whose states say which phrases mean the same.
        solutions: texts of right answers.
        most: phrases that are looked at: those in most answers, of those in two at least.
        max_tokens: of a pack.

    Source: HICRA (Wang et al., 2025). Deviations: its sentence encoder is the policy; the bounds on phrases are ours.
    """
    counts = count_grams(solutions)
    often = sorted((gram for gram, count in counts.items() if count > 1), key=lambda gram: (-counts[gram], gram))[:most]
    if not often:
        return []
    clusters: dict[str, list[str]] = {}
    for gram, code in zip(often, cluster_grams(embedded(model, policy, often, max_tokens=max_tokens)), strict=True):
        clusters.setdefault(f"{code:06d}", []).append(gram)
    return mine_grams(solutions, clusters).grams


@torch.no_grad()
def embedded(model: PreTrainedModel, policy: Policy, texts: Sequence[str], *, max_tokens: int) -> np.ndarray:
    """`[N, H]` float64: the mean state over the tokens of each text."""
    rows = [tokens_of(policy).encode(text) for text in texts]
    found = np.empty((len(rows), model.config.get_text_config().hidden_size))
    for pack in pack_rows(rows, max_tokens=max_tokens):
        states = hidden_states(model, pack_tensors(pack, device=model.device)).double().cpu().numpy()
        lengths = np.diff(pack.offsets)
        found[pack.rows] = np.add.reduceat(states[pack.index], pack.offsets[:-1]) / lengths[:, None]
    return found


def planning_scores(policy: Policy, contexts: Contexts, wanted: np.ndarray, grams: Sequence[str]) -> np.ndarray:
    """`[T]` float32: 1 for a token that shares a character with a phrase in any context, 0 for any other; NaN where not
    wanted.

    Args:
        policy: whose tokens they are.
        contexts: of `N` nodes.
        wanted: `[N]` bool.
        grams: the phrases.
    """
    matcher, counts = GramMatcher(grams), np.diff(contexts.tokens)
    values = np.where(np.repeat(wanted, counts), 0.0, np.nan).astype(np.float32)
    for row, (start, end) in enumerate(zip(contexts.offsets[:-1], contexts.offsets[1:], strict=True)):
        nodes = contexts.nodes[start:end]
        ids = contexts.rows.values[contexts.rows.offsets[row] : contexts.rows.offsets[row + 1]]
        first = int(counts[nodes[0]])  # the prompt plans nothing
        marked = matcher.mask([_text(policy, token) for token in ids[first:].tolist()])
        kept = np.repeat(wanted[nodes[1:]] & contexts.own[start + 1 : end], counts[nodes[1:]])
        places = spans(contexts.tokens[nodes[1:]], counts[nodes[1:]])
        values[places[kept & marked]] = 1.0
    return values


@lru_cache(maxsize=1 << 18)
def _text(policy: Policy, token: int) -> str:
    return tokens_of(policy).decode([token])

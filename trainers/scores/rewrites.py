"""Heavy: torch, transformers. T-REG's requests: every response, token for token, after one to rewrite it.

A request quotes the whole response, so responses that share tokens are scored each on its own; only the beginning of
their requests is shared.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedModel

from pipeline.builders.packing import Rows, pack_rows, spans
from pipeline.credit.t_reg import WORDING, revision_request
from pipeline.generation.policies import Policy
from pipeline.generation.tokens import tokens_of
from trainers.packed.attention import check_model
from trainers.packed.forward import token_logprobs
from trainers.scores.contexts import MAX_TOKENS, Contexts


def rewrite_logprobs(
    model: PreTrainedModel,
    policy: Policy,
    nodes: pl.DataFrame,
    contexts: Contexts,
    wanted: np.ndarray,
    *,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, np.ndarray]:
    """Log-probability of every wanted token after a request for a better response, and after one for a worse.

    Args:
        model: of the policy.
        policy: whose chat template words the requests.
        nodes: `NODE_COLUMNS` and `text` of `N` nodes.
        contexts: of them.
        wanted: `[N]` bool.
        max_tokens: of a pack.

    Returns:
        By aim `[T]` float32: the mean over the responses that a token stands in, whose requests differ; NaN where not
        wanted, and where a request with its response is longer than the policy reads.

    Raises:
        BadInput: a text spells a control token.
        BadModel: the policy has no chat template or takes no packs.

    Source: T-REG (Zhou et al., 2024). On trees the mean is ours; the paper's responses share no token.
    """
    total = {aim: np.zeros(contexts.tokens[-1]) for aim in WORDING}
    count = np.zeros(contexts.tokens[-1])
    asked: dict[str, list[np.ndarray]] = {aim: [] for aim in WORDING}
    kept: list[int] = []
    for row, instruction, answer, ids in _responses(nodes, contexts, wanted):
        prompts = {
            aim: tokens_of(policy).render([{"role": "user", "content": revision_request(instruction, answer, aim=aim)}])
            for aim in WORDING
        }
        if max(map(len, prompts.values())) + len(ids) <= policy.max_length:
            kept.append(row)
            for aim, prompt in prompts.items():
                asked[aim].append(np.concatenate((prompt, ids)))
    for aim, rows in asked.items():
        scored = _last_logprobs(model, rows, max_tokens=max_tokens) if rows else []
        for row, whole in zip(kept, scored, strict=True):
            at, places = _places(contexts, row, wanted, end=len(whole))
            total[aim][places] += whole[at]
            count[places] += aim == "better"
    with np.errstate(invalid="ignore"):
        return {aim: np.where(count > 0, one / count, np.nan).astype(np.float32) for aim, one in total.items()}


def _responses(nodes: pl.DataFrame, contexts: Contexts, wanted: np.ndarray) -> list[tuple[int, str, str, np.ndarray]]:
    """Of every context with something wanted in it: its number, texts of prompt and response, tokens of the latter."""
    texts, found = nodes["text"].to_list(), []
    for row, (start, end) in enumerate(zip(contexts.offsets[:-1], contexts.offsets[1:], strict=True)):
        members = contexts.nodes[start:end]
        if (wanted[members] & contexts.own[start:end]).any():
            begin = contexts.rows.offsets[row] + contexts.starts[start + 1]
            ids = contexts.rows.values[begin : contexts.rows.offsets[row + 1]]
            found.append((row, texts[members[0]], "\n".join(texts[node] for node in members[1:]), ids))
    return found


def _places(contexts: Contexts, row: int, wanted: np.ndarray, *, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the wanted tokens of a context where they stand in a row that ends with its response, and among all nodes'."""
    entries = np.arange(contexts.offsets[row], contexts.offsets[row + 1])
    entries = entries[wanted[contexts.nodes[entries]] & contexts.own[entries]]
    nodes = contexts.nodes[entries]
    counts = np.diff(contexts.tokens)[nodes]
    length = int(np.diff(contexts.rows.offsets)[row])
    return spans(contexts.starts[entries] + end - length, counts), spans(contexts.tokens[nodes], counts)


def _last_logprobs(model: PreTrainedModel, rows: list[np.ndarray], *, max_tokens: int) -> list[np.ndarray]:
    """Log-probabilities of the tokens of some rows, those of like length in one pack; 0 at the first of a row."""
    offsets = np.cumsum([0, *map(len, rows)])
    longest = max(map(len, rows))
    check_model(model.config, longest=longest)
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    whole = Rows(np.concatenate(rows).astype(np.int32), offsets)
    for pack in pack_rows(whole, max_tokens=max(max_tokens, longest)):
        with torch.no_grad():
            logprobs = token_logprobs(model, pack).double().cpu().numpy()
        for place, row in enumerate(pack.rows):
            found[row] = logprobs[pack.index[pack.offsets[place] : pack.offsets[place + 1]]]
    return found

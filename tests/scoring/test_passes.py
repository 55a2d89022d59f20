"""What packs say of tokens is what a plain forward pass says of every path alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.credit.attention_rhythm import RhythmParams, attention_rhythm, group_heads, mean_map, rhythm_layers
from pipeline.credit.t_reg import revision_request, token_rewards
from pipeline.generation.tokens import tokens_of
from pipeline.stages.work import Work
from pipeline.store.paths import context_paths
from trainers import runs
from trainers.scores.attention import choose_heads, rhythm_scores
from trainers.scores.contexts import NODE_COLUMNS, contexts_of, said
from trainers.scores.forward import likelihoods, open_model
from trainers.scores.rewrites import rewrite_logprobs
from trainers.scores.rounds import Batch, batches

TOKENS = 150
"""Of a pack: less than a tree has, so that trees are cut."""


@pytest.fixture(scope="module")
def batch(made: Work) -> Batch:
    """The first tasks of the round."""
    shards = list(made.shards())
    (found,) = batches(made, shards, columns=(*NODE_COLUMNS, "text"))
    return found


@pytest.fixture(scope="module")
def plain(made: Work):
    """The policy as transformers loads it."""
    with runs.quiet():
        model = runs.load_model(made.policy).eval()
    model.set_attn_implementation("eager")
    return model


def path_of(batch: Batch, leaf: int) -> tuple[np.ndarray, list[int]]:
    """Nodes of a leaf's context, and its tokens."""
    nodes = context_paths(batch.nodes, np.array([leaf])).nodes
    return nodes, [token for node in nodes for token in batch.nodes["token_ids"][int(node)]]


def values_of(batch: Batch, values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Numbers of the tokens of nodes, the prompt first."""
    tokens = batch.contexts.tokens
    return np.concatenate([values[tokens[node] : tokens[node + 1]] for node in nodes])


@torch.no_grad()
def logits_of(plain, ids: list[int]) -> torch.Tensor:
    return torch.log_softmax(plain(torch.tensor([ids])).logits[0].double(), dim=-1)


def test_log_probabilities_and_entropies(made, batch, plain):
    found, entropies = likelihoods(
        open_model(made.policy), batch.contexts, batch.wanted, entropy=True, max_tokens=TOKENS, logit_bytes=1 << 16
    )
    tokens = batch.contexts.tokens
    for node in np.flatnonzero(batch.wanted):
        _, ids = path_of(batch, node)
        logs, count = logits_of(plain, ids), tokens[node + 1] - tokens[node]
        before = logs[-count - 1 : -1]
        alone = before[torch.arange(count), ids[-count:]]
        np.testing.assert_allclose(found[tokens[node] : tokens[node + 1]], alone, atol=1e-5)
        entropy = -(before.exp() * before).sum(dim=-1)
        np.testing.assert_allclose(entropies[tokens[node] : tokens[node + 1]], entropy, atol=1e-5)
    assert (np.isfinite(found) == np.repeat(batch.wanted, np.diff(tokens))).all()
    assert len(batch.contexts.packs(TOKENS)) > len(set(batch.nodes["tree"]))


def test_rewards_of_t_reg(made, batch, plain):
    policy = made.policy
    model = open_model(policy)
    found = rewrite_logprobs(model, policy, batch.nodes, batch.contexts, batch.wanted, max_tokens=TOKENS)
    rewards = token_rewards(found["better"], found["worse"])
    tokens, scored = batch.contexts.tokens, {}
    for leaf in batch.contexts.leaves:
        nodes, ids = path_of(batch, leaf)
        texts, start = batch.nodes["text"][nodes.tolist()].to_list(), len(batch.nodes["token_ids"][int(nodes[0])])
        by_aim = []
        for aim in ("better", "worse"):
            request = revision_request(texts[0], "\n".join(texts[1:]), aim=aim)
            prompt = tokens_of(policy).render([{"role": "user", "content": request}]).tolist()
            logs = logits_of(plain, prompt + ids[start:])
            by_aim.append(logs[torch.arange(len(prompt) - 1, len(logs) - 1), ids[start:]].numpy())
        ends = np.cumsum([0, *np.diff(tokens)[nodes[1:]]])
        for node, begin, end in zip(nodes[1:], ends[:-1], ends[1:], strict=True):
            scored.setdefault(int(node), []).append([one[begin:end] for one in by_aim])
    assert max(map(len, scored.values())) > 1, "some responses share a node"
    for node, pairs in scored.items():
        alone = token_rewards(*np.mean(pairs, axis=0))
        np.testing.assert_allclose(rewards[tokens[node] : tokens[node + 1]], alone, atol=1e-5)
    assert np.nanmax(np.abs(rewards)) > 1e-3


@pytest.fixture(scope="module")
def maps(batch, plain):
    """By leaf `[H, N, N]`, the maps of the layers looked at, and where the response begins."""
    layers, found = rhythm_layers(plain.config.num_hidden_layers), {}
    for leaf in batch.contexts.leaves:
        nodes, ids = path_of(batch, leaf)
        with torch.no_grad():
            given = plain(torch.tensor([ids]), output_attentions=True).attentions
        maps = torch.cat([given[layer][0] for layer in layers]).double().numpy()
        found[int(leaf)] = maps, len(batch.nodes["token_ids"][int(nodes[0])])
    return found


@pytest.mark.parametrize("chunk_bytes", [1 << 12, 1 << 26])
def test_heads(made, batch, maps, chunk_bytes):
    chosen = choose_heads(
        open_model(made.policy), [(batch.contexts, batch.wanted)], max_tokens=TOKENS, chunk_bytes=chunk_bytes
    )
    sums, count, seen = 0.0, 0, set()
    for leaf, (attention, _) in maps.items():
        nodes, ids = path_of(batch, leaf)
        node_of = np.repeat(nodes, [len(batch.nodes["token_ids"][int(node)]) for node in nodes])
        fresh = [place for place, node in enumerate(node_of) if batch.wanted[node] and node not in seen]
        seen |= {int(node) for node in nodes}
        back = np.maximum(np.arange(len(ids))[:, None] - np.arange(len(ids)), 0)
        sums += np.einsum("hts,ts->ht", attention, back)[:, fresh].sum(axis=1)
        count += len(fresh)
    np.testing.assert_allclose(chosen.distances, sums / count, atol=1e-4)


def test_heads_of_one_response(made, batch, maps):
    leaf, (attention, start) = next(iter(maps.items()))
    rows = np.flatnonzero(np.isin(np.arange(len(batch.nodes)), path_of(batch, leaf)[0]))
    nodes = batch.nodes[rows].with_columns(tree=pl.lit("t"))
    chosen = choose_heads(open_model(made.policy), [(contexts_of(nodes), said(nodes))])
    naive = group_heads(attention, start)
    np.testing.assert_allclose(chosen.distances, naive.distances, atol=1e-4)
    assert (chosen.near.tolist(), chosen.far.tolist()) == (naive.near.tolist(), naive.far.tolist())


@pytest.mark.parametrize("chunk_bytes", [1 << 12, 1 << 26])
def test_summaries(made, batch, maps, chunk_bytes):
    model, params = open_model(made.policy), RhythmParams(nearest=3, farthest=9, window=4)
    heads = choose_heads(model, [(batch.contexts, batch.wanted)])
    waad, fai = rhythm_scores(
        model, batch.contexts, batch.wanted, heads, params=params, max_tokens=TOKENS, chunk_bytes=chunk_bytes
    )
    tokens, means = batch.contexts.tokens, {}
    for leaf, (attention, start) in maps.items():
        nodes, _ = path_of(batch, leaf)
        local, far = mean_map(attention, heads.near), mean_map(attention, heads.far)
        alone = attention_rhythm(local, far, start, params)
        np.testing.assert_allclose(values_of(batch, waad, nodes)[start:], alone.waad, atol=1e-5)
        known = np.arange(len(alone.fai)) < len(alone.fai) - params.nearest
        begin = 0
        for node in nodes[1:]:
            end = begin + tokens[node + 1] - tokens[node]
            means.setdefault(int(node), []).append(np.where(known, alone.fai, np.nan)[begin:end])
            begin = end
    for node, values in means.items():
        known = ~np.isnan(values)
        mean = np.nansum(values, axis=0) / np.maximum(known.sum(axis=0), 1)
        np.testing.assert_allclose(fai[tokens[node] : tokens[node + 1]], mean, atol=1e-5)

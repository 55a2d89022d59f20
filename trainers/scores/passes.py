"""The passes of a configuration: which model looks at nodes, and what that depends on. torch is imported on use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.credit.inputs import SCORES
from pipeline.errors import BadConfig, BadInput, BadModel, BadTable
from pipeline.generation.policies import Policy, find_policy
from pipeline.stages.earlier import judged_from, rollout_shards
from pipeline.stages.work import Work
from trainers.scores import PASSES
from trainers.scores.contexts import NODE_COLUMNS, contexts_of, said
from trainers.scores.critic_recipe import Critic, find_critic
from trainers.scores.rounds import Batch, batches, right_answers
from trainers.stages import policy_name

LIKELIHOODS = ("reference_logprobs", "tuned_logprobs", "prm_logprobs", "entropy")
"""Of which those under one policy come from one forward pass."""


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """Which models say what of the round's nodes.

    what: keys of PASSES, with blanks or commas between them.
    reference: policy of reference_logprobs, t_reg and entropy. Empty: the one of --policy.
    tuned: policy of tuned_logprobs. Empty: what `branchpoint-train dpo` made of the round.
    prm: policy of prm_logprobs, a language model trained as a reward model. Empty: the same.
    critic: of the passes critic and archer. Empty: what `branchpoint-train critic` made of the round.
    grams: file of planning phrases, one a line. Empty: they are mined from the round's right answers.
    most_grams: phrases of these that are looked at.
    head_nodes: nodes of the round's first tasks on which attention heads are told apart, about so many.
    max_tokens: of a pack.
    """

    what: tuple[str, ...] = ("reference_logprobs",)
    reference: str = ""
    tuned: str = ""
    prm: str = ""
    critic: str = ""
    grams: str = ""
    most_grams: int = 2000
    head_nodes: int = 500
    max_tokens: int = 4096


@dataclass(frozen=True)
class Pass:
    """A model's look at nodes. names: under which it stands. made_from: what it depends on beside nodes. say: rows by
    name, of a batch."""

    names: tuple[str, ...]
    made_from: dict[str, str]
    say: Callable[[Batch], dict[str, pl.DataFrame]]
    columns: tuple[str, ...] = NODE_COLUMNS


class Passes:
    """The passes of a configuration. Policies are looked for when asked for; models are loaded by the first batch."""

    def __init__(self, work: Work, config: ScoreConfig):
        self._work, self._config = work, config

    def policy_of(self, name: str) -> Policy:
        """The policy that a pass looks through.

        Raises:
            BadModel: there is none.
        """
        work, given = self._work, {"tuned_logprobs": self._config.tuned, "prm_logprobs": self._config.prm}
        if given.get(name) == "":
            try:
                return find_policy(policy_name(work, "dpo"), policies=work.settings.policies)
            except BadModel as error:
                remedy = f"run `branchpoint-train dpo --suite {work.suite.name} --round {work.round}` first"
                option = name.removesuffix("_logprobs")
                raise BadModel(error.culprit, remedy=f"{remedy}, or name a policy with --{option}") from error
        return find_policy(
            given.get(name) or self._config.reference or work.policy_name, policies=work.settings.policies
        )

    def likelihoods(self, names: list[str]) -> Pass:
        """Log-probabilities and entropies under one policy, from one forward pass."""
        policy = self.policy_of(names[0])

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.forward import likelihoods

            found, entropies = likelihoods(
                self._model(policy),
                batch.contexts,
                batch.wanted,
                entropy="entropy" in names,
                max_tokens=self._config.max_tokens,
            )
            return {name: batch.of_tokens(entropies if name == "entropy" else found) for name in names}

        return Pass(tuple(names), {"policy": policy.fingerprint}, say)

    def t_reg(self) -> Pass:
        """Log-probabilities after T-REG's two requests."""
        policy = self.policy_of("reference_logprobs")

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.rewrites import rewrite_logprobs

            found = rewrite_logprobs(
                self._model(policy),
                policy,
                batch.nodes,
                batch.contexts,
                batch.wanted,
                max_tokens=self._config.max_tokens,
            )
            return {f"{aim}_logprobs": batch.of_tokens(values) for aim, values in found.items()}

        return Pass(PASSES["t_reg"], {"policy": policy.fingerprint}, say, (*NODE_COLUMNS, "text"))

    def attention(self) -> Pass:
        """Summaries of attention; the heads stand, as JSON, with each tree's root."""
        policy = self._work.policy
        first = next(iter(rollout_shards(self._work, columns=())))
        sample = judged_from(self._work, first, of=SCORES)["nodes"]

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.attention import rhythm_scores

            found = rhythm_scores(
                self._model(policy), batch.contexts, batch.wanted, self._heads, max_tokens=self._config.max_tokens
            )
            heads = self._heads
            text = json.dumps({"layers": heads.layers, "near": heads.near.tolist(), "far": heads.far.tolist()})
            return {
                name: batch.of_tokens(values, text=text)
                for name, values in zip(PASSES["attention"], found, strict=True)
            }

        made_from = {"policy": policy.fingerprint, "heads": f"{self._config.head_nodes} {sample}"}
        return Pass(PASSES["attention"], made_from, say)

    def planning(self) -> Pass:
        """Tokens of planning phrases; the phrases stand, as JSON, with each tree's root."""
        policy, config = self._work.policy, self._config
        if config.grams:
            made_from = {"grams": hashlib.sha256("\n".join(self._grams).encode()).hexdigest()}
        else:
            shards = rollout_shards(self._work, columns=())
            judged = [json.dumps(judged_from(self._work, shard, of="credit"), sort_keys=True) for shard in shards]
            made_from = {"grams": f"{config.most_grams}", "judged": "\n".join(judged)}

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.planning import planning_scores

            values = planning_scores(policy, batch.contexts, batch.wanted, self._grams)
            return {"planning": batch.of_tokens(values, text=json.dumps(self._grams))}

        return Pass(PASSES["planning"], {"policy": policy.fingerprint, **made_from}, say)

    def critic(self) -> Pass:
        """A critic's value before every token."""
        critic = self._critic("token")

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.critic_files import load_critic
            from trainers.scores.critics import token_values

            model, heads = load_critic(critic, self._work.policy)
            values = token_values(model, heads, batch.contexts, batch.wanted, max_tokens=self._config.max_tokens)
            return {"critic_values": batch.of_tokens(values)}

        return Pass(PASSES["critic"], {"critic": critic.fingerprint}, say)

    def archer(self) -> Pass:
        """A twin critic's values of saying each step, and of the state before it."""
        critic = self._critic("utterance")

        def say(batch: Batch) -> dict[str, pl.DataFrame]:
            from trainers.scores.critic_files import load_critic
            from trainers.scores.critics import utterance_values

            model, heads = load_critic(critic, self._work.policy)
            values = utterance_values(model, heads, batch.contexts, batch.wanted, max_tokens=self._config.max_tokens)
            return {name: batch.of_nodes(one) for name, one in zip(PASSES["archer"], values, strict=True)}

        return Pass(PASSES["archer"], {"critic": critic.fingerprint}, say)

    def _model(self, policy: Policy) -> Any:
        from trainers.scores.forward import check_tokens, open_model

        check_tokens(self._work.policy, policy)
        return open_model(policy)

    def _critic(self, kind: str) -> Critic:
        name = self._config.critic or f"{self._work.suite.name}-{self._work.round}-{kind}"
        critic = find_critic(name, policies=self._work.settings.policies)
        if critic.kind != kind:
            raise BadConfig(f"critic {name} is one of {critic.kind}s", remedy=f"name one of {kind}s")
        if critic.parent != self._work.policy.fingerprint:
            raise BadConfig(
                f"critic {name} was trained from another policy", remedy="give that with --policy, or train it again"
            )
        return critic

    @cached_property
    def _heads(self) -> Any:
        from trainers.scores.attention import choose_heads

        first = next(iter(rollout_shards(self._work, columns=())))
        batch = next(batches(self._work, [first]), None)
        if batch is None or not batch.wanted.any():
            raise BadTable("the round's first shard has no responses", remedy="gather rollouts first")
        trees = batch.nodes["tree"].rle_id().to_numpy()
        few = batch.nodes.filter(trees <= trees[min(len(trees), self._config.head_nodes) - 1])
        parts = [(contexts_of(few), said(few))]
        return choose_heads(self._model(self._work.policy), parts, max_tokens=self._config.max_tokens)

    @cached_property
    def _grams(self) -> list[str]:
        if self._config.grams:
            try:
                return [line.strip() for line in Path(self._config.grams).read_text().splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(f"{self._config.grams} cannot be read: {error}", remedy="correct --grams") from error
        from trainers.scores.planning import mined_grams

        return mined_grams(
            self._model(self._work.policy),
            self._work.policy,
            right_answers(self._work, list(rollout_shards(self._work, columns=()))),
            most=self._config.most_grams,
            max_tokens=self._config.max_tokens,
        )

"""Recipes of online RL: how a round samples, credits and updates. TOML files beside this one, or the user's own."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cli_options import closest
from pipeline.credit import METHODS, labelled
from pipeline.errors import BadConfig, check_counts, check_words
from pipeline.stages.params import read_json_params
from pipeline.stages.retry_rows import RetryRowConfig
from trainers.online.judging import LOOPED, lacking
from trainers.prm_recipe import PrmRecipe
from trainers.recipes import IntRecipe
from trainers.scores.critic_recipe import CriticRecipe

FOLDER = Path(__file__).parent / "recipes"
NORMALISED = ("token", "sequence", "constant")
LOSS_NAMES = ("clip", "sequence", "cispo", "opmd", "reinforce")
KL_NAMES = ("none", "k1", "k2", "k3")
SCHEDULES = ("linear", "exp", "cosine")
T = TypeVar("T")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", dict: "a table"}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Interventions, and a policy trained on them from which the rounds begin (InT).

    group: attempts a task. shards: of the suite's training tasks; 0: all. interventions: failed attempts a task that
    are edited. continuations: drawn in each arm, of which one that succeeds keeps the edit. training: by name of
    IntRecipe.
    """

    group: int = 4
    shards: int = 1
    interventions: int = 1
    continuations: int = 4
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_counts(self, of="recipe: start", group=1, shards=0, interventions=1, continuations=1)
        self.recipe().check()

    def recipe(self, **given: Any) -> IntRecipe:
        """How the policy is trained."""
        return _filled(IntRecipe(), self.training, given, of="start.training")


@dataclass(frozen=True, slots=True)
class OnlineRecipe:
    """A way to train. Defaults suit a policy of about a million parameters on two cores.

    Before. start: fields of WarmUp; none: rounds begin from the policy that is given.

    Sampling. strategy, group, temperature: of rollouts; of episodes where the suite is played, whose strategies are
    flat and treeps_rag, the latter without a group. strategy_params, rule_params: by name. allocation: even, or
    knapsack: `group` samples a task in the mean, more of tasks that teach more. rule, attempts, branches: of trees
    grown from them; no rule: none. retries: attempts a task that are reflected on and tried again. interventions:
    attempts a task whose first wrong step is written anew. shards: of the suite's training tasks a round; 0: all.
    overlap: a round is sampled while the one before is in its update, so by a policy that is one update older than the
    one that its own update begins from.

    Credit. method: key of METHODS. params: of it. labeller: whose step labels it reads; one that reads the forest
    (monte_carlo) or judges (genprm) labels each round first. judge: policy that does, and that gives the scores of
    judges which a method reads; empty: the one that the rounds begin from. prm: process reward model that labels each
    round, for labeller prm. prm_every: rounds between trainings of such a model of the run's own, from the round's
    policy on the round's steps, in the first round first; trees grow for its labels in those rounds alone; 0: it has
    none. prm_training: of it, by name of PrmRecipe. critic_training: of the critic of each round, by name of
    CriticRecipe, where the method reads one. implicit_rate: AdamW's, of the language model whose log-ratios are
    rewards, where the method reads one: it takes a step a round, after the rewards. schedule: by parameter, how it
    moves with the rounds: `kind` (word of SCHEDULES), `start`, `end`, `rounds`. shared: see
    `pipeline.builders.rl_samples`. rows: trained on: the method's (`method`), or of R3L's own stage (`retry_rows`).

    Update. loss and its constants: see `trainers.online.losses.LossRule`. normalise: token: mean over a minibatch's
    trained tokens (DAPO); sequence: mean over each attempt's, then over attempts (GRPO); constant: sum over `constant`
    tokens an attempt (Dr.GRPO). most_ratio: mean ratio to the policy before the update above which a minibatch is
    passed over (SPO: 10); 0: none is. most_probability: tokens that were sampled with more are not trained (SPO: 0.9);
    0: all are. whiten: advantages to mean 0 and variance 1 over the round's trained tokens. idle: attempts without an
    advantage other than 0 count in means. epochs: over the round. minibatch: attempts a step, whole trees;
    0: all of them. learning_rate, weight_decay, most_norm: of AdamW and of gradient clipping. packed: what attempts
    share is computed once. max_tokens: unique tokens of a pack.

    Replay. replay_age: rounds after which a row is forgotten; 0: none is kept. replay_uses: updates that a row takes
    part in. rows_per_task: of a task in an update: at random where a row is used once (SPO), else the newest and least
    used (R3L); 0: all.

    Watching. eval_every: rounds between evaluations. eval_samples: answers a held-out task. eval_shards: of the
    held-out tasks; 0: all. agreement: credit against the exact oracle of steps, where tasks are sums.
    """

    start: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "flat"
    group: int = 8
    temperature: float = 1.0
    strategy_params: Mapping[str, Any] = field(default_factory=dict)
    allocation: str = "even"
    rule: str = ""
    attempts: int = 2
    branches: int = 4
    rule_params: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    interventions: int = 0
    shards: int = 1
    overlap: bool = False
    method: str = "grpo"
    params: Mapping[str, Any] = field(default_factory=dict)
    labeller: str = "monte_carlo"
    judge: str = ""
    prm: str = ""
    prm_every: int = 0
    prm_training: Mapping[str, Any] = field(default_factory=dict)
    critic_training: Mapping[str, Any] = field(default_factory=dict)
    implicit_rate: float = 1e-4
    schedule: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shared: str = "branches"
    rows: str = "method"
    loss: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    tau: float = 1.0
    most_weight: float = 2.0
    kl: str = "none"
    kl_weight: float = 0.0
    entropy_weight: float = 0.0
    normalise: str = "token"
    constant: int = 0
    most_ratio: float = 0.0
    most_probability: float = 0.0
    whiten: bool = False
    idle: bool = True
    epochs: int = 1
    minibatch: int = 128
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    most_norm: float = 1.0
    packed: bool = True
    max_tokens: int = 2048
    replay_age: int = 0
    replay_uses: int = 1
    rows_per_task: int = 0
    eval_every: int = 1
    eval_samples: int = 1
    eval_shards: int = 0
    agreement: bool = False

    def __post_init__(self) -> None:
        check_words(self, of="recipe", normalise=NORMALISED, loss=LOSS_NAMES, kl=KL_NAMES, method=METHODS)
        check_words(
            self,
            of="recipe",
            shared=("branches", "once"),
            rows=("method", "retry_rows"),
            allocation=("even", "knapsack"),
            labeller=LOOPED,
        )
        for one in fields(self):
            value = getattr(self, one.name)
            self._require(not isinstance(value, float) or isfinite(value), one.name, "to a finite number")
        for name in ("group", "epochs", "max_tokens", "learning_rate", "most_norm", "eval_every", "replay_uses"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(self.implicit_rate > 0, "implicit_rate", "above 0")
        for name in (
            "shards",
            "minibatch",
            "replay_age",
            "rows_per_task",
            "kl_weight",
            "entropy_weight",
            "retries",
            "interventions",
            "eval_shards",
            "eval_samples",
            "most_weight",
            "most_probability",
            "weight_decay",
            "tau",
            "prm_every",
            "most_ratio",
        ):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(0 <= self.clip_low <= 1 and self.clip_high >= 0, "clip_low", "from 0 to 1, clip_high above 0")
        self._require(
            self.dual_clip == 0 or self.dual_clip > 1 + self.clip_high, "dual_clip", "to 0, or above 1 + clip_high"
        )
        self._require((self.kl == "none") == (self.kl_weight == 0), "kl_weight", "above 0 with kl, 0 without")
        self._require(self.normalise != "constant" or self.constant > 0, "constant", "to tokens an attempt may have")
        if self.rows == "method" and (lacks := lacking(self.method, strategy=self.strategy)):
            raise BadConfig(
                f"recipe: {self.method} reads {', '.join(lacks)}, which no round makes",
                remedy="choose another method, or make rows by hand for `branchpoint-train`",
            )
        if labelled(METHODS[self.method]) and self.rows == "method":
            met = (self.labeller == "prm") == bool(self.prm or self.prm_every)
            self._require(met, "labeller", "to prm with prm or prm_every, and only then")
        self._require(not (self.prm and self.prm_every), "prm_every", "to 0 with prm: a given model is not trained")
        self.prm_recipe().check()
        of_trees = self.prm_recipe().labels == "monte_carlo" and bool(self.prm_every)
        met = bool(self.rule) or self.strategy != "flat" or not of_trees
        self._require(met, "rule", "to steps for labels of monte_carlo, or labels of prm_training to outcome_broadcast")
        self.critic_recipe().check()
        self.warm_up()
        if self.rows != "method":
            known = {one.name for one in fields(RetryRowConfig)}
            met = self.params.keys() <= known and all(map(_number, self.params.values()))
            self._require(met, "params", f"to numbers of {', '.join(sorted(known))} with rows {self.rows}")
        for name, plan in self.schedule.items():
            self._require(
                _scheduled(plan),
                "schedule",
                f"of {name} to kind ({', '.join(SCHEDULES)}), start, end and rounds; both ends above 0 under exp",
            )

    def _require(self, met: bool, name: str, bounds: str) -> None:
        if not met:
            raise BadConfig(f"recipe: {name} is {getattr(self, name)}", remedy=f"set {name} {bounds}")

    def prm_recipe(self, **given: Any) -> PrmRecipe:
        """How the run's process reward model is trained."""
        return _filled(PrmRecipe(), self.prm_training, given, of="prm_training")

    def critic_recipe(self, **given: Any) -> CriticRecipe:
        """How a round's critic is trained."""
        return _filled(CriticRecipe(), self.critic_training, given, of="critic_training")

    def warm_up(self) -> WarmUp | None:
        """What comes before the first round; None: nothing."""
        return _filled(WarmUp(), self.start, {}, of="start") if self.start else None

    def params_at(self, round: int) -> str:
        """The credit method's parameters in a round from 0, as a JSON object; empty: as published."""
        moved = {name: scheduled(plan, round) for name, plan in self.schedule.items()}
        found = {**self.params, **moved}
        return json.dumps(found, sort_keys=True) if found else ""


def _filled(defaults: T, said: Mapping[str, Any], given: Mapping[str, Any], *, of: str) -> T:
    """A configuration as a recipe has it, but for what the run itself decides."""
    return replace(read_json_params(defaults, json.dumps(dict(said)), of=f"recipe: {of}"), **given)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scheduled(plan: Any) -> bool:
    """Whether a schedule can be followed."""
    if not isinstance(plan, Mapping) or plan.keys() != {"kind", "start", "end", "rounds"}:
        return False
    numbers = all(_number(plan[name]) for name in ("start", "end", "rounds"))
    if not numbers or plan["kind"] not in SCHEDULES or not plan["rounds"] > 0:
        return False
    return plan["kind"] != "exp" or min(plan["start"], plan["end"]) > 0


def scheduled(plan: Mapping[str, Any], at: int) -> float | int:
    """What a schedule says in a round: from `start` in round 0 to `end` after `rounds`, by equal differences (linear),
    equal factors (exp) or half a cosine. Whole numbers stay whole under linear."""
    start, end = plan["start"], plan["end"]
    part = min(1.0, at / plan["rounds"])
    if plan["kind"] == "exp":
        return start * (end / start) ** part
    if plan["kind"] == "cosine":
        return end + (start - end) * (1 + cos(pi * part)) / 2
    value = start + (end - start) * part
    return round(value) if isinstance(start, int) and isinstance(end, int) else value


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_recipe(name: str, *, changes: str = "") -> OnlineRecipe:
    """A recipe by name, or from a TOML file.

    Args:
        name: one of `recipes()`, or path of a file.
        changes: JSON object of fields that shall be otherwise.

    Raises:
        BadConfig: there is no such recipe, or a field or value is none.
    """
    file = FOLDER / f"{name}.toml"
    path = file if file.exists() else Path(name)
    if not path.exists():
        raise BadConfig(
            f"there is no recipe {name!r}",
            remedy=f"{closest(name, recipes())}give a file or one of {', '.join(recipes())}",
        )
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # also of bytes that are no text
        raise BadConfig(
            f"recipe {name!r} cannot be read: {error}", remedy=f"give a file or one of {', '.join(recipes())}"
        ) from error
    try:
        said |= json.loads(changes) if changes else {}
    except (ValueError, TypeError) as error:
        raise BadConfig(f"changes are no JSON object: {error}", remedy='write them as {"group": 16}') from error
    known = {one.name for one in fields(OnlineRecipe)}
    if unknown := sorted(said.keys() - known):
        meant = closest(unknown[0], sorted(known)).strip() or f"choose of {', '.join(sorted(known))}"
        raise BadConfig(f"recipe {name!r} has no field {unknown[0]!r}", remedy=meant)
    default = OnlineRecipe()
    for key, value in said.items():
        kind = type(getattr(default, key))
        if not isinstance(value, (float, int) if kind is float else kind) or (
            kind is not bool and isinstance(value, bool)
        ):
            raise BadConfig(f"recipe {name!r}: {key} is {value!r}", remedy=f"give {_KINDS[kind]}")
    return replace(default, **said)

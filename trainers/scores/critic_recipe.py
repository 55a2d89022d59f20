"""How critics are trained, and where they stand. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadConfig, BadModel, check_counts, check_words
from trainers.recipes import check_run

FOLDER = "critics"
"""Where critics stand, below the trained policies."""
KINDS = ("token", "utterance")
"""A value before every token (PPO, MA-RLHF, POAD); twin Q and V of every step (ArCHer)."""
REWARDS = ("verdict", "step_reward")
"""The verdict, paid with the last step; what the environment paid for each."""
BACKBONES = ("frozen", "trained")


@dataclass(frozen=True, slots=True)
class CriticRecipe:
    """How a critic is trained.

    kind: token or utterance.
    name: of the critic. Empty: suite, round and kind.
    reward: verdict or step_reward.
    gamma: discount a step. Negative: 1 for tokens, as PPO and MA-RLHF have it, 0.95 for utterances, as ArCHer has it.
    tau: share of the online heads that the target heads take over after a step, of utterances.
    backbone: frozen: the policy's states are read once; trained: the model below the heads is trained too.
    width: of the two hidden layers of a head.
    epochs: over the training tasks at most.
    patience: epochs without a better held-out loss after which training ends.
    learning_rate: of the heads. backbone_rate: of the model below them.
    held_share: of the tasks, on which the loss is told and the best epoch chosen.
    most_tokens: said by the policy, of the tasks that are read.
    seed: of tasks, heads and order.
    """

    kind: str = "token"
    name: str = ""
    reward: str = "verdict"
    gamma: float = -1.0
    tau: float = 0.1
    backbone: str = "frozen"
    width: int = 256
    epochs: int = 30
    patience: int = 5
    learning_rate: float = 1e-3
    backbone_rate: float = 1e-5
    held_share: float = 0.1
    most_tokens: int = 500_000
    seed: int = 0

    def check(self) -> None:
        """Refuse what no run can use.

        Raises:
            BadConfig: names the field.
        """
        check_words(self, of="critic", kind=KINDS, reward=REWARDS, backbone=BACKBONES)
        check_counts(self, of="critic", width=1, epochs=1, patience=1, most_tokens=1)
        check_run(self, of="critic")
        if not 0 < self.backbone_rate <= 1:
            raise BadConfig(
                f"critic backbone_rate is {self.backbone_rate}", remedy="set backbone_rate above 0 and at most 1"
            )
        if not (self.gamma <= 1 and 0 < self.tau <= 1 and 0 <= self.held_share < 1):
            raise BadConfig(
                f"critic gamma {self.gamma}, tau {self.tau} or held_share {self.held_share} is out of range",
                remedy="gamma is at most 1, tau in (0, 1], held_share in [0, 1)",
            )

    @property
    def discount(self) -> float:
        """A step."""
        return self.gamma if self.gamma >= 0 else {"token": 1.0, "utterance": 0.95}[self.kind]


@dataclass(frozen=True, slots=True)
class Critic:
    """A critic on disk. fingerprint: of heads and model. parent: fingerprint of the policy that it was trained from."""

    path: Path
    kind: str
    fingerprint: str
    parent: str
    backbone: str


def find_critic(name: str, *, policies: Path) -> Critic:
    """A critic by name.

    Raises:
        BadModel: there is none.
    """
    path = policies / FOLDER / name
    try:
        said = json.loads((path / "lineage.json").read_text())
        return Critic(
            path, said["config"]["kind"], said["fingerprint"], said["parent_fingerprint"], said["config"]["backbone"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = sorted(file.parent.name for file in policies.glob(f"{FOLDER}/[!.]*/lineage.json"))
        raise BadModel(
            f"critic {name!r} does not exist",
            remedy="run `branchpoint-train critic`" + (f", or name one of {', '.join(known)}" if known else ""),
        ) from error

"""The tables, by name. One file a table; what they share is in base and words."""

from schemas.base import Table
from schemas.credit import Credit
from schemas.evals import Evals
from schemas.hygiene import Hygiene
from schemas.nodes import Nodes
from schemas.requests import Requests
from schemas.scores import Scores
from schemas.sessions import Sessions
from schemas.step_labels import StepLabels
from schemas.tasks import Tasks
from schemas.training_rows import Pairs, Patches, PrmSteps, RlPrompts, RlSamples, Sft, TokenRewards, Unpaired
from schemas.variants import Variants
from schemas.verdicts import Verdicts

TABLES: dict[str, type[Table]] = {
    "tasks": Tasks,
    "nodes": Nodes,
    "requests": Requests,
    "verdicts": Verdicts,
    "variants": Variants,
    "scores": Scores,
    "credit": Credit,
    "step_labels": StepLabels,
    "pairs": Pairs,
    "token_rewards": TokenRewards,
    "patches": Patches,
    "prm_steps": PrmSteps,
    "rl_samples": RlSamples,
    "sft": Sft,
    "unpaired": Unpaired,
    "rl_prompts": RlPrompts,
    "sessions": Sessions,
    "hygiene": Hygiene,
    "evals": Evals,
}

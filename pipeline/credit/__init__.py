"""Credit methods, by name."""

from functools import partial

from pipeline.credit.capo import CapoParams, capo_credit
from pipeline.credit.clip_delta import ClipDeltaParams, clip_delta_credit
from pipeline.credit.columns import Method
from pipeline.credit.curriculum_length import CurriculumLengthParams, curriculum_length_credit
from pipeline.credit.gigpo import GigpoParams, gigpo_credit
from pipeline.credit.group import GroupParams, group_credit
from pipeline.credit.gtalign import GTAlignParams, gtalign_credit
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.credit.mars import MarsParams, mars_credit
from pipeline.credit.pppo import PppoParams, pppo_credit
from pipeline.credit.pure import PureParams, pure_credit
from pipeline.credit.r3l import R3lParams, r3l_credit
from pipeline.credit.san import SanParams, san_credit
from pipeline.credit.spo_tree import SpoTreeParams, spo_tree
from pipeline.credit.tempo import TempoParams, tempo
from pipeline.credit.tp_grpo import TpGrpoParams, tp_grpo_credit
from pipeline.credit.treeps_rag import TreepsRagParams, treeps_rag_credit
from pipeline.credit.trust_grpo import TrustParams, trust_grpo_credit
from pipeline.credit.vsrm import VsrmParams, vsrm_credit

_ATTEMPTS = ("prompt", "sample")
_BRANCHED = ("prompt", "sample", "branch")
_OVER_BATCH = "grpo_trl_scale_batch"


def _group(convention: str) -> Method:
    """Group advantages by one of their conventions."""
    return Method(
        group_credit,
        origins=_ATTEMPTS,
        params=partial(GroupParams, convention=convention),
        across_tasks=lambda params: params.convention == _OVER_BATCH,
    )


METHODS: dict[str, Method] = {
    "grpo": _group("grpo_verl"),
    "dr_grpo": _group("dr_grpo_verl"),
    "rloo": _group("rloo_verl"),
    "opo": _group("opo_verl"),
    "spo_tree": Method(spo_tree, origins=_BRANCHED, params=SpoTreeParams),
    "tempo": Method(tempo, origins=_ATTEMPTS, params=TempoParams, needs=("tokens",)),
    "treeps_rag": Method(
        treeps_rag_credit, origins=_BRANCHED, params=TreepsRagParams, across_tasks=lambda params: params.whiten
    ),
    "pppo": Method(pppo_credit, origins=_BRANCHED, params=PppoParams),
    "r3l": Method(r3l_credit, origins=("prompt", "sample", "retry"), params=R3lParams),
    "curriculum_length": Method(
        curriculum_length_credit, origins=_ATTEMPTS, params=CurriculumLengthParams, needs=("text",)
    ),
    "gtalign": Method(
        gtalign_credit, origins=_ATTEMPTS, params=GTAlignParams, needs=("text",), across_tasks=lambda params: True
    ),
    "capo": Method(capo_credit, origins=_ATTEMPTS, params=CapoParams, needs=("step_hard",)),
    "tp_grpo": Method(tp_grpo_credit, origins=_ATTEMPTS, params=TpGrpoParams, needs=("step_hard",)),
    "pure": Method(
        pure_credit,
        origins=_ATTEMPTS,
        params=PureParams,
        needs=("step_soft",),
        across_tasks=lambda params: params.advantage_whitening,
    ),
    "clip_delta": Method(clip_delta_credit, origins=_ATTEMPTS, params=ClipDeltaParams, needs=("step_soft",)),
    "trust_grpo": Method(trust_grpo_credit, origins=_ATTEMPTS, params=TrustParams, needs=("step_soft",)),
    "vsrm": Method(vsrm_credit, origins=_ATTEMPTS, params=VsrmParams, needs=("step_soft",)),
    "gigpo": Method(gigpo_credit, origins=_ATTEMPTS, params=GigpoParams, needs=("state", "step_reward")),
    "mars": Method(
        mars_credit,
        origins=_ATTEMPTS,
        params=MarsParams,
        needs=("agent", "step_reward"),
        across_tasks=lambda params: True,
    ),
    "san": Method(san_credit, origins=_ATTEMPTS, params=SanParams, needs=("tool_calls",)),
}
"""Each under the name that the literature has for it. `spo_tree` and `treeps_rag` see the branches of trees too."""


def labelled(method: Method) -> bool:
    """Whether a method needs step labels."""
    return any(INPUTS[name].source.startswith("step_labels.") for name in method.needs)


def scored_by(method: Method) -> list[str]:
    """The names under which a method needs scores."""
    return [name for name in method.needs if INPUTS[name].source.startswith(f"{SCORES}.")]


def in_every_round(method: Method) -> bool:
    """Whether a round of plain text tasks has all that a method needs: no environment, no tools, no scores."""
    return not {"state", "step_reward", "tool_calls"} & set(method.needs) and not scored_by(method)

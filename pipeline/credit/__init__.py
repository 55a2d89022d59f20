"""Credit methods, by name."""

from functools import partial

from pipeline.credit.adaptive_reasoning import AdaptiveReasoningParams, adaptive_reasoning_credit
from pipeline.credit.adasearch import AdaSearchParams, adasearch_credit
from pipeline.credit.archer import ArcherParams, archer_credit
from pipeline.credit.attention_rhythm import RhythmParams, attention_rhythm_credit
from pipeline.credit.brpo import BrpoParams, brpo_credit
from pipeline.credit.calm import CalmParams, calm_credit
from pipeline.credit.capo import CapoParams, capo_credit
from pipeline.credit.clip_delta import ClipDeltaParams, clip_delta_credit
from pipeline.credit.columns import Method
from pipeline.credit.curriculum_length import CurriculumLengthParams, curriculum_length_credit
from pipeline.credit.epo import EpoParams, epo_credit, epo_needs
from pipeline.credit.gigpo import GigpoParams, gigpo_credit, gigpo_needs
from pipeline.credit.groundedprm import GroundedprmParams, groundedprm_credit
from pipeline.credit.group import GroupParams, group_credit
from pipeline.credit.gtalign import GTAlignParams, gtalign_credit
from pipeline.credit.hicra import HicraParams, hicra_credit
from pipeline.credit.implicit_prm import ImplicitPrmParams, implicit_prm_credit
from pipeline.credit.inputs import INPUTS, SCORES
from pipeline.credit.lare import LaReParams, lare_credit
from pipeline.credit.ma_rlhf import MaRlhfParams, ma_rlhf_credit
from pipeline.credit.malt import MaltParams, malt_credit
from pipeline.credit.mars import MarsParams, mars_credit
from pipeline.credit.matchtir import MatchtirParams, matchtir_credit
from pipeline.credit.oprl import OprlParams, oprl_credit
from pipeline.credit.poad import PoadParams, poad_credit
from pipeline.credit.pppo import PppoParams, pppo_credit
from pipeline.credit.pure import PureParams, pure_credit
from pipeline.credit.r3l import R3lParams, r3l_credit
from pipeline.credit.r_to_q import RToQParams, r_to_q_credit
from pipeline.credit.reinforce_pp import ReinforcePPParams, reinforce_pp_credit
from pipeline.credit.san import SanParams, san_credit
from pipeline.credit.search_r2 import SearchR2Params, search_r2_credit
from pipeline.credit.sotopia_rl import JUDGED, SotopiaRLParams, sotopia_rl_credit
from pipeline.credit.spo_chain import SpoChainParams, spo_chain_credit
from pipeline.credit.spo_tree import SpoTreeParams, spo_tree
from pipeline.credit.t_reg import TRegRewardParams, t_reg_credit
from pipeline.credit.tempo import TempoParams, tempo
from pipeline.credit.tp_grpo import TpGrpoParams, tp_grpo_credit
from pipeline.credit.treeps_rag import TreepsRagParams, treeps_rag_credit
from pipeline.credit.trust_grpo import TrustParams, trust_grpo_credit
from pipeline.credit.vsrm import VsrmParams, vsrm_credit

_ATTEMPTS = ("prompt", "sample")
_BRANCHED = ("prompt", "sample", "branch")
_ROLES = ("prompt", "generate", "verify", "refine")
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
    "reinforce_pp": Method(
        reinforce_pp_credit,
        origins=_ATTEMPTS,
        params=ReinforcePPParams,
        needs=("kind", "origin"),
        across_tasks=lambda params: True,
    ),
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
        across_tasks=lambda params: params.advantage_whitening or params.verifiable_share < 1,
    ),
    "clip_delta": Method(clip_delta_credit, origins=_ATTEMPTS, params=ClipDeltaParams, needs=("step_soft",)),
    "trust_grpo": Method(trust_grpo_credit, origins=_ATTEMPTS, params=TrustParams, needs=("step_soft",)),
    "vsrm": Method(vsrm_credit, origins=_ATTEMPTS, params=VsrmParams, needs=("step_soft",)),
    "gigpo": Method(
        gigpo_credit,
        origins=_ATTEMPTS,
        params=GigpoParams,
        needs=gigpo_needs(GigpoParams()),
        needs_by=gigpo_needs,
        version="2",
    ),
    "mars": Method(
        mars_credit,
        origins=_ATTEMPTS,
        params=MarsParams,
        needs=("agent", "sampled", "step_reward", "kind"),
        version="2",
        across_tasks=lambda params: True,
    ),
    "san": Method(san_credit, origins=_ATTEMPTS, params=SanParams, needs=("tool_calls", "kind")),
    "search_r2": Method(search_r2_credit, origins=_ATTEMPTS, params=SearchR2Params, needs=("kind", "useful")),
    "adasearch": Method(
        adasearch_credit, origins=_ATTEMPTS, params=AdaSearchParams, needs=("kind", "searched", "closed_book")
    ),
    "matchtir": Method(
        matchtir_credit, origins=_ATTEMPTS, params=MatchtirParams, needs=("kind", "tool_calls", "reference_calls")
    ),
    "epo": Method(
        epo_credit,
        origins=_ATTEMPTS,
        params=partial(EpoParams, score_divisor=1.0),
        needs=epo_needs(EpoParams()),
        needs_by=epo_needs,
        judged_alike=("outcome",),
    ),
    "sotopia_rl": Method(
        sotopia_rl_credit,
        origins=_ATTEMPTS,
        params=SotopiaRLParams,
        needs=("kind", *(f"{said}_{name}" for said in ("attribution", "score") for name in JUDGED)),
        across_tasks=lambda params: params.observed_ranges,
    ),
    "calm": Method(calm_credit, origins=_ATTEMPTS, params=CalmParams, needs=("kind", "step_reward", "subgoals")),
    "lare": Method(lare_credit, origins=_ATTEMPTS, params=LaReParams, needs=("kind", "latent_reward")),
    "malt": Method(
        malt_credit,
        origins=_ROLES,
        params=MaltParams,
        needs=("kind",),
        version="2",
        judged=("refine",),
        agents=("generator", "verifier", "refiner"),
    ),
    "groundedprm": Method(groundedprm_credit, origins=_BRANCHED, params=GroundedprmParams, needs=("step_hard",)),
    "adaptive_reasoning": Method(
        adaptive_reasoning_credit, origins=_ATTEMPTS, params=AdaptiveReasoningParams, needs=("kind", "long_thinking")
    ),
    "brpo": Method(
        brpo_credit,
        origins=(*_BRANCHED, "summary"),
        params=BrpoParams,
        needs=("kind", "origin", "budget"),
        version="2",
    ),
    "archer": Method(
        archer_credit, origins=_BRANCHED, params=ArcherParams, needs=("kind", "origin", "critic_q", "critic_v")
    ),
    "poad": Method(
        poad_credit,
        origins=_ATTEMPTS,
        params=PoadParams,
        needs=("kind", "origin", "step_reward", "critic_values"),
        across_tasks=lambda params: params.normalise,
    ),
    "ma_rlhf": Method(
        ma_rlhf_credit,
        origins=_ATTEMPTS,
        params=MaRlhfParams,
        needs=("kind", "origin", "tokens", "logprobs", "reference_logprobs", "critic_values"),
    ),
    "implicit_prm": Method(
        implicit_prm_credit,
        origins=_ATTEMPTS,
        params=ImplicitPrmParams,
        needs=("kind", "origin", "prm_logprobs", "reference_logprobs"),
        across_tasks=lambda params: params.whiten or params.normalisation == "batch_norm",
    ),
    "oprl": Method(
        oprl_credit,
        origins=_ATTEMPTS,
        params=OprlParams,
        needs=("kind", "origin", "logprobs", "prm_logprobs"),
        across_tasks=lambda params: params.step_norm == "batch_norm" or params.estimator == "reinforce_pp",
    ),
    "r_to_q": Method(
        r_to_q_credit,
        origins=_BRANCHED,
        params=RToQParams,
        needs=("kind", "origin", "tuned_logprobs", "reference_logprobs"),
    ),
    "t_reg": Method(
        t_reg_credit,
        origins=_BRANCHED,
        params=TRegRewardParams,
        needs=("kind", "origin", "better_logprobs", "worse_logprobs"),
    ),
    "attention_rhythm": Method(
        attention_rhythm_credit, origins=_ATTEMPTS, params=RhythmParams, needs=("kind", "origin", "waad", "fai")
    ),
    "hicra": Method(hicra_credit, origins=_ATTEMPTS, params=HicraParams, needs=("kind", "origin", "planning")),
    "spo_chain": Method(
        spo_chain_credit, origins=_ATTEMPTS, params=SpoChainParams, needs=("kind", "origin", "step_soft", "logprobs")
    ),
}
"""Each under the name that the literature has for it. `spo_tree` and `treeps_rag` see the branches of trees too."""


def labelled(method: Method) -> bool:
    """Whether a method needs step labels."""
    return any(INPUTS[name].table == "step_labels" for name in method.needs)


def scored_by(method: Method) -> list[str]:
    """The names under which a method needs scores."""
    return [name for name in method.needs if INPUTS[name].table == SCORES]


def in_every_round(method: Method) -> bool:
    """Whether a round of plain text tasks has all that a method needs: no environment, tools, roles, scores."""
    needs = {"state", "step_reward", "tool_calls"} & set(method.needs)
    return "sample" in method.origins and not needs and not scored_by(method)

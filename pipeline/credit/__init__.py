"""Credit methods, by name."""

from pipeline.credit.columns import Method
from pipeline.credit.group import GroupParams, group_credit
from pipeline.credit.spo_tree import SpoTreeParams, spo_tree
from pipeline.credit.tempo import TempoParams, tempo

METHODS: dict[str, Method] = {
    "grpo": Method(
        group_credit,
        origins=("prompt", "sample"),
        params=GroupParams,
        across_tasks=lambda params: params.convention == "grpo_trl_scale_batch",
    ),
    "spo_tree": Method(spo_tree, origins=("prompt", "sample", "branch"), params=SpoTreeParams),
    "tempo": Method(tempo, origins=("prompt", "sample"), params=TempoParams, needs=("tokens",)),
}

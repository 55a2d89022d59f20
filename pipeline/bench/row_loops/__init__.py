"""Credit methods over again, slowly: plain Python, a node at a time, as written in the papers.

Shares no code with `pipeline/credit`, so that an equal answer says something. Knows the published parameters alone.
"""

from collections.abc import Callable, Sequence

from pipeline.bench.row_loops.agents import calm_rows, gigpo_rows, mars_rows, matchtir_rows, san_rows
from pipeline.bench.row_loops.budgets import brpo_rows
from pipeline.bench.row_loops.critics import attention_rhythm_rows, ma_rlhf_rows, poad_rows
from pipeline.bench.row_loops.given import (
    adaptive_reasoning_rows,
    adasearch_rows,
    archer_rows,
    epo_rows,
    hicra_rows,
    lare_rows,
    malt_rows,
    search_r2_rows,
    sotopia_rl_rows,
    t_reg_rows,
)
from pipeline.bench.row_loops.groups import dr_grpo_rows, grpo_rows, opo_rows, r3l_rows, rloo_rows
from pipeline.bench.row_loops.labels import (
    capo_rows,
    clip_delta_rows,
    groundedprm_rows,
    spo_chain_rows,
    tp_grpo_rows,
    trust_grpo_rows,
    vsrm_rows,
)
from pipeline.bench.row_loops.models import implicit_prm_rows, oprl_rows, r_to_q_rows
from pipeline.bench.row_loops.rows import Row, RowCredit
from pipeline.bench.row_loops.texts import curriculum_length_rows, gtalign_rows
from pipeline.bench.row_loops.tokens import pure_rows, reinforce_pp_rows, tempo_rows
from pipeline.bench.row_loops.trees import pppo_rows, spo_tree_rows, treeps_rag_rows

ROW_LOOPS: dict[str, Callable[[Sequence[Row]], RowCredit]] = {
    "grpo": grpo_rows,
    "dr_grpo": dr_grpo_rows,
    "rloo": rloo_rows,
    "opo": opo_rows,
    "reinforce_pp": reinforce_pp_rows,
    "spo_tree": spo_tree_rows,
    "tempo": tempo_rows,
    "treeps_rag": treeps_rag_rows,
    "pppo": pppo_rows,
    "r3l": r3l_rows,
    "curriculum_length": curriculum_length_rows,
    "gtalign": gtalign_rows,
    "capo": capo_rows,
    "tp_grpo": tp_grpo_rows,
    "pure": pure_rows,
    "clip_delta": clip_delta_rows,
    "trust_grpo": trust_grpo_rows,
    "vsrm": vsrm_rows,
    "gigpo": gigpo_rows,
    "mars": mars_rows,
    "san": san_rows,
    "malt": malt_rows,
    "search_r2": search_r2_rows,
    "adasearch": adasearch_rows,
    "epo": epo_rows,
    "archer": archer_rows,
    "lare": lare_rows,
    "t_reg": t_reg_rows,
    "hicra": hicra_rows,
    "r_to_q": r_to_q_rows,
    "implicit_prm": implicit_prm_rows,
    "oprl": oprl_rows,
    "matchtir": matchtir_rows,
    "calm": calm_rows,
    "sotopia_rl": sotopia_rl_rows,
    "adaptive_reasoning": adaptive_reasoning_rows,
    "groundedprm": groundedprm_rows,
    "spo_chain": spo_chain_rows,
    "brpo": brpo_rows,
    "poad": poad_rows,
    "ma_rlhf": ma_rlhf_rows,
    "attention_rhythm": attention_rhythm_rows,
}
"""By key of METHODS."""

"""Growth strategies, by name: those that begin with the prompt, and those that begin with what earlier stages left.

`treeps_rag` is none of them: it grows trees of episodes, which the stage of those plays.
"""

from pipeline.trees.growth.allotted import Allotted
from pipeline.trees.growth.brpo import Brpo
from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.forks import Forks
from pipeline.trees.growth.guided import Guided
from pipeline.trees.growth.mcts import Mcts
from pipeline.trees.growth.monte_carlo import MonteCarlo
from pipeline.trees.growth.omegaprm import OmegaPrm
from pipeline.trees.growth.p2t import P2t
from pipeline.trees.growth.pppo import Pppo
from pipeline.trees.growth.spo_chain import SpoChain
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.growth.steps import Steps
from pipeline.trees.growth.treeps_rag import PRUNED
from pipeline.trees.strategy import Strategy

FROM_PROMPT: dict[str, type[Strategy]] = {
    "flat": Flat,
    "p2t": P2t,
    "allotted": Allotted,
    "spo_chain": SpoChain,
    "spo_tree": SpoTree,
    "forks": Forks,
    "brpo": Brpo,
    "pppo": Pppo,
    "mcts": Mcts,
    "guided": Guided,
}
FROM_TREE: dict[str, type[Strategy]] = {
    "steps": Steps,
    "monte_carlo": MonteCarlo,
    "omegaprm": OmegaPrm,
    "forks": Forks,
}
SCORES_OF: dict[str, tuple[str, ...]] = {"brpo": ("budget",), "treeps_rag": (PRUNED,)}
"""What strategies say of nodes by themselves: names of scores."""

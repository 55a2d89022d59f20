"""Growth strategies, by name: those that begin with the prompt, and those that begin with what earlier stages left."""

from pipeline.trees.growth.flat import Flat
from pipeline.trees.growth.spo_tree import SpoTree
from pipeline.trees.growth.steps import Steps
from pipeline.trees.strategy import Strategy

FROM_PROMPT: dict[str, type[Strategy]] = {
    "flat": Flat,
    "spo_tree": SpoTree,
}
FROM_TREE: dict[str, type[Strategy]] = {
    "steps": Steps,
}

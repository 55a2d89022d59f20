"""Reference vectors: which module answers those of a method. Imported on use."""

GOLDEN: dict[str, str] = {
    "group_advantages": "pipeline.golden.group_advantages",
    "spo_tree": "pipeline.golden.spo_tree",
    "tempo": "pipeline.golden.tempo",
}
"""Name in the vector files to module. Its `answer(params, given)` takes `params` and `input` of a case and gives what
`expected` names, or more; its `alike(expected, found, given)`, where it has one, compares by a tie rule."""

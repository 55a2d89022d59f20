"""The credit report: every credit method and labeller of a round, measured on one and the same forest."""

SPEARMAN = "spearman:"
"""How the metric of a rank correlation begins; the other method's or labeller's name follows."""

METRICS: dict[str, str] = {
    "oracle_auc": "chance that a right step scores above a first wrong one, by the oracle of steps",
    "first_error_accuracy": "share of attempts with a wrong step whose lowest step is the first wrong one",
    "calibration_error": "how far values are from verdicts on continuations hidden from them, though not from critics",
    "zero_share": "share of credited steps whose credit is 0",
    "degenerate_share": "share of tasks in which every credited step has the same credit",
    "resample_spread": "how much a step's credit moves with the attempts it is compared to, in root mean squares",
    "extra_tokens_per_1k": "tokens decoded beyond the plain attempts, a thousand credited steps",
    "extra_passes_per_1k": "forward passes of a model over a token, beyond decoding, a thousand credited steps",
}
"""What is measured of each, beside its rank correlation with every other one."""

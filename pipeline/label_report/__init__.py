"""The label report: every labeller of a round beside the others and, where tasks are sums, the oracle of steps."""

KAPPA = "kappa:"
"""How the metric of an agreement begins; the other labeller's name follows."""

METRICS: dict[str, str] = {
    "label_auc": "chance that a right step scores above a first wrong one, by the oracle of steps",
    "first_error_f1": "ProcessBench's F1 of the first step labelled wrong, of attempts with labels on most steps",
    "oracle_kappa": "Cohen's kappa of hard labels and the oracle; 0: as chance would have it",
    "labelled_share": "share of the attempts' steps that have a label",
    "undecided_share": "share of the labels without right or wrong",
    "tokens_per_label": "tokens decoded for a label",
}
"""What is measured of each labeller, beside its kappa with every other one."""

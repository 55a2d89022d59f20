"""Foreign formats, by name: one file each, imported on use."""

IMPORTED = "import"
"""In place of a policy's fingerprint and an engine's name, where nobody knows who sampled."""

IMPORTERS: dict[str, str] = {
    "traces": "pipeline.exchange.traces",
    "inspect": "pipeline.exchange.inspect_logs",
    "atif": "pipeline.exchange.atif",
    "messages": "pipeline.exchange.messages",
    "swe_agent": "pipeline.exchange.swe_agent",
    "sessions": "pipeline.exchange.sessions",
    "trl_stepwise": "pipeline.exchange.trl_stepwise",
    "trl_preference": "pipeline.exchange.trl_preference",
    "math_shepherd": "pipeline.exchange.math_shepherd",
    "prm800k": "pipeline.exchange.prm800k",
    "processbench": "pipeline.exchange.processbench",
}
"""The module whose IMPORTER reads a format."""

EXPORTERS: dict[str, str] = {
    "atif": "pipeline.exchange.atif",
    "sessions": "pipeline.exchange.sessions",
    "messages": "pipeline.exchange.messages",
    "trl_stepwise": "pipeline.exchange.trl_stepwise",
    "math_shepherd": "pipeline.exchange.math_shepherd",
    "prm800k": "pipeline.exchange.prm800k",
}
"""The module whose EXPORTER writes a format."""

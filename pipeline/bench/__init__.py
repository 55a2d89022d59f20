"""Benches, by name, each the module whose `measure` takes a forest and gives metrics; imported on use."""

BENCHES: dict[str, str] = {
    "forest": "pipeline.bench.forest",
    "credit": "pipeline.bench.credit",
    "store": "pipeline.bench.store",
    "query": "pipeline.bench.query",
    "cli": "pipeline.bench.cli",
}

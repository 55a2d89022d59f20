"""Benches, by name, each the module whose `measure` takes a forest and gives metrics; imported on use."""

BENCHES: dict[str, str] = {
    "forest": "pipeline.bench.forest",
    "gen": "pipeline.bench.gen",
    "labels": "pipeline.bench.labels_per_token",
    "credit": "pipeline.bench.credit",
    "store": "pipeline.bench.store",
    "query": "pipeline.bench.query",
    "train": "trainers.bench_train",
    "score": "trainers.bench_score",
    "import": "pipeline.bench.imports",
    "cli": "pipeline.bench.cli",
}
ON_ENGINES: dict[str, dict[str, str]] = {"gen": {"vllm": "pipeline.bench.gen_vllm"}}
"""What a bench measures besides where an engine is named."""

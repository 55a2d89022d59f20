"""Run by test_real_engine: every asset on a few tasks, twice, with vLLM and TRL. Prints one JSON object a run."""

import json
import sys
from pathlib import Path

import dagster as dg

from assets.definitions import WITHOUT_ENVIRONMENT
from assets.partitions import add_partitions
from assets.resources import Workplace, listen
from pipeline.generation import engines

SETTINGS = {
    "rollouts": {"group": 4},
    "trees": {"attempts": 2, "branches": 2},
    "retries": {"per_task": 1},
    "interventions": {"per_task": 2, "continuations": 2, "min_successes": 0},
    "policies__dpo": {"steps": 4, "batch_size": 4},
    "policies__int": {"steps": 3, "batch_size": 4},
    "policies__treg": {"steps": 3, "batch_size": 4},
    "policies__prm": {"steps": 3, "batch_size": 4},
    "policies__online": {"rounds": 1, "changes": '{"group": 4, "minibatch": 4, "eval_shards": 1}'},
    **{f"evals__{method}": {"samples": 2} for method in ("policy", "dpo", "treg", "int")},
}


def main() -> None:
    instance = dg.DagsterInstance.from_config(str(Path.cwd()))
    key = add_partitions(instance, suite="small", round="r0")
    for _ in range(2):
        reports = []
        listen(lambda progress: None, reports.append)
        outcome = dg.materialize(
            WITHOUT_ENVIRONMENT,
            instance=instance,
            partition_key=key,
            resources={"workplace": Workplace()},
            run_config={
                "ops": {name: {"config": config} for name, config in SETTINGS.items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=False,
        )
        checks = outcome.get_asset_check_evaluations()
        failed = [c for c in checks if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR]
        found = {
            "success": outcome.success,
            "failed_checks": [f"{c.asset_key.to_user_string()} {c.check_name}: {c.description}" for c in failed],
            "checks": len(checks),
            "fresh": {report.stage: report.fresh for report in reports},
            "rows": {report.stage: report.rows for report in reports},
            "engine_open": bool(engines._open),
        }
        print(json.dumps(found), flush=True)
        engines.close_engines()


if __name__ == "__main__":
    sys.exit(main())

"""A policy as the folder of a model repository: weights, tokenizer, lineage, figures. Loads no weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import BadConfig
from pipeline.generation.policies import Policy, find_policy
from pipeline.publish.folder import CARD, Folder, Local, local_files
from pipeline.publish.hub import Gate, Hub, Plan, Published
from pipeline.publish.licences import check_licence
from pipeline.publish.markdown import code, figures_table
from pipeline.publish.release import SETTING, write_manifest
from pipeline.publish.source import PLAN
from pipeline.settings import Settings
from pipeline.store.folders import new_folder
from pipeline.store.store import Store

VERSION = "1"
LINEAGE = "lineage.json"
_KEPT = re.compile(
    r".+\.safetensors|model\.safetensors\.index\.json|(config|generation_config)\.json|curves\.png|lineage\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|tokenizer\.model|merges\.txt|vocab\.txt"
    r"|chat_template\.(jinja|json)"
)
"""Files of a policy that are published; what else lies in the folder stays at home."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """policy: name or folder. The rest is as of a release."""

    policy: str
    repo: str
    public: bool = False
    tag: str = ""
    licence: str = "apache-2.0"
    gate: Gate = "as_is"


def publish_policy(
    settings: Settings, config: PolicyConfig, *, hub: Hub = Hub(), agree: Callable[[Plan], bool] = lambda plan: True
) -> tuple[Plan, Published | None]:
    """Stage a policy and upload what the repository does not have.

    Args:
        agree: is shown what would be uploaded; nothing is where it says no.

    Raises:
        BadConfig: as `stage_policy`.
        BadModel: there is no such policy.
        HubRefused: as `Hub.plan` and `Hub.upload`.
    """
    policy = find_policy(config.policy, policies=settings.policies)
    local = stage_policy(policy, Store(settings.store), settings.release / f"policy-{policy.name}", config.licence)
    plan = hub.plan(config.repo, local, private=not config.public, tag=config.tag, gate=config.gate)
    return plan, hub.upload(plan, local) if agree(plan) else None


def stage_policy(policy: Policy, store: Store, folder: Path, licence: str) -> Local:
    """Copy a policy's files beside a card with its lineage and its rows of `evals`.

    Raises:
        BadConfig: the Hub does not know the licence, or the folder is the policy's own or not ours to replace.
    """
    check_licence(licence)
    if folder.resolve() == policy.path.resolve():
        raise BadConfig(f"{folder} is the policy itself", remedy=f"choose another place with {SETTING}")
    if folder.exists():
        Folder(folder).manifest  # noqa: B018 - raises where it is not ours to replace
    with new_folder(folder, setting=SETTING) as part:
        for file in sorted(policy.path.iterdir()):
            if _KEPT.fullmatch(file.name):
                shutil.copyfile(file, part / file.name)
        (part / CARD).write_text(policy_card(policy, _measured(policy, store), licence), encoding="utf-8")
        write_manifest(
            part,
            {
                "policy": policy.name,
                "inputs": {"version": VERSION, "fingerprint": policy.fingerprint, "licence": licence},
                "versions": {"branchpoint": metadata.version("branchpoint")},
                "configs": {},
            },
        )
    return Local(folder, "model", local_files(Folder(folder)), VERSION, f"policy {policy.name}")


def policy_card(policy: Policy, measured: pl.DataFrame, licence: str) -> str:
    """The text of README.md: YAML, lineage, figures, then what the policy's own card says."""
    from huggingface_hub import ModelCard, ModelCardData

    own = (policy.path / CARD).read_text(encoding="utf-8") if (policy.path / CARD).is_file() else ""
    card = ModelCard(own, ignore_metadata_errors=True)
    body = card.text.strip()
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", **card.data.to_dict()}
    data |= {"license": licence, "tags": sorted({"branchpoint", *data.get("tags", [])})}
    if results := _results(policy, measured):
        data["model-index"] = [{"name": policy.name, "results": results}]
    parts = [body or f"# {policy.name}", f"Fingerprint of config, tokenizer and weights: {code(policy.fingerprint)}."]
    if (lineage := _lineage(policy)) is not None:
        rows = ((code(name), code(json.dumps(value))) for name, value in lineage.items() if not isinstance(value, dict))
        parts.append("## Lineage\n\n" + figures_table(("", ""), rows))
    if measured.height:
        head = ("suite", "split", "metric", "value", "95 % interval", "of")
        shown = (
            (code(row["suite"]), row["split"], code(row["metric"]), _figure(row["value"]), _interval(row), row["count"])
            for row in measured.iter_rows(named=True)
        )
        parts.append("## Measured by Branchpoint\n\n" + figures_table(head, shown))
    front = ModelCardData(model_name=policy.name, **data).to_yaml(line_break="\n")
    return f"---\n{front}\n---\n\n" + "\n\n".join(parts) + "\n"


def _lineage(policy: Policy) -> dict[str, Any] | None:
    path = policy.path / LINEAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _measured(policy: Policy, store: Store) -> pl.DataFrame:
    """Figures of the policy in the store, of every suite."""
    rows = store.read("evals", store.places("evals"))
    return rows.filter((pl.col("policy") == policy.name) & (pl.col("policy") != PLAN) & pl.col("value").is_not_null())


def _results(policy: Policy, measured: pl.DataFrame) -> list[dict[str, Any]]:
    """The figures as the Hub reads them."""
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": suite, "type": suite, "split": split},
            "metrics": [
                {"type": metric, "value": value}
                for metric, value in measured.filter(suite=suite, split=split).select("metric", "value").iter_rows()
            ],
        }
        for suite, split in measured.select("suite", "split").unique(maintain_order=True).iter_rows()
    ]


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{_figure(row['low'])} to {_figure(row['high'])}"

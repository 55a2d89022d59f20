"""Online RL in the UI. Fast loops run whole inside one asset; of slow ones every round is a partition.

The sensor, off by default, asks for a slow loop's next round once one is done, until there are as many as its form
says.
"""

from dataclasses import replace

import dagster as dg

from assets.generate import tasks
from assets.partitions import rounds, suite_rounds
from assets.resources import Workplace
from assets.tables import filled, launch_form, result, round_asset, with_picture
from assets.train import OWNERS
from pipeline.stages.work import Work
from trainers.online.rounds import OnlineConfig, picture_of, run_name, train_online
from trainers.online.watch import numbered

Online = launch_form(OnlineConfig)
SHARED = {"deps": [tasks], "group": "train", "kinds": {"vllm", "pytorch"}, "owners": OWNERS, "pool": "gpu"}


@round_asset("policies", "online", **SHARED)
def online(context: dg.AssetExecutionContext, config: Online, workplace: Workplace) -> dg.MaterializeResult:
    """The policy after rounds of online RL with any credit method. They are named after the partition's, the recipe and
    what the form changes in it: r0-grpo-0, r0-grpo-1, ...; r0-grpo-tempo-0, ..."""
    work, asked = workplace.open(context), filled(OnlineConfig, config)
    return _trained(replace(work, round=f"{work.round}-{run_name(asked)}-0"), asked)


@round_asset("policies", "online_round", **SHARED)
def online_round(context: dg.AssetExecutionContext, config: Online, workplace: Workplace) -> dg.MaterializeResult:
    """The policy of one round of a slow loop, whose rounds count up from 0: a0, a1, ...; those before are made where
    they are not there."""
    work = workplace.open(context)
    stem, number = numbered(work.round)
    first, count = (work.round, 1) if number is None else (f"{stem}0", number + 1)
    return _trained(replace(work, round=first), replace(filled(OnlineConfig, config), rounds=count))


def _trained(work: Work, config: OnlineConfig) -> dg.MaterializeResult:
    return with_picture(result(work, train_online(work, config)), picture_of(work))


round_job = dg.define_asset_job("online_round", selection=[online_round])


@dg.sensor(job=round_job, default_status=dg.DefaultSensorStatus.STOPPED, minimum_interval_seconds=30)
def next_round(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Ask for the round after the last one of every slow loop; asked twice, it starts one run."""
    newest: dict[tuple[str, str], int] = {}
    for key in context.instance.get_materialized_partitions(online_round.key):
        names = suite_rounds.get_partition_key_from_str(key).keys_by_dimension
        stem, number = numbered(names["round"])
        if number is not None:
            newest[names["suite"], stem] = max(number, newest.get((names["suite"], stem), 0))
    asked, added = [], []
    for (suite, stem), number in sorted(newest.items()):
        last = dg.MultiPartitionKey({"suite": suite, "round": f"{stem}{number}"})
        only = dg.AssetRecordsFilter(asset_key=online_round.key, asset_partitions=[last])
        (record,) = context.instance.fetch_materializations(only, limit=1).records
        config = context.instance.get_run_by_id(record.run_id).run_config
        said = config.get("ops", {}).get(online_round.op.name, {}).get("config", {})
        if number + 1 < said.get("rounds", OnlineConfig().rounds):
            after = f"{stem}{number + 1}"
            added.append(after)
            key = dg.MultiPartitionKey({"suite": suite, "round": after})
            asked.append(dg.RunRequest(run_key=f"{suite}/{after}", partition_key=key, run_config=config))
    return dg.SensorResult(run_requests=asked, dynamic_partitions_requests=[rounds.build_add_request(added)])

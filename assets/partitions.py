"""Partitions: by suite and round, never by task or tree. Keys are added by the demo, the UI or the sensor."""

import dagster as dg

suites = dg.DynamicPartitionsDefinition(name="suite")
rounds = dg.DynamicPartitionsDefinition(name="round")
suite_rounds = dg.MultiPartitionsDefinition({"suite": suites, "round": rounds})


def add_partitions(instance: dg.DagsterInstance, *, suite: str, round: str) -> str:
    """Make sure that both keys exist.

    Returns:
        The partition's key.
    """
    instance.add_dynamic_partitions("suite", [suite])
    instance.add_dynamic_partitions("round", [round])
    return dg.MultiPartitionKey({"suite": suite, "round": round})

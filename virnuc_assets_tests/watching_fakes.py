"""One look of a sensor at a project in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from virnuc_assets.requests import RANGE_END, RANGE_START
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Layout


def look(
    defs: dg.Definitions, instance: dg.DagsterInstance, sensor: str, cursor: str | None = None
) -> tuple[list[dg.RunRequest], str | None]:
    """Run requests of one tick, and the cursor that it leaves."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
    result = defs.resolve_sensor_def(sensor)(context)
    if isinstance(result, dg.SensorResult):
        return list(result.run_requests or []), result.cursor
    found = [result] if isinstance(result, dg.RunRequest | dg.SkipReason) else list(result)
    return [request for request in found if isinstance(request, dg.RunRequest)], context.cursor


def record(instance: dg.DagsterInstance, key: dg.AssetKey, *partitions: str) -> None:
    for partition in partitions:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


def ranges_of(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def write_classifier(root: Path, variant: str = "fastesm2") -> Path:
    """A classifier's description, as far as sensors look at it: that it is there, and since when."""
    path = Layout(root / "var", "miniature").classifier(variant) / CLASSIFIER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path

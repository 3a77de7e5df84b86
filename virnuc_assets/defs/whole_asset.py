"""Assets without partitions: each event says from which inputs it was made, so that equal inputs ask for no run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import recorded_version, recorded_versions
from virnuc_assets.storage.digests import digest_of

INPUTS_TAG = "virnuc/inputs"
_WITHOUT_PARTITIONS = ("shard_plan", "refseq_release")


def code_version(version: str, *follows: Any) -> str:  # noqa: ANN401
    """Version of an asset's code, and of the settings sections and encoders that its result follows from."""
    return digest_of([version, *(part if isinstance(part, str) else part.model_dump(mode="json") for part in follows)])


def inputs_of(context: dg.AssetExecutionContext) -> str:
    """Digest of the running asset's inputs; to be asked before anything is read."""
    return inputs_digest(context.instance, context.assets_def.get_asset_spec(context.asset_key))


def inputs_digest(instance: dg.DagsterInstance, spec: dg.AssetSpec) -> str:
    """Digest of code version and data versions of all that an asset depends on, as Dagster recorded them."""
    versions = {}
    for dep in spec.deps:
        key = dep.asset_key
        if key.path[0] == REFERENCE.domain and key.path[-1] not in _WITHOUT_PARTITIONS:
            found = recorded_versions(instance, key, REFERENCE.keys(instance))
            versions[key.to_user_string()] = digest_of(dict(sorted(found.items())))
        else:
            versions[key.to_user_string()] = recorded_version(instance, key)
    return digest_of([spec.code_version, versions])


def latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.AssetMaterialization | None:
    """The latest materialization of an asset without partitions."""
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization if event else None


def is_current(instance: dg.DagsterInstance, spec: dg.AssetSpec) -> bool:
    """Whether the latest materialization of an asset was made from today's inputs."""
    made = latest(instance, spec.key)
    return made is not None and (made.tags or {}).get(INPUTS_TAG) == inputs_digest(instance, spec)


def whole_result(inputs: str, version: str, metadata: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """The one event of an asset: data version from content, and the digest of its inputs."""
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version), tags={INPUTS_TAG: inputs})


@contextlib.contextmanager
def training_place(workspace: Workspace, name: str, log: Callable[[str], None]) -> Iterator[Path]:
    """The scratch folder for the training of a classifier; waits for other trainings of it, and for its device.

    The device comes first, for all: two that took the locks in different orders would wait for each other.
    """
    from virnuc_assets.classifier.datasets import scratch_next_to
    from virnuc_assets.workstation.device_lock import DeviceLock

    device = DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, log)
    with device.computing(), scratch_next_to(workspace.layout.training(name)) as scratch:
        yield scratch

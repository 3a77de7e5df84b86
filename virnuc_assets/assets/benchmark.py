"""The encoders measured side by side, on the machine that embeds; asset and check are part of group `migration`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets.finetuning import asset_name
from virnuc_assets.assets.reference import current_frames
from virnuc_assets.checks import result
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import encoder_version, variant_fingerprints
from virnuc_assets.defs.sharded_asset import OWNERS, peak_memory_mb
from virnuc_assets.defs.whole_asset import inputs_of, whole_result
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.aside import written_aside
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.tables import read_table

MIGRATION_GROUP = "migration"
BENCHMARK = "encoder_benchmark"


class MeasureEncoders(dg.Config):
    """Whether to measure again what was measured, e.g. because the machine was busy."""

    again: bool = False


def benchmark_asset(workspace: Workspace) -> dg.AssetsDefinition:
    """The encoders measured side by side."""
    settings = workspace.settings
    encoders = {name: encoder_version(workspace, name) for name in _language_models(workspace)}

    @dg.asset(
        name=BENCHMARK,
        deps=[REFERENCE.key("translated_proteins"), *map(asset_name, settings.finetuning.encoders)],
        group_name=MIGRATION_GROUP,
        kinds={"json", "pytorch"},
        owners=OWNERS,
        code_version=digest_of(["2", _benchmark_settings(workspace), encoders]),
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
    )
    def encoder_benchmark(context: dg.AssetExecutionContext, config: MeasureEncoders) -> dg.MaterializeResult[Any]:
        """Sequences a second and peak memory of every language model, on the same reference frames.

        One after the other, each in a fresh process in the same precision; the median of several passes counts. What
        was measured of today's encoders by today's settings is kept, unless the run's config says `again: true`.
        """
        from virnuc_assets.migration.benchmark import benchmark_encoders
        from virnuc_assets.workstation.device_lock import DeviceLock

        inputs, path = inputs_of(context), workspace.layout.whole(BENCHMARK, ".json")
        stored, problems = stored_benchmark(workspace)
        if config.again or stored is None or problems:
            tables = current_frames(context.instance, workspace)
            frames = _benchmark_rows([read_table(table) for table in tables.values()], settings.benchmark.rows)
            models, checkpoints, repeats = (
                _language_models(workspace),
                workspace.layout.checkpoints,
                settings.benchmark.repeats,
            )
            with DeviceLock(workspace.layout.locks, settings.encoding.device, context.log.info).computing():
                stored = benchmark_encoders(models, checkpoints, settings.encoding, frames, repeats)
            _write(workspace, path, stored)
        rates = {f"{name}_sequences_per_s": round(float(found["sequences_per_s"]), 1) for name, found in stored.items()}
        metadata: dict[str, Any] = {
            **rates,
            "measured": stored,
            "peak_memory_mb": peak_memory_mb(),
            "file": dg.MetadataValue.path(str(path)),
        }
        return whole_result(inputs, digest_of(stored), metadata)

    return encoder_benchmark


def _write(workspace: Workspace, path: Path, measured: Mapping[str, Any]) -> None:
    content: dict[str, Any] = {
        "encoders": _fingerprints(workspace),
        "settings": _benchmark_settings(workspace),
        "measured": measured,
    }
    content["digest"] = digest_of(content)
    with written_aside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _language_models(workspace: Workspace) -> dict[str, Any]:
    """Encoders by name, without the computed ones."""
    specs = {name: workspace.encoder(name) for name in workspace.encoder_names()}
    return {name: spec for name, spec in specs.items() if spec.architecture != "kmer"}


def _benchmark_settings(workspace: Workspace) -> dict[str, Any]:
    """The settings that a measurement follows from."""
    settings = workspace.settings
    return {"benchmark": settings.benchmark.model_dump(), "encoding": settings.encoding.model_dump()}


def _fingerprints(workspace: Workspace) -> dict[str, Mapping[str, str]]:
    """Fingerprints of all encoders as they are today, by name."""
    found: dict[str, Mapping[str, str]] = {}
    for variant in workspace.variants():
        sides = variant_fingerprints(workspace, variant)
        found |= {variant.dna: sides["dna"], variant.protein: sides["protein"]}
    return found


def _benchmark_rows(tables: list[Any], rows: int) -> dict[str, list[str]]:
    """Frames drawn evenly over all shards, at most `rows`."""
    import pyarrow as pa

    frames = pa.concat_tables(tables)
    step = max(1, frames.num_rows // rows)
    chosen = frames.take(list(range(0, frames.num_rows, step))[:rows])
    return {name: chosen.column(name).to_pylist() for name in ("nucleotides", "protein")}


def stored_benchmark(workspace: Workspace) -> tuple[Mapping[str, Mapping[str, Any]] | None, list[str]]:
    """What was measured, None if nothing is stored, and what is absent, altered or stale of it."""
    path = workspace.layout.whole(BENCHMARK, ".json")
    if not path.is_file():
        return None, [f"{BENCHMARK} has not been materialized"]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except (ValueError, KeyError, AttributeError) as error:
        return None, [f"{path}: not an encoder benchmark ({error!r}); materialize {BENCHMARK}"]
    if digest_of(content) != digest:
        return None, [f"{path}: altered since it was measured; materialize {BENCHMARK}"]
    try:
        fingerprints = _fingerprints(workspace)
    except VirnucError as error:  # a checkpoint that is gone: what was measured cannot be compared with it
        return content["measured"], [f"{BENCHMARK}: {error}"]
    stale = [name for name, today in fingerprints.items() if content["encoders"].get(name) != today]
    problems = [f"{BENCHMARK} is stale: it measured another {name} than today's; materialize it" for name in stale]
    if content["settings"] != _benchmark_settings(workspace):
        problems.append(f"{BENCHMARK} is stale: measured by other benchmark or encoding settings; materialize it")
    return content["measured"], problems


def benchmark_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    """The check of the benchmark."""

    @dg.asset_check(asset=BENCHMARK)
    def both_sides_were_measured_alike() -> dg.AssetCheckResult:
        """All encoders were measured on equally many rows, in one precision, on one device."""
        measured, problems = stored_benchmark(workspace)
        kinds = {(found["sequences"], found["precision"], found["device"]) for found in (measured or {}).values()}
        faults = problems if len(kinds) == 1 else [*problems, f"measured unlike: {sorted(map(str, kinds))}"]
        return result({BENCHMARK: faults} if faults else {}, encoders=len(measured or {}))

    return both_sides_were_measured_alike

"""From FASTA to the decision: what is on disk, what Dagster knows of it, and that a second run makes nothing again."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from virnuc_assets.classifier.sample_calls import sample_frames_schema
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.encoders.registry import VARIANTS
from virnuc_assets.reports.sample_results import RESULT_FILES
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import (
    ablations_schema,
    cds_schema,
    chunks_schema,
    embeddings_schema,
    evaluation_schema,
    features_schema,
    frame_rules_schema,
    frames_schema,
    incoming_schema,
    ledger_schema,
    plan_schema,
    predictions_schema,
    reference_ledger_schema,
)
from virnuc_assets.storage.tables import content_digest, read_provenance, read_schema, read_table
from virnuc_assets_tests.assets.project import SAMPLE, SAMPLE_RECORDS, Finished, Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

NAMES = ("fastesm2", "esm2_3b", "kmer")
OF_NAMES = [VARIANTS[name] for name in NAMES]
DIMS = {"dnabert_s": 48, "fastesm2_650": 32, "esm2_3b": 64, "kmer_dna": 136, "kmer_protein": 487}
# Kind and schema of each asset's tables; the split's columns are the classifier tests' matter.
TABLES: dict[str, tuple[str, pa.Schema | None]] = {
    "shard_plan": ("shard_plan", plan_schema()),
    "annotation": ("cds", cds_schema()),
    "reference_ledger": ("reference_ledger", reference_ledger_schema()),
    "chunked_fasta": ("chunks", chunks_schema()),
    "translated_proteins": ("frames", frames_schema()),
    "ledger": ("ledger", ledger_schema()),
    **{
        f"{name}_embeddings": ("embeddings", embeddings_schema(dim)) for name, dim in DIMS.items() if "kmer" not in name
    },
    **{f"{v.name}_features": ("features", features_schema(DIMS[v.dna] + DIMS[v.protein])) for v in OF_NAMES},
    "predictions": ("predictions", predictions_schema()),
    SAMPLE: ("sample_frames", sample_frames_schema()),  # in the folder of its report
    "incoming": ("incoming", incoming_schema()),
    "train_test_split": ("split", None),
    "ablations": ("ablations", ablations_schema()),
    "frame_rules": ("frame_rules", frame_rules_schema()),
    **{f"{variant}_evaluation": ("evaluation", evaluation_schema()) for variant in NAMES},
}


def graph(project: Project) -> Any:
    return project.defs.resolve_asset_graph()


def partitions_of(project: Project, key: dg.AssetKey) -> list[str | None]:
    """Keys of an asset's partitions, or one None."""
    found = graph(project).get(key).partitions_def
    return list(found.get_partition_keys(dynamic_partitions_store=project.instance)) if found else [None]


def latest(project: Project, key: dg.AssetKey, partition: str | None) -> dg.AssetMaterialization:
    records = project.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None), limit=1
    ).records
    assert records, (key, partition)
    materialization = records[0].asset_materialization
    assert materialization is not None
    return materialization


def tables_of(project: Project, key: dg.AssetKey, partition: str) -> list[Path]:
    """Tables of a partition: one of the reference, of a sample one for each of its shards."""
    layout, of = project.workspace.layout, REFERENCE if key.path[0] == "reference" else SAMPLES
    return [layout.table(of.domain, key.path[-1], shard) for shard in of.shards(layout, partition)]


def per_shard(project: Project) -> Iterator[tuple[dg.AssetKey, str, list[Path]]]:
    """Key, partition and tables of every partition of every per-shard asset."""
    for shards in (REFERENCE, SAMPLES):
        for key in sorted(graph(project).get_all_asset_keys()):
            if key.path[0] == shards.domain and key.path[-1] not in ("shard_plan", "shards", "report"):
                for partition in project.keys(shards):
                    yield key, partition, tables_of(project, key, partition)


def version_of(tables: list[Path]) -> str:
    """The digest of a table's rows; of a sample with several, that of their digests."""
    digests = [content_digest(path) for path in tables]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def test_every_run_succeeded_and_labels_and_samples_have_several_shards(finished: Finished) -> None:
    assert [result.success for result in finished.results] == [True] * 6
    assert finished.keys(REFERENCE) == [*(f"host-000{n}" for n in range(1, 6)), *(f"viral-000{n}" for n in range(1, 4))]
    assert finished.keys(SAMPLES) == [SAMPLE]
    assert finished.shards(SAMPLES) == [f"{SAMPLE}-000001", f"{SAMPLE}-000002"]


def test_every_asset_is_materialized_in_every_partition_by_one_event(finished: Finished) -> None:
    keys = graph(finished).get_all_asset_keys()
    assert len(keys) == 33
    for key in keys:
        events = finished.instance.fetch_materializations(key, limit=1000).records
        assert Counter(event.partition_key for event in events) == Counter(partitions_of(finished, key)), key
        assert finished.instance.fetch_observations(key, limit=1).records == []


def test_every_table_has_its_schema_and_its_provenance(finished: Finished) -> None:
    found: Counter[str] = Counter()
    for name, path in finished.tables().items():
        asset = Path(name).parent.name
        kind, schema = TABLES[asset]
        assert read_provenance(path)["table"] == kind, name
        assert schema is None or read_schema(path) == schema, name
        found[asset] += 1
    assert found.keys() == TABLES.keys()
    shards, samples = len(finished.keys(REFERENCE)), len(finished.shards(SAMPLES))
    assert found["translated_proteins"] == found["ledger"] == found["esm2_3b_features"] == shards + samples
    assert found["kmer_features"] == shards


def test_metadata_of_a_shard_tell_its_table_dims_and_encoders(finished: Finished) -> None:
    shard = finished.keys(REFERENCE)[0]
    shown = {
        f"{name}_embeddings": {"dim": DIMS[name], "encoder": finished.workspace.encoder(name).name}
        for name in finished.workspace.encoder_names()
    }
    for variant in finished.workspace.variants():
        dims = {"dna_dim": DIMS[variant.dna], "protein_dim": DIMS[variant.protein]}
        shown[f"{variant.name}_features"] = {**dims, "merged_dim": sum(dims.values())}
    for asset, more in {"chunked_fasta": {}, "translated_proteins": {}, **shown}.items():
        path = finished.workspace.layout.table("reference", asset, shard)
        rows = read_table(path).num_rows
        counts = {"rows": rows, "rows_made": rows, "rows_reused": 0, "digest": content_digest(path), "table": str(path)}
        metadata = {name: value.value for name, value in latest(finished, REFERENCE.key(asset), shard).metadata.items()}
        assert metadata == {**metadata, **counts, **more}
        assert metadata["seconds"] > 0 and metadata["peak_memory_mb"] > 10


def test_no_page_shows_json_or_a_number_as_text(finished: Finished) -> None:
    """Dagster plots numbers over time, and shows tables as tables."""
    found = 0
    for key in graph(finished).get_all_asset_keys():
        for partition in partitions_of(finished, key)[:1]:
            for name, value in latest(finished, key, partition).metadata.items():
                found += 1
                assert not isinstance(value, dg.JsonMetadataValue), (key, name)
                assert not (isinstance(value.value, str) and value.value.replace(".", "").isdecimal()), (key, name)
    assert found > 300


def rows_shown(metadata: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in metadata[name].records]


def test_the_page_of_an_evaluation_has_its_metrics_groups_and_curves(finished: Finished) -> None:
    stored = json.loads(finished.workspace.layout.whole("migration_decision", ".json").read_text())
    found = stored["variants"]["candidate"]["performance"]
    metadata = latest(finished, dg.AssetKey("fastesm2_evaluation"), None).metadata
    numbers = {name: metadata[name].value for name in found["levels"]["frame"]}
    assert numbers == pytest.approx(found["levels"]["frame"])
    for shown, stored_as, key in (("group", "groups", "group"), ("record_length", "lengths", "record_length")):
        counts = [
            {"label": one["label"], key: one["group"], "rows": one["rows"], "correct": one["correct"]}
            for one in found[stored_as]
        ]
        rows = rows_shown(metadata, f"accuracy_by_{shown}")
        assert [{name: row[name] for name in counts[0]} for row in rows] == counts
    assert str(metadata["curves"].value).count("](data:image/svg+xml;base64,") == 3


def test_the_page_of_the_decision_has_criteria_encoders_curves_and_the_report(finished: Finished) -> None:
    path = finished.workspace.layout.whole("migration_decision", ".json")
    stored = json.loads(path.read_text())
    metadata = latest(finished, dg.AssetKey("migration_decision"), None).metadata
    criteria = {one["name"]: one for one in stored["criteria"]}
    shown = rows_shown(metadata, "criteria")
    assert {row["name"]: row["outcome"] for row in shown} == {n: one["outcome"] for n, one in criteria.items()}
    assert [row["rule"] for row in shown if row["name"] == "accuracy_drop_within_margin"] == ["≤ 0.05"]
    values = {name: one["value"] for name, one in criteria.items() if one["value"] is not None}
    assert values and {name: metadata[name].value for name in values} == values
    dims = {row["role"]: (row["dna_dim"], row["protein_dim"]) for row in rows_shown(metadata, "variants")}
    assert dims == {"candidate": (48, 32), "baseline": (48, 64), "kmer_baseline": (136, 487)}
    assert str(metadata["curves"].value).count("](data:image/svg+xml;base64,") == 3
    assert metadata["report"].value == str(path.with_suffix(".html"))
    address = str(metadata["open_report"].value)
    assert address == str(metadata["mlflow_run"].value).replace("?", "/artifacts/migration_decision.html?")


def test_frame_rules_are_compared_by_the_scores_of_the_k_mer_baseline(finished: Finished) -> None:
    """By longest_orf all its scores count."""
    stored = json.loads(finished.workspace.layout.whole("migration_decision", ".json").read_text())
    found, kmer = stored["frame_rules"], stored["variants"]["kmer_baseline"]["performance"]["levels"]["chunk"]
    table = read_table(finished.workspace.layout.whole("frame_rules"))
    assert (found["chunks"], table.num_rows - table["probability"].null_count) == (table.num_rows, kmer["rows"])
    assert found["rules"]["longest_orf"]["accuracy"]["value"] == kmer["accuracy"]
    assert found["rules"]["longest_orf"]["coverage"]["all"]["chunks"] == kmer["rows"] / table.num_rows
    metadata = latest(finished, dg.AssetKey("frame_rules"), None).metadata
    frames = {row["rule"]: row["frames_per_chunk"] for row in rows_shown(metadata, "rules")}
    assert frames == {name: float(f"{one['frames_per_chunk']:.4g}") for name, one in found["rules"].items()}
    assert frames["longest_orf"] > frames["stop_free"] > 0
    assert metadata["recommendation"].value == found["recommendation"]


def test_tables_of_ledger_and_split_add_up(finished: Finished) -> None:
    ledger = latest(finished, dg.AssetKey("reference_ledger"), None).metadata
    assert sum(row["records"] for row in rows_shown(ledger, "by_reason")) == ledger["records"].value
    assert sum(row["records"] for row in rows_shown(ledger, "by_source")) == ledger["records"].value
    split = latest(finished, dg.AssetKey("train_test_split"), None).metadata
    for name in ("train", "validation", "test"):
        totals = {label: split[f"{name}_{label}_rows"].value for label in ("viral", "host")}
        rows = rows_shown(split, "rows_by_group")
        assert totals == {label: sum(row[name] for row in rows if row["label"] == label) for label in totals}


def test_the_data_version_of_every_partition_is_the_digest_of_its_rows(finished: Finished) -> None:
    """Also of a sample with several shards, and after runs over ranges."""
    count = 0
    for key, partition, tables in per_shard(finished):
        tags = latest(finished, key, partition).tags or {}
        assert tags["dagster/data_version"] == version_of(tables), (key, partition)
        count += 1
    assert count == 8 * len(finished.keys(REFERENCE)) + 8 * len(finished.keys(SAMPLES))


def stale(project: Project) -> dict[tuple[str, str | None], list[str]]:
    """Every partition that Dagster would call missing or stale, with its causes."""
    resolver = CachingStaleStatusResolver(project.instance, graph(project), LoadingContextForTest(project.instance))
    found = {}
    for key in sorted(graph(project).get_all_asset_keys()):
        for partition in partitions_of(project, key):
            if resolver.get_status(key, partition) != StaleStatus.FRESH:
                causes = [cause.reason for cause in resolver.get_stale_causes(key, partition)]
                found[key.to_user_string(), partition] = causes
    return found


def test_every_check_ran_and_passed(finished: Finished) -> None:
    for check in graph(finished).asset_check_keys:
        if check.name == "tables_are_current":  # runs by itself, every night
            continue
        (record,) = finished.instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        assert record.event is not None, check
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        if check.name == "serving_variant_is_promoted":
            # No decision let the candidate serve, and the settings do: that is what the warning is for.
            assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
        else:
            few_genomes = check.name == "decision_rests_on_complete_evidence"
            assert evaluation.passed != few_genomes, (check, evaluation.metadata)


def test_the_decision_lacks_nothing_but_genomes_and_dagster_calls_everything_fresh(finished: Finished) -> None:
    layout = finished.workspace.layout
    decision = json.loads(layout.whole("migration_decision", ".json").read_text())
    assert decision["outcome"] == "NO DECISION"
    (reason,) = decision["reasons"]
    assert "no virus or host group has 5 clusters of unrelated test records or more" in reason
    dims = {role: variant["description"]["merged_dim"] for role, variant in decision["variants"].items()}
    assert dims == {"candidate": 80, "baseline": 112, "kmer_baseline": 623}
    assert latest(finished, dg.AssetKey("migration_decision"), None).metadata["outcome"].value == decision["outcome"]
    assert stale(finished) == {}


def test_a_sample_gets_virnucpros_two_files_and_a_line_for_every_record(finished: Finished) -> None:
    folder = finished.workspace.layout.sample_report(SAMPLE)
    results = [line.split("\t") for line in (folder / "prediction_results.txt").read_text().splitlines()]
    highest = [line.split("\t") for line in (folder / "prediction_results_highestscore.csv").read_text().splitlines()]
    records = [line.split("\t") for line in (folder / "summary.tsv").read_text().splitlines()]
    assert results[0] == ["Sequence_ID", "Prediction", "score1", "score2"]
    assert highest[0] == ["Modified_ID", "Is_Virus"]
    frames = pa.concat_tables(
        read_table(finished.workspace.layout.table("samples", "translated_proteins", shard))
        for shard in finished.shards(SAMPLES)
    )
    assert [line[0] for line in results[1:]] == frames.column("frame_id").to_pylist()
    assert [line[0] for line in highest[1:]] == sorted(pc.unique(frames.column("chunk_id")).to_pylist())
    assert [line[1] for line in records[1:]] == list(SAMPLE_RECORDS)
    last = dict(zip(records[0], records[-1], strict=True))
    assert (last["call"], last["reason"]) == ("not scored", "too short for a codon")
    assert {path.name for path in folder.iterdir()} == {*RESULT_FILES, "provenance.json"}
    stored = read_table(folder / "frames.parquet")
    assert stored["frame_id"] == frames["frame_id"]
    run = json.loads((folder / "run.json").read_text())
    assert (run["model"]["miniature"], run["model"]["variant"]) == (True, "fastesm2")
    split = read_table(finished.workspace.layout.split).to_pylist()
    trained = Counter((one["label"], one["group"]) for one in split if one["split"] == "train")
    records = run["model"]["trained_on"]["records"]
    assert {(label, group): n for label, groups in records.items() for group, n in groups.items()} == trained
    decision = json.loads(finished.workspace.layout.whole("migration_decision", ".json").read_text())
    for level, found in decision["variants"]["candidate"]["performance"]["levels"].items():
        expected = {name: found[name] for name in ("accuracy", "recall", "auroc")}
        expected |= {"count": found["rows"], "specificity": found["tn"] / (found["tn"] + found["fp"])}
        assert run["model"]["tested"][f"{level}s"] == pytest.approx(expected)
    assert run["totals"]["frames_kept"] == frames.num_rows
    metadata = latest(finished, SAMPLES.key("report"), SAMPLE).metadata
    assert sum(record.data["records"] for record in metadata["calls"].records) == len(SAMPLE_RECORDS)
    assert Path(metadata["report"].url.removeprefix("file://")).is_file()
    assert metadata["pictures"].md_str.count("](data:image/") >= 2


@pytest.fixture(scope="module")
def again(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished project after a second run of everything, as a person may launch it."""
    project = finished.copy(tmp_path_factory.mktemp("again") / "project", with_history=True)
    project.results = project.run_everything()
    return project


def test_a_second_run_makes_no_row_and_trains_nothing(again: Finished) -> None:
    assert failures(*again.results) == []
    for key, partition, tables in per_shard(again):
        metadata = latest(again, key, partition).metadata
        counts = [metadata[name].value for name in ("rows_made", "rows_reused")]
        assert counts == [0, sum(read_table(path).num_rows for path in tables)], (key, partition)
    for variant in NAMES:
        assert latest(again, dg.AssetKey(f"{variant}_classifier"), None).metadata["trained"].value is False
    assert stale(again) == {}


def test_a_second_run_leaves_every_table_byte_for_byte(again: Finished, finished: Finished) -> None:
    after, before = again.tables(), finished.tables()
    assert after.keys() == before.keys()
    # The page links to the run that decided.
    for asset, suffix in (("encoder_benchmark", ".json"), ("migration_decision", ".html")):
        stored = (project.workspace.layout.whole(asset, suffix) for project in (again, finished))
        assert len({path.read_bytes() for path in stored}) == 1
    changed = [name for name, path in after.items() if path.read_bytes() != before[name].read_bytes()]
    # A plan has the path of its source, and the intake log the state of a file: a copied project's lie elsewhere.
    assert {Path(name).parent.name for name in changed} <= {"shard_plan", "incoming"}
    plans = [name for name in changed if Path(name).parent.name == "shard_plan"]
    assert all(content_digest(after[name]) == content_digest(before[name]) for name in plans)

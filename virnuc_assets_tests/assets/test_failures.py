"""What goes wrong is reported once, by file, record and shard; nothing wrong stays, and neighbours continue."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.storage.tables import read_provenance, read_table, write_table
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, SAMPLE, Project, failures, new_project, write_sample

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def small(blank: Path, tmp_path: Path) -> Project:
    """Three samples of one shard each; nothing is planned."""
    samples = {"first": ["rabies_N"], "second": ["hepatitis_delta"], "third": ["fluA_PB2"]}
    return new_project(tmp_path / "project", blank, samples=samples)


def done(project: Project, asset: str) -> set[str]:
    return set(project.instance.get_materialized_partitions(SAMPLES.key(asset)))


def tables(project: Project, asset: str) -> set[str]:
    return {path.stem for path in project.workspace.layout.table("samples", asset, "x").parent.glob("*.parquet")}


def test_a_source_that_changed_fails_its_sample_alone(small: Project) -> None:
    """The next stage is not started; that of the samples that succeeded can be run."""
    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    changed = small.settings.incoming / "second.fasta"
    changed.write_text(changed.read_text() + "ACGT\n")
    chunk, translate = SAMPLES.key("chunked_fasta"), SAMPLES.key("translated_proteins")
    (text,) = failures(small.materialize(chunk, translate, partition=SAMPLES))
    assert f"samples/chunked_fasta: some failed; all others are recorded:\n  second: {changed}: " in text
    assert "the file is not the one that was planned" in text
    assert done(small, "chunked_fasta") == {"first", "third"}
    assert tables(small, "chunked_fasta") == {"first-000001", "third-000001"}
    assert done(small, "translated_proteins") == set()
    assert list(small.settings.var.rglob("*.partial")) == []
    small.workspace.layout.plan("samples", "first").unlink()
    (text,) = failures(small.materialize(chunk, partition="first"))
    assert "sample 'first' is not planned; materialize samples/shard_plan first" in text
    assert failures(small.materialize(translate, partition="third")) == []

    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert failures(small.materialize(chunk, translate, partition="second")) == []
    assert done(small, "chunked_fasta") == {"first", "second", "third"}
    assert tables(small, "translated_proteins") == {"second-000002", "third-000001"}


def test_a_split_of_incomplete_shards_names_those_that_lack(blank: Path, tmp_path: Path) -> None:
    project = new_project(tmp_path / "project", blank, ["HIV1", "plasmid_pPCP1"])
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    chain = (REFERENCE.key("chunked_fasta"), REFERENCE.key("translated_proteins"))
    assert failures(project.materialize(*chain, partition="viral-0001")) == []
    (text,) = failures(project.materialize("train_test_split"))
    assert "reference/translated_proteins: 1 of 2 shards have no table (host-0001)" in text


def test_a_split_of_frames_of_an_older_source_is_refused(copied: Project) -> None:
    """Relatives are sought in today's files, so rows of yesterday's must not be assigned by them."""
    path = copied.settings.genomes / "viral/HIV1.fna"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:90]]))
    assert failures(copied.job(PLAN_REFERENCE_JOB)) == []
    (text,) = failures(copied.materialize("train_test_split"))
    assert "viral-000" in text


def test_features_refuse_embeddings_of_another_encoder_and_list_every_mismatch(copied: Project) -> None:
    layout, shard = copied.workspace.layout, copied.shards(SAMPLES)[0]
    embeddings = layout.table("samples", "fastesm2_650_embeddings", shard)
    path = layout.table("samples", "fastesm2_features", shard)
    table, provenance, before = read_table(embeddings), read_provenance(embeddings), path.read_bytes()
    other = {"encoder": "esm2_650_miniature", "precision": "bf16", "checkpoint_digest": "other"}
    write_table(embeddings, table, {**provenance, "encoder": {**provenance["encoder"], **other}})
    (text,) = failures(copied.materialize(SAMPLES.key("fastesm2_features"), partition=SAMPLE))
    for name, found in other.items():
        assert f"encoder.{name}: expected {provenance['encoder'][name]}, found {found}" in text
    assert f"  {SAMPLE}: " in text and f"fastesm2_650_embeddings/{shard}.parquet: not the table" in text
    assert path.read_bytes() == before


def test_other_encoders_chunk_lengths_and_frame_rules_are_refused_for_predictions_and_training(copied: Project) -> None:
    config = copied.workspace.layout.checkpoints / "fastesm2_650_miniature/config.json"
    config.write_text(config.read_text() + "\n")
    (text,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=SAMPLE))
    assert "protein encoder: checkpoint_digest: expected" in text
    (text,) = failures(copied.materialize("fastesm2_classifier"))
    assert "reference/fastesm2_650_embeddings/host-0001.parquet: not the table" in text
    assert "encoder.checkpoint_digest: expected" in text
    copied.configure(sequences={"chunk_length": 300})
    (text,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=SAMPLE))
    assert "chunk_length: expected 500, found 300" in text
    copied.configure(sequences={"frame_rule": "longest_orf"})
    (text,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=SAMPLE))
    assert "frame rule: expected 'stop_free', found 'longest_orf of at least 30 aa'" in text
    (text,) = failures(copied.materialize(REFERENCE.key("fastesm2_650_embeddings"), partition="host-0001"))
    assert "translated_proteins/host-0001.parquet: not the table" in text
    assert "frame_rule: expected longest_orf, found nothing" in text


def test_a_damaged_classifier_is_refused_and_replaced_by_training(copied: Project) -> None:
    weights = copied.workspace.layout.classifier("fastesm2") / "classifier.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (text,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=SAMPLE))
    assert "damaged" in text
    assert failures(copied.materialize("fastesm2_classifier")) == []
    assert weights.read_bytes() == whole


def test_a_report_on_predictions_of_an_older_file_is_refused(copied: Project) -> None:
    """The records have their old ids, so no check can see it afterwards."""
    path = copied.settings.incoming / f"{SAMPLE}.fasta"
    path.write_text(path.read_text().replace("ACG", "ACT"))
    assert failures(copied.job(jobs.PLAN_SAMPLES_JOB)) == []
    (text,) = failures(copied.materialize(SAMPLES.key("report"), partition=SAMPLE))
    assert f"translated_proteins/{SAMPLE}-00000" in text and "missing, or not of today's records" in text


def test_a_replaced_sample_is_reported_by_its_new_records_alone(copied: Project) -> None:
    write_sample(copied.settings.incoming / f"{SAMPLE}.fasta", ["worm_ZK637"])
    assert failures(copied.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert failures(*copied.run_shards(jobs.SAMPLE_JOB, SAMPLES)) == []
    lines = (copied.workspace.layout.sample_report(SAMPLE) / "summary.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == ["worm_ZK637"]


def test_a_failing_check_is_recorded_against_the_wrong_table(copied: Project) -> None:
    """Rows that no encoder would make, under the right provenance: the check sees what reuse does not."""
    shard = copied.shards(SAMPLES)[0]
    path = copied.workspace.layout.table("samples", "fastesm2_650_embeddings", shard)
    table = read_table(path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.full(table.num_rows * 32, np.nan, np.float32)), 32)
    write_table(
        path, pa.table([table["frame_id"], table["digest"], vectors], schema=table.schema), read_provenance(path)
    )
    result = copied.materialize(SAMPLES.key("fastesm2_650_embeddings"), partition=SAMPLE)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["embeddings_are_finite"].passed
    assert checks["embedding_ids_match_frames"].passed
    faults = [row.data for row in checks["embeddings_are_finite"].metadata["first_faults"].records]  # type: ignore[union-attr]
    ids = table["frame_id"].to_pylist()[: len(faults)]
    assert faults == [{"where": shard, "fault": f"{frame}: vector is not finite"} for frame in ids] != []

"""What goes wrong is told once, by file, record and shard; nothing wrong is left behind, and neighbours go on."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLE_NAMES, SAMPLES
from virnuc_assets.requests import RANGE_START, contiguous_ranges
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import read_recipe, read_table, write_table
from virnuc_assets_tests.assets.project import (
    PLAN_REFERENCE_JOB,
    SAMPLE,
    Finished,
    Project,
    failures,
    new_project,
    write_sample,
)

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def small(blank: Path, tmp_path: Path) -> Iterator[Project]:
    """Three samples of one shard each; nothing is planned."""
    samples = {"first": ["rabies_N"], "second": ["hepatitis_delta"], "third": ["fluA_PB2"]}
    project = new_project(tmp_path / "project", blank, samples=samples)
    yield project
    project.instance.dispose()


def done(project: Project, asset: str) -> set[str]:
    return set(project.instance.get_materialized_partitions(SAMPLES.key(asset)))


def tables(project: Project, asset: str) -> set[str]:
    return {path.stem for path in project.workspace.layout.table("samples", asset, "x").parent.glob("*.parquet")}


def range_of(project: Project) -> tuple[str, str]:
    keys = project.keys(SAMPLES)
    return keys[0], keys[-1]


BROKEN = {
    "cut.fasta.gz": ["cut.fasta.gz", "cut or corrupt"],
    "unnamed.fasta": ["unnamed.fasta", "line 3", "without an id"],
    "protein.fasta": ["protein.fasta", "'some_protein'", "line 2", "looks like protein"],
    "empty.fasta": ["empty.fasta", "the file is empty"],
}


def break_samples(incoming: Path) -> None:
    whole = gzip.compress(b">a\n" + b"ACGTTGCA" * 4000 + b"\n")
    (incoming / "cut.fasta.gz").write_bytes(whole[: len(whole) // 2])
    (incoming / "unnamed.fasta").write_text(">seq7 x\nACGTACGT\n>\nACGTAC\n")
    (incoming / "protein.fasta").write_text(">some_protein\nMKVLEEFIPQLL\n")
    (incoming / "empty.fasta").write_text("")


def test_broken_samples_are_named_and_the_others_are_predicted(copied: Project) -> None:
    break_samples(copied.settings.incoming)
    write_sample(copied.settings.incoming / "zebra.fasta", ["rabies_N"])
    before = copied.keys(SAMPLES)
    planned = copied.job(jobs.PLAN_SAMPLES_JOB)

    (told,) = failures(planned)
    lines = {line.split(":")[0]: line for line in told.splitlines() if line.split(":")[0] in BROKEN}
    for name, words in BROKEN.items():
        line = lines[name]
        assert [word for word in words if word not in line] == [], line
    assert copied.keys(SAMPLES) == [*before, "zebra-000001"]
    assert set(copied.instance.get_dynamic_partitions(str(SAMPLE_NAMES.name))) == {SAMPLE, "zebra"}
    assert {"shard_plan": tables(copied, "shard_plan")} == {"shard_plan": {SAMPLE, "zebra"}}

    assert failures(copied.range(jobs.SAMPLE_JOB, ["zebra-000001", "zebra-000001"])) == []
    assert failures(copied.job(jobs.REPORT_JOB, partition_key="zebra")) == []
    assert (copied.workspace.layout.sample_report("zebra") / "records.tsv").read_text().count("\n") == 2


def test_a_broken_reference_source_leaves_the_partitions_as_they_are(copied: Project) -> None:
    path = copied.settings.genomes / "viral/dengue1.fna"
    path.write_text(">x\nMKVLEEFIPQLL\n")
    before = copied.keys(REFERENCE)
    (told,) = failures(copied.job(PLAN_REFERENCE_JOB))
    assert "dengue1" in told
    assert str(path) in told
    assert copied.keys(REFERENCE) == before


def test_a_record_that_two_sources_share_is_refused(copied: Project) -> None:
    viral = copied.settings.genomes / "viral"
    shutil.copyfile(viral / "dengue1.fna", viral / "dengue2.fna")
    (told,) = failures(copied.job(PLAN_REFERENCE_JOB))
    assert "occurs in sources 'dengue1' and 'dengue2'" in told


def test_two_files_of_one_name_are_refused(small: Project) -> None:
    shutil.copyfile(small.settings.incoming / "first.fasta", small.settings.incoming / "first.fa")
    (told,) = failures(small.job(jobs.PLAN_SAMPLES_JOB))
    assert "first.fasta: named 'first' as 'first.fa' is; rename one" in told


def test_a_source_that_changed_fails_its_shard_alone(small: Project) -> None:
    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    changed = small.settings.incoming / "second.fasta"
    changed.write_text(changed.read_text() + "ACGT\n")
    (told,) = failures(small.materialize(SAMPLES.key("chunked_fasta"), partition=range_of(small)))
    assert "samples/chunked_fasta: shards failed; all others are recorded (1)" in told
    assert "\nMend what is named and run these again; the others are kept." in told
    assert f"second-000001: SourceChanged: {changed}" in told
    assert done(small, "chunked_fasta") == tables(small, "chunked_fasta") == {"first-000001", "third-000001"}
    assert [path for path in small.settings.var.rglob("*.partial")] == []

    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert small.keys(SAMPLES) == ["first-000001", "third-000001", "second-000002"]
    assert failures(small.materialize(SAMPLES.key("chunked_fasta"), partition="second-000002")) == []
    assert done(small, "chunked_fasta") == {"first-000001", "second-000002", "third-000001"}


def test_a_source_that_changed_fails_a_run_of_one_shard(small: Project) -> None:
    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    (small.settings.incoming / "second.fasta").write_text(">other\nACGT\n")
    (told,) = failures(small.materialize(SAMPLES.key("chunked_fasta"), partition="second-000001"))
    assert "the file is not the one that was planned" in told
    assert done(small, "chunked_fasta") == tables(small, "chunked_fasta") == set()


def test_later_stages_of_the_shards_that_succeeded_can_be_run(small: Project) -> None:
    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    (small.settings.incoming / "second.fasta").unlink()
    chunk, translate = SAMPLES.key("chunked_fasta"), SAMPLES.key("translated_proteins")
    (told,) = failures(small.materialize(chunk, translate, partition=range_of(small)))
    assert "no such sequence file" in told
    assert done(small, "translated_proteins") == set()
    keys = small.keys(SAMPLES)
    ready = [key for key in keys if key in done(small, "chunked_fasta")]
    for chosen in contiguous_ranges(keys, ready):
        assert failures(small.materialize(translate, partition=(chosen[0], chosen[-1]))) == []
    assert done(small, "translated_proteins") == {"first-000001", "third-000001"}


def test_frames_of_a_missing_chunk_table_say_what_to_materialize(small: Project) -> None:
    assert failures(small.job(jobs.PLAN_SAMPLES_JOB)) == []
    (told,) = failures(small.materialize(SAMPLES.key("translated_proteins"), partition="first-000001"))
    assert "materialize samples/chunked_fasta (partition first-000001) first" in told


def test_chunks_of_other_shard_bounds_are_refused(blank: Path, tmp_path: Path) -> None:
    """The same file planned into other shards gives the same shard key to other chunks."""
    project = new_project(tmp_path / "project", blank, samples={"flu": ["fluA_PB2"]})
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert failures(project.materialize(SAMPLES.key("chunked_fasta"), partition="flu-000001")) == []
    project.configure(sequences={"shard_chunks": 3})
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    (told,) = failures(project.materialize(SAMPLES.key("translated_proteins"), partition="flu-000001"))
    assert "not the table that is required" in told


def test_a_split_of_incomplete_shards_names_those_that_lack(blank: Path, tmp_path: Path) -> None:
    project = new_project(tmp_path / "project", blank, ["HIV1", "phiX174"])
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    chain = (REFERENCE.key("chunked_fasta"), REFERENCE.key("translated_proteins"))
    assert failures(project.materialize(*chain, partition="HIV1-000001")) == []
    (told,) = failures(project.materialize("train_test_split"))
    assert "reference/translated_proteins: 1 of 2 shards have no table (phiX174-000001)" in told


def test_a_split_of_frames_of_an_older_source_is_refused(copied: Project) -> None:
    """Relatives are sought in today's files, so rows of yesterday's must not be dealt by them."""
    path = copied.settings.genomes / "viral/HIV1.fna"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[:90]]))
    assert failures(copied.job(PLAN_REFERENCE_JOB)) == []
    (told,) = failures(copied.materialize("train_test_split"))
    assert "HIV1-000002" in told


def replace_embeddings(project: Project, dim: int, **encoder: str) -> str:
    """Put embeddings of another encoder in the place of a sample shard's; returns the shard."""
    shard = project.keys(SAMPLES)[0]
    path = project.workspace.layout.table("samples", "fastesm2_650_embeddings", shard)
    table, recipe = read_table(path), read_recipe(path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(table.num_rows * dim, np.float32)), dim)
    table = pa.table([table["frame_id"], table["digest"], vectors], schema=embeddings_schema(dim))
    write_table(path, table, {**recipe, "encoder": {**recipe["encoder"], **encoder}})
    return shard


def test_features_refuse_embeddings_of_another_encoder_and_list_every_mismatch(copied: Project) -> None:
    replace_embeddings(copied, 40, encoder="esm2_650_miniature", precision="bf16", checkpoint_digest="other")
    features = SAMPLES.key("fastesm2_features")
    first, second = copied.keys(SAMPLES)
    path = copied.workspace.layout.table("samples", "fastesm2_features", first)
    before = path.read_bytes()
    (told,) = failures(copied.materialize(features, partition=(first, second)))
    for mismatch in (
        "encoder.encoder: expected fastesm2_650_miniature, found esm2_650_miniature",
        "encoder.precision: expected fp32, found bf16",
        "encoder.checkpoint_digest: expected",
    ):
        assert mismatch in told
    assert f"{first}: TableMismatch" in told
    assert f"{second}: " not in told
    assert path.read_bytes() == before


def test_features_refuse_embeddings_of_other_frames(copied: Project) -> None:
    shard = copied.keys(SAMPLES)[0]
    path = copied.workspace.layout.table("samples", "dnabert_s_embeddings", shard)
    table = read_table(path)
    write_table(path, table.slice(1), read_recipe(path))
    (told,) = failures(copied.materialize(SAMPLES.key("fastesm2_features"), partition=shard))
    assert "1 frames without one" in told
    assert table.column("frame_id")[0].as_py() in told


def test_a_classifier_of_other_encoders_is_refused_for_predictions(copied: Project) -> None:
    config = copied.workspace.layout.checkpoints / "fastesm2_650_miniature/config.json"
    config.write_text(config.read_text() + "\n")
    (told,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=copied.keys(SAMPLES)[0]))
    assert "ClassifierMismatch" in told
    assert "protein encoder: checkpoint_digest: expected" in told


def test_a_classifier_of_another_chunk_length_is_refused_for_predictions(copied: Project) -> None:
    copied.configure(sequences={"chunk_length": 300})
    (told,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=copied.keys(SAMPLES)[0]))
    assert "chunk_length: expected 500, found 300" in told


def test_features_of_older_encoders_are_refused_for_training(copied: Project) -> None:
    config = copied.workspace.layout.checkpoints / "fastesm2_650_miniature/config.json"
    config.write_text(config.read_text() + "\n")
    (told,) = failures(copied.materialize("fastesm2_classifier"))
    assert "reference/fastesm2_features" in told
    assert "encoders.protein.checkpoint_digest: expected" in told


def test_a_damaged_classifier_is_refused_and_replaced_by_training(copied: Project) -> None:
    weights = copied.workspace.layout.classifier("fastesm2") / "classifier.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (told,) = failures(copied.materialize(SAMPLES.key("predictions"), partition=copied.keys(SAMPLES)[0]))
    assert "damaged" in told
    assert failures(copied.materialize("fastesm2_classifier")) == []
    assert weights.read_bytes() == whole


def replace_sample(project: Project) -> None:
    """Another file under the name of a sample that was predicted."""
    write_sample(project.settings.incoming / f"{SAMPLE}.fasta", ["worm_ZK637"])
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []


def test_a_report_on_predictions_of_an_older_file_is_refused(copied: Project) -> None:
    """The records have their old ids, so no check can see it afterwards."""
    path = copied.settings.incoming / f"{SAMPLE}.fasta"
    path.write_text(path.read_text().replace("ACG", "ACT"))
    assert failures(copied.job(jobs.PLAN_SAMPLES_JOB)) == []
    (told,) = failures(copied.job(jobs.REPORT_JOB, partition_key=SAMPLE))
    assert f"{SAMPLE}-000001" in told


def requested(project: Project) -> list[str]:
    context = dg.build_sensor_context(instance=project.instance, definitions=project.defs)
    requests = [found for found in project.defs.resolve_sensor_def("planned_samples")(context)]
    return [request.tags[RANGE_START] for request in requests if isinstance(request, dg.RunRequest)]


def test_a_replaced_sample_is_requested_again(finished: Finished, tmp_path: Path) -> None:
    """On an instance that knows that the sample was predicted."""
    project = finished.copy(tmp_path / "project", with_history=True)
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert requested(project) == []
    before = [key for key in project.keys(SAMPLES) if source_of(key) == SAMPLE]
    replace_sample(project)
    after = [key for key in project.keys(SAMPLES) if source_of(key) == SAMPLE]
    assert requested(project) == after[:1]
    assert not {*before} & {*after}
    project.instance.dispose()


def test_a_replaced_sample_is_reported_by_its_new_records_alone(copied: Project) -> None:
    replace_sample(copied)
    assert failures(*copied.run_shards(jobs.SAMPLE_JOB, SAMPLES)) == []
    assert failures(copied.job(jobs.REPORT_JOB, partition_key=SAMPLE)) == []
    lines = (copied.workspace.layout.sample_report(SAMPLE) / "records.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["worm_ZK637"]


def test_a_failing_check_is_recorded_against_the_wrong_table(copied: Project) -> None:
    """Rows that no encoder would make, under the right recipe: the check sees what reuse does not."""
    shard = copied.keys(SAMPLES)[0]
    path = copied.workspace.layout.table("samples", "fastesm2_650_embeddings", shard)
    table = read_table(path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.full(table.num_rows * 32, np.nan, np.float32)), 32)
    write_table(path, pa.table([table["frame_id"], table["digest"], vectors], schema=table.schema), read_recipe(path))
    result = copied.materialize(SAMPLES.key("fastesm2_650_embeddings"), partition=shard)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["embeddings_are_finite"].passed
    assert checks["embedding_ids_match_frames"].passed
    first = json.dumps(checks["embeddings_are_finite"].metadata["first_faults"].value)
    assert shard in first

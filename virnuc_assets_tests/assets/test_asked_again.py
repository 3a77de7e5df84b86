"""The watched folder's sensors ask for what lies on disk otherwise than it should, whatever happened to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from virnuc_assets import automation
from virnuc_assets.partitions import SAMPLES
from virnuc_assets_tests.assets.project import SAMPLE, SAMPLE_RECORDS, Finished, Project, failures, write_sample
from virnuc_assets_tests.watching_fakes import look, ranges_of

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def reported(finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project that knows what it made, and asks for nothing."""
    project = finished.copy(tmp_path / "project", with_history=True)
    replace_sample(project, SAMPLE_RECORDS)
    if asked(project, "predicted_samples"):  # the copy is newer than what it was copied from
        report(project)
    assert (asked(project, "planned_samples"), asked(project, "predicted_samples")) == ([], [])
    return project


def asked(project: Project, sensor: str) -> list[tuple[str, str]]:
    return ranges_of(look(project.defs, project.instance, sensor)[0])


def replace_sample(project: Project, records: tuple[str, ...]) -> None:
    write_sample(project.settings.incoming / f"{SAMPLE}.fasta", records)
    assert failures(project.job(automation.PLAN_SAMPLES_JOB)) == []


def predict(project: Project) -> None:
    assert failures(*project.run_shards(automation.SAMPLE_JOB, SAMPLES)) == []


def report(project: Project) -> None:
    ((first, last),) = asked(project, "predicted_samples")
    assert failures(project.range(automation.REPORT_JOB, [first, last])) == []


def reported_records(project: Project) -> list[str]:
    lines = (project.workspace.layout.sample_report(SAMPLE) / "records.tsv").read_text().splitlines()
    return [line.split("\t")[0] for line in lines[1:]]


def test_a_replaced_sample_is_asked_for_until_its_predictions_are_those_of_the_new_file(reported: Project) -> None:
    """Also where a killed run left it with new chunks and old predictions."""
    keys = reported.keys(SAMPLES)
    replace_sample(reported, SAMPLE_RECORDS[1:])
    waiting = asked(reported, "planned_samples")
    assert waiting
    assert asked(reported, "predicted_samples") == []
    stages = [SAMPLES.key(name) for name in ("chunked_fasta", "translated_proteins")]
    for first, last in waiting:
        assert failures(reported.materialize(*stages, partition=(first, last) if first != last else first)) == []
    assert asked(reported, "planned_samples") == waiting
    assert asked(reported, "predicted_samples") == []
    predict(reported)
    assert asked(reported, "planned_samples") == []
    report(reported)
    assert reported_records(reported) == list(SAMPLE_RECORDS[1:])
    assert asked(reported, "predicted_samples") == []
    assert set(reported.keys(SAMPLES)) <= set(keys)


def test_a_record_that_left_the_file_leaves_the_report(reported: Project) -> None:
    """Though every shard that is left has its predictions already."""
    replace_sample(reported, SAMPLE_RECORDS[:-1])
    predict(reported)
    report(reported)
    replace_sample(reported, SAMPLE_RECORDS)
    predict(reported)
    report(reported)
    added = set(reported.keys(SAMPLES))
    replace_sample(reported, SAMPLE_RECORDS[:-1])
    predict(reported)
    report(reported)
    assert reported_records(reported) == list(SAMPLE_RECORDS[:-1])
    assert set(reported.keys(SAMPLES)) <= added


def test_deleted_predictions_are_asked_for(reported: Project) -> None:
    shard = reported.keys(SAMPLES)[-1]
    reported.workspace.layout.table("samples", "predictions", shard).unlink()
    assert asked(reported, "planned_samples") == [(shard, shard)]
    assert asked(reported, "predicted_samples") == []


def test_a_deleted_report_is_asked_for(reported: Project) -> None:
    shutil.rmtree(reported.workspace.layout.sample_report(SAMPLE))
    assert asked(reported, "predicted_samples") == [(SAMPLE, SAMPLE)]
    report(reported)
    assert asked(reported, "predicted_samples") == []


def test_tables_between_are_not_needed_once_there_are_predictions(reported: Project) -> None:
    """A person may free the disk of a sample's embeddings."""
    names = reported.workspace.encoder_names("samples")
    for stage in ("chunked_fasta", *(f"{name}_embeddings" for name in names), "fastesm2_features"):
        shutil.rmtree(reported.workspace.layout.table("samples", stage, "any").parent)
    assert asked(reported, "planned_samples") == []

"""What lies on disk tells which tables are not those of today, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from virnuc_assets import automation
from virnuc_assets.assets.changed_sources import changed_sources
from virnuc_assets.assets.staleness import DAMAGED, MISSING, NO_CLASSIFIER, UPSTREAM, stale
from virnuc_assets.partitions import REFERENCE, SAMPLES
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, SAMPLE, Finished, Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def reasons(project: Project) -> dict[str, dict[str, str]]:
    """Stale shards of both domains."""
    return stale(project.workspace, "reference") | stale(project.workspace, "samples")


@pytest.fixture
def planned(copied: Project) -> Project:
    """A copy that knows where its own files lie."""
    assert set(changed_sources(copied.workspace).values()) == {"its files lie elsewhere than was planned"}
    assert failures(copied.job(PLAN_REFERENCE_JOB)) == []
    assert changed_sources(copied.workspace) == {}
    return copied


def one_shard(project: Project) -> tuple[str, Path]:
    """A shard of the reference and the folder of its domain."""
    return project.keys(REFERENCE)[0], project.workspace.layout.results / "reference"


def test_of_a_finished_project_nothing_is_stale(finished: Finished) -> None:
    assert reasons(finished) == {}
    assert changed_sources(finished.workspace) == {}


def test_what_is_missing_or_damaged_is_told_where_it_lies(copied: Project) -> None:
    shard, folder = one_shard(copied)
    (folder / f"kmer_dna_embeddings/{shard}.parquet").unlink()
    (folder / f"fastesm2_650_embeddings/{shard}.parquet").write_bytes(b"PAR1")
    assert reasons(copied) == {
        shard: {
            "fastesm2_650_embeddings": DAMAGED,
            "kmer_dna_embeddings": MISSING,
            "fastesm2_features": UPSTREAM,
            "kmer_features": UPSTREAM,
        }
    }


def test_frames_without_their_ledger_are_stale_as_a_run_finds_them(copied: Project) -> None:
    shard, folder = one_shard(copied)
    (folder / f"ledger/{shard}.parquet").unlink()
    found = reasons(copied)
    assert found[shard]["translated_proteins"] == "its ledger is missing, damaged or another's"
    assert set(found[shard].values()) == {UPSTREAM, found[shard]["translated_proteins"]}


def test_an_exchanged_checkpoint_is_told_of_each_shard_and_of_no_other_encoder(copied: Project) -> None:
    checkpoint = copied.workspace.layout.checkpoints / "fastesm2_650_miniature"
    config = checkpoint / "config.json"
    config.write_text(config.read_text() + "\n")
    found = reasons(copied)
    assert set(found) == {*copied.keys(REFERENCE), *copied.keys(SAMPLES)}
    for shard, of in found.items():
        changed = "encoder fastesm2_650_miniature: weights changed (expected "
        assert of.pop("fastesm2_650_embeddings").startswith(changed)
        assert of.pop("fastesm2_features") == UPSTREAM
        assert of == ({"predictions": UPSTREAM} if shard.startswith(SAMPLE) else {})


def test_a_checkpoint_that_is_gone_is_a_reason(copied: Project) -> None:
    (copied.workspace.layout.checkpoints / "esm2_3b_miniature/vocab.txt").unlink()
    assert {of["esm2_3b_embeddings"] for of in reasons(copied).values()} == {
        "encoder esm2_3b_miniature: its checkpoint is damaged; `virnuc doctor` tells more"
    }


def test_another_precision_is_told_by_its_name(copied: Project) -> None:
    copied.configure(encoding={"precision": "bf16"})
    (reason,) = {of["fastesm2_650_embeddings"] for of in reasons(copied).values()}
    assert reason == "encoder fastesm2_650_miniature: precision changed (expected bf16, found fp32)"


def test_another_chunk_length_makes_everything_stale(planned: Project) -> None:
    planned.configure(sequences={"chunk_length": 300})
    assert {of["chunked_fasta"] for of in reasons(planned).values()} == {
        "the chunk length changed (expected 300, found 500)"
    }
    assert set(changed_sources(planned.workspace).values()) == {"chunk_length changed (expected 300, found 500)"}


def test_a_changed_record_is_told_before_and_after_it_is_planned(planned: Project) -> None:
    source = next(source for source in planned.workspace.catalogue() if source.name == "HIV1")
    lines = source.fasta.read_text().splitlines()
    source.fasta.write_text("\n".join([lines[0], *lines[2:]]))
    assert changed_sources(planned.workspace) == {"HIV1": "its files changed since they were planned"}
    assert reasons(planned) == {}  # nothing is known of the letters yet

    before = planned.keys(REFERENCE)
    assert failures(planned.job(PLAN_REFERENCE_JOB)) == []
    assert changed_sources(planned.workspace) == {}
    new = [key for key in planned.keys(REFERENCE) if key not in before]
    assert new
    assert {shard: set(of.values()) for shard, of in reasons(planned).items()} == {shard: {MISSING} for shard in new}


def test_a_touched_file_is_planned_again_and_nothing_is_stale(planned: Project) -> None:
    source = planned.workspace.catalogue()[0]
    os.utime(source.fasta)
    assert changed_sources(planned.workspace) == {source.name: "its files changed since they were planned"}
    assert failures(planned.job(PLAN_REFERENCE_JOB)) == []
    assert changed_sources(planned.workspace) == {}
    assert reasons(planned) == {}


def test_plans_that_are_missing_or_damaged_are_told_by_source(planned: Project) -> None:
    plan = planned.workspace.layout.plan
    plan("reference", "HIV1").unlink()
    plan("reference", "dengue1").write_bytes(b"")
    assert changed_sources(planned.workspace) == {"HIV1": "not planned yet", "dengue1": "its plan is damaged"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / CLASSIFIER_FILE).unlink(), NO_CLASSIFIER),
        (
            lambda folder: (folder / CLASSIFIER_FILE).write_text('{"weights_sha256": "0"}'),
            "the serving classifier changed",
        ),
    ],
    ids=["gone", "another"],
)
def test_predictions_follow_the_serving_classifier(
    copied: Project, change: Callable[[Path], None], reason: str
) -> None:
    change(copied.workspace.layout.classifier("fastesm2"))
    assert reasons(copied) == {shard: {"predictions": reason} for shard in copied.keys(SAMPLES)}


def test_what_is_made_on_demand_counts_only_where_it_exists(copied: Project) -> None:
    shard = copied.keys(SAMPLES)[0]
    folder = copied.workspace.layout.results / "samples"
    (folder / f"esm2_3b_features/{shard}.parquet").unlink()
    (folder / f"esm2_3b_embeddings/{shard}.parquet").unlink()
    assert reasons(copied) == {}


def test_what_is_stale_is_what_a_run_makes_anew_and_nothing_is_left(copied: Project) -> None:
    shard, folder = one_shard(copied)
    (folder / f"translated_proteins/{shard}.parquet").unlink()
    (folder / f"kmer_protein_embeddings/{shard}.parquet").unlink()
    assert set(reasons(copied)) == {shard}
    result = copied.job(automation.REFERENCE_JOB, partition_key=shard)
    assert failures(result) == []
    assert reasons(copied) == {}

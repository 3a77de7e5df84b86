"""The order of the records, the batch size and the shard size change no embedding and no call."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from Bio import SeqIO

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.assets.project import DATA, Finished, Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

TOLERANCE = 1e-5
SAMPLE = "genomes"
NAMES = ("dnabert_s", "fastesm2_650", "esm2_3b")


def genomes() -> list[SeqIO.SeqRecord]:
    """The first 12 kb of lambda, and three whole genomes."""
    records = []
    for name in ("lambda", "phiX174", "HIV1", "dengue1"):
        with gzip.open(DATA / f"genomes/viral/{name}.fna.gz", "rt") as handle:
            records += [record[:12_000] for record in SeqIO.parse(handle, "fasta")]
    return records


def predicted(project: Project, records: list[SeqIO.SeqRecord], token_budget: int, shard_chunks: int) -> Project:
    """A project after these records went through to the report, and through the baseline."""
    project.configure(encoding={"token_budget": token_budget}, sequences={"shard_chunks": shard_chunks})
    for path in project.settings.incoming.iterdir():
        path.unlink()
    SeqIO.write(records, project.settings.incoming / f"{SAMPLE}.fasta", "fasta")
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    made = (project.job(job, partition_key=SAMPLE) for job in (jobs.SAMPLE_JOB, jobs.OTHER_VARIANT_JOB))
    assert failures(*made) == []
    return project


@pytest.fixture(scope="module")
def plain(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """In file order, in large batches, in one shard."""
    project = finished.copy(tmp_path_factory.mktemp("plain") / "project")
    return predicted(project, genomes(), token_budget=4096, shard_chunks=1000)


@pytest.fixture(scope="module")
def shuffled(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """In reverse, one or two frames a batch, in many shards."""
    project = finished.copy(tmp_path_factory.mktemp("shuffled") / "project")
    return predicted(project, genomes()[::-1], token_budget=340, shard_chunks=18)


def shards_of(project: Project) -> list[str]:
    return SAMPLES.shards(project.workspace.layout, SAMPLE)


def table(project: Project, asset: str) -> pa.Table:
    paths = [project.workspace.layout.table("samples", asset, shard) for shard in shards_of(project)]
    return pa.concat_tables(read_table(path) for path in paths)


def test_order_batches_and_shards_change_no_embedding_no_score_and_no_call(plain: Project, shuffled: Project) -> None:
    ids = [table(project, "translated_proteins").column("frame_id").to_pylist() for project in (plain, shuffled)]
    assert ids[0] != ids[1]
    assert sorted(ids[0]) == sorted(ids[1])
    assert len(ids[0]) > 50
    assert [len(shards_of(project)) for project in (plain, shuffled)] == [1, 5]
    for name in NAMES:
        expected, found = (table(project, f"{name}_embeddings").sort_by("frame_id") for project in (plain, shuffled))
        assert found.select(["frame_id", "digest"]) == expected.select(["frame_id", "digest"])
        assert float(np.abs(vectors_of(found) - vectors_of(expected)).max()) <= TOLERANCE
    expected, found = (table(project, "predictions").sort_by("frame_id") for project in (plain, shuffled))
    assert found.select(["frame_id", "call"]) == expected.select(["frame_id", "call"])
    for column in ("score_other", "score_virus"):
        np.testing.assert_allclose(found[column].to_numpy(), expected[column].to_numpy(), atol=TOLERANCE, rtol=0)
    folders = [project.workspace.layout.sample_report(SAMPLE) for project in (plain, shuffled)]
    highest = [(folder / "prediction_results_highestscore.csv").read_text() for folder in folders]
    assert highest[0] == highest[1]
    expected, found = (pd.read_csv(folder / "summary.tsv", sep="\t").sort_values("record_id") for folder in folders)
    columns = expected.columns.drop("probability")
    pd.testing.assert_frame_equal(*(each[columns].reset_index(drop=True) for each in (expected, found)))
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-4)

"""The frames tables of the graph are, row for row and column for column, those of a plain statement."""

from __future__ import annotations

import csv
import gzip
import shutil
import warnings
from pathlib import Path

import pytest
from Bio import SeqIO

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.assets.project import DATA, PLAN_REFERENCE_JOB, Project, failures
from virnuc_assets_tests.sequences.plain import PlainTruth, plain_table

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

Rows = list[dict[str, object]]
BUNDLED_SHARE = (
    "phiX174",
    "fluA_H1N1_HA",
    "FPV_fragments",
    "gemycircularvirus3",
    "HIV1",
    "DWV",
    "plasmid_pPCP1",
    "human_mito",
)


def framed(project: Project) -> dict[str, Rows]:
    """The frames of each record, its shards one after the other, as the graph makes them."""
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    assets = [REFERENCE.key("chunked_fasta"), REFERENCE.key("translated_proteins")]
    assert failures(project.materialize(*assets, partition=REFERENCE)) == []
    found: dict[str, Rows] = {}
    for shard in project.shards(REFERENCE):
        for row in read_table(project.workspace.layout.table("reference", "translated_proteins", shard)).to_pylist():
            found.setdefault(row["record_id"], []).append(row)
    return found


def require_equal(found: Rows, expected: Rows) -> None:
    differing = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]][:1]
    assert differing == []
    assert len(found) == len(expected)


def plainly_read(folder: Path, label: str, name: str) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Records of a bundled genome by Biopython, and the translations of its CDS."""
    with gzip.open(folder / label / f"{name}.fna.gz", "rt") as handle:
        records = [(record.id, str(record.seq).upper()) for record in SeqIO.parse(handle, "fasta")]
    proteins: dict[str, list[str]] = {}
    if (genbank := folder / label / f"{name}.gbk.gz").is_file():
        with gzip.open(genbank, "rt") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for record in SeqIO.parse(handle, "genbank"):
                found = [f.qualifiers["translation"][0] for f in record.features if "translation" in f.qualifiers]
                if found:
                    proteins[record.id] = found
    return records, proteins


@pytest.mark.parametrize(
    ("chunk_length", "min_orf_aa", "names", "least"),
    [
        *((length, None, BUNDLED_SHARE, 30) for length in (300, 500)),
        (500, 45, BUNDLED_SHARE, 100),
        *(pytest.param(length, None, None, 2000, marks=pytest.mark.slow) for length in (300, 500)),
    ],
)
def test_bundled_genomes(
    untrained: Project, chunk_length: int, min_orf_aa: int | None, names: tuple[str, ...] | None, least: int
) -> None:
    """All frames of some, or of all; whole, or their longest stretches."""
    folder = untrained.settings.genomes
    shutil.copytree(DATA / "genomes", folder, dirs_exist_ok=True)
    with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if names is None or row["name"] in names]
    write_manifest(folder, rows)
    stretches = {"frame_rule": "longest_orf", "min_orf_aa": min_orf_aa} if min_orf_aa else {}
    untrained.configure(sequences={"chunk_length": chunk_length, "shard_chunks": 400, **stretches})
    found, of_sources = framed(untrained), 0
    for row in rows:
        records, proteins = plainly_read(folder, row["label"], row["name"])
        expected = plain_table(records, chunk_length, PlainTruth(row["label"], row["group"], proteins), min_orf_aa)
        require_equal([row for name, _ in records for row in found.get(name, ())], expected)
        of_sources += len(expected)
    assert of_sources == sum(map(len, found.values())) > least

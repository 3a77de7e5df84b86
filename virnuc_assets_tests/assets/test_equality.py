"""The frames tables of the graph are, row for row and column for column, those of a plain statement."""

from __future__ import annotations

import csv
import gzip
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from Bio import SeqIO

from virnuc_assets.defs.partitions import REFERENCE, ShardSet
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


def framed(project: Project, shards: ShardSet, plan: str, settings: Mapping[str, Any]) -> dict[str, Rows]:
    """The frames of each record, its shards one after the other, as the graph makes them."""
    project.configure(sequences={**settings, "shard_chunks": 400})
    assert failures(project.job(plan)) == []
    assets = [shards.key("chunked_fasta"), shards.key("translated_proteins")]
    assert failures(project.materialize(*assets, partition=shards)) == []
    found: dict[str, Rows] = {}
    for shard in project.shards(shards):
        for row in read_table(project.workspace.layout.table(shards.domain, "translated_proteins", shard)).to_pylist():
            found.setdefault(row["record_id"], []).append(row)
    return found


def all_of(framed: dict[str, Rows], records: Iterable[str]) -> Rows:
    """Frames of some records, in their order."""
    return [row for record in records for row in framed.get(record, ())]


def catalogue(project: Project, *rows: dict[str, str]) -> None:
    """Write the catalogue; columns are those of the bundled one, empty where a row does not name them."""
    with (DATA / "genomes/MANIFEST.tsv").open(encoding="utf-8", newline="") as handle:
        columns = next(csv.reader(handle, delimiter="\t"))
    with (project.settings.genomes / "MANIFEST.tsv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, extrasaction="ignore", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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


def require_bundled(project: Project, names: list[str] | None, chunk_length: int, min_orf_aa: int | None = None) -> int:
    """Compare all frames of some bundled genomes, or of all; returns how many there are."""
    shutil.copytree(DATA / "genomes", project.settings.genomes, dirs_exist_ok=True)
    with (DATA / "genomes/MANIFEST.tsv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if names is None or row["name"] in names]
    catalogue(project, *rows)
    settings: dict[str, Any] = {"chunk_length": chunk_length}
    if min_orf_aa is not None:
        settings |= {"frame_rule": "longest_orf", "min_orf_aa": min_orf_aa}
    found = framed(project, REFERENCE, PLAN_REFERENCE_JOB, settings)
    of_sources = 0
    for row in rows:
        records, proteins = plainly_read(project.settings.genomes, row["label"], row["name"])
        expected = plain_table(records, chunk_length, PlainTruth(row["label"], row["group"], proteins), min_orf_aa)
        require_equal(all_of(found, [name for name, _ in records]), expected)
        of_sources += len(expected)
    assert of_sources == sum(map(len, found.values()))
    return of_sources


@pytest.mark.parametrize("names", [list(BUNDLED_SHARE), pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("chunk_length", [300, 500])
def test_bundled_genomes(untrained: Project, chunk_length: int, names: list[str] | None) -> None:
    assert require_bundled(untrained, names, chunk_length) > (30 if names else 2000)


def test_bundled_genomes_by_their_longest_stretches(untrained: Project) -> None:
    assert require_bundled(untrained, list(BUNDLED_SHARE), 500, min_orf_aa=45) > 100

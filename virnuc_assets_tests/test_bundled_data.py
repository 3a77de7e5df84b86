"""The bundled genomes agree with their manifest, and the demo sample is real sequence foreign to them."""

import csv
import gzip
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import reverse_complement

DATA = Path(__file__).parents[1] / "data"
GENOMES = DATA / "genomes"
KMER_NT = 31


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header."""
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def unambiguous_kmers(sequence: str) -> Iterator[str]:
    """Every k-mer of the sequence that holds only A, C, G and T."""
    for run in re.findall("[ACGT]+", sequence.upper()):
        for start in range(len(run) - KMER_NT + 1):
            yield run[start : start + KMER_NT]


MANIFEST = read_rows(GENOMES / "MANIFEST.tsv")


@pytest.fixture(scope="module")
def reference() -> dict[str, list[tuple[str, str]]]:
    """FASTA records of each manifest row, by name."""
    found = {}
    for row in MANIFEST:
        with gzip.open(GENOMES / row["fasta"], "rt") as handle:
            found[row["name"]] = [(record.id, str(record.seq)) for record in SeqIO.parse(handle, "fasta")]
    return found


@pytest.fixture(scope="module")
def sample() -> dict[str, str]:
    """Sequence of each sample record, as written in the file."""
    records = list(SeqIO.parse(DATA / "samples" / "demo_sample.fasta", "fasta"))
    sequences = {record.id: str(record.seq) for record in records}
    assert len(sequences) == len(records), "a record id is there twice"
    return sequences


def test_manifest_names_every_file_and_no_other() -> None:
    assert {row["fasta"] for row in MANIFEST} == {f"{row['label']}/{row['name']}.fna.gz" for row in MANIFEST}
    files = [row[column] for row in MANIFEST for column in ("fasta", "genbank") if row[column]]
    assert {path for path in GENOMES.glob("*/*") if path.is_file()} == {GENOMES / name for name in files}


def test_checksums_and_origins_are_given_and_true() -> None:
    for row in MANIFEST:
        for column in ("fasta", "genbank"):
            content = (GENOMES / row[column]).read_bytes() if row[column] else None
            assert row[f"{column}_sha256"] == (hashlib.sha256(content).hexdigest() if content else ""), row["name"]
        assert row["origin"].startswith(("deb:", "debsrc:", "pypi-sdist:", "pypi-whl:")), row["name"]


def test_relatives_never_span_labels_and_are_never_alone() -> None:
    named = sorted((row["relatives"], row["label"]) for row in MANIFEST if row["relatives"])
    for word, rows in itertools.groupby(named, key=lambda pair: pair[0]):
        labels = [label for _, label in rows]
        assert len(labels) > 1 and len(set(labels)) == 1, word


def test_records_have_the_listed_lengths_unique_ids_and_windows_without_ambiguity(
    reference: dict[str, list[tuple[str, str]]],
) -> None:
    found = {name: sum(len(sequence) for _, sequence in records) for name, records in reference.items()}
    assert found == {row["name"]: int(row["length_nt"]) for row in MANIFEST}
    ids = [record_id for records in reference.values() for record_id, _ in records]
    assert len(set(ids)) == len(ids)
    windows = [row["name"] for row in MANIFEST if row["label"] == "host" and row["window"] != "whole"]
    assert len(windows) > 20
    assert [name for name in windows if any(set(sequence) - set("ACGT") for _, sequence in reference[name])] == []


def test_no_kmer_of_the_sample_is_in_the_reference(
    reference: dict[str, list[tuple[str, str]]], sample: dict[str, str]
) -> None:
    owner = {
        kmer: record_id
        for record_id, sequence in sample.items()
        for strand in (sequence, reverse_complement(sequence))
        for kmer in unambiguous_kmers(strand)
    }
    assert len(owner) > 150_000
    scanned, shared = 0, set()
    for name, records in reference.items():
        for _, sequence in records:
            for kmer in unambiguous_kmers(sequence):
                scanned += 1
                if kmer in owner:
                    shared.add((owner[kmer], name))
    assert scanned > 3_000_000
    assert shared == set()


def test_sample_holds_the_promised_kinds_of_records(sample: dict[str, str]) -> None:
    truth = {row["record_id"]: row["truth"] for row in read_rows(DATA / "samples" / "demo_truth.tsv")}
    assert list(truth) == list(sample)
    labels = list(truth.values())
    assert (labels.count("viral"), labels.count("host"), labels.count("none")) == (6, 9, 1)
    assert {name: len(s) for name, s in sample.items() if len(s) < 500} == {
        "two_nt": 2,
        "yellow_fever_350nt": 350,
        "toxoplasma_120nt": 120,
    }
    assert [name for name, sequence in sample.items() if sequence.islower()] == ["fluA_PB2"]
    assert {name for name, sequence in sample.items() if "NN" in sequence} == {
        *("human_HERG", "soybean_leghemoglobin", "ustilago_chr14")
    }

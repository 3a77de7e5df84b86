"""Tracks for a genome browser as other people's parsers read them, and whether coordinates are those of the input."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import gffutils
import numpy as np
import pysam
import pytest

from virnuc_assets.classifier.sample_calls import CALLS
from virnuc_assets.reports.genome_browser import BED_FILE, GFF_FILE, write_tracks
from virnuc_assets_tests.classifier.sample_fakes import FakeRecord, fake_calls
from virnuc_assets_tests.sequences.plain import walked_chunks

HOSTILE = ["#first", "a;b=c,d&e", "per%cent", ">more", "til~de", "gi|9632547|ref|NC_002077.1|", "日本", '"q"']
SCORES = [{"F1": 0.9, "R2": 0.2}, {}, {"F3": 0.1}, {"R1": 0.55}]


def written(folder: Path, records: list[FakeRecord]) -> tuple[list[pysam.asBed], list[gffutils.Feature]]:
    """All chunks as pysam and gffutils read them."""
    calls = fake_calls(records)
    write_tracks(folder, calls, calls.records["record_id"])
    packed = pysam.tabix_index(str(folder / BED_FILE), preset="bed", keep_original=True)
    with pysam.TabixFile(packed, encoding="utf-8") as tabix:
        bed = list(tabix.fetch(parser=pysam.asBed()))
    database = gffutils.create_db(str(folder / GFF_FILE), ":memory:", merge_strategy="error", verbose=False)
    return bed, list(database.all_features())


def test_chunks_cut_out_of_the_input_are_the_chunks(tmp_path: Path) -> None:
    """Each stretch of a track, cut out of the FASTA by htslib, is the chunk of that number."""
    lengths = {"short": 299, "even": 1000, "odd": 1777}
    generator = np.random.default_rng(0)
    bases = {name: "".join(generator.choice(list("ACGT"), length)) for name, length in lengths.items()}
    fasta = tmp_path / "input.fasta"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in bases.items()))
    spans = {name: walked_chunks(length, 500) for name, length in lengths.items()}
    records = [FakeRecord(name, lengths[name], SCORES[: len(spans[name])]) for name in lengths]
    bed, gff = written(tmp_path, records)
    expected = [(name, number, *span) for name in lengths for number, span in enumerate(spans[name], start=1)]
    assert len(bed) == len(gff) == len(expected) == 7
    with pysam.FastaFile(str(fasta)) as indexed:
        for one, feature, (name, number, start, end) in zip(bed, gff, expected, strict=True):
            assert (one.contig, one.start, one.end, one.name) == (name, start, end, f"{name}_chunk_{number}")
            assert indexed.fetch(one.contig, one.start, one.end) == bases[name][start:end]
            assert indexed.fetch(region=f"{feature.seqid}:{feature.start}-{feature.end}") == bases[name][start:end]
            assert feature.attributes["ID"] == [one.name]


def test_scores_calls_and_frames_are_those_of_the_chunks(tmp_path: Path) -> None:
    bed, gff = written(tmp_path, [FakeRecord("a", 2000, SCORES)])
    assert [one.score for one in bed] == [529, 0, 100, 550]
    assert [feature.score for feature in gff] == ["0.529412", ".", "0.100000", "0.550000"]
    words = ["uncertain", "not scored", "other", "uncertain"]
    assert [feature.attributes["call"] for feature in gff] == [[word] for word in words]
    assert [str(one).split("\t")[9:] for one in bed] == [
        ["uncertain", "0.529412", "F1,R2"],
        ["not scored", ".", "."],
        ["other", "0.100000", "F3"],
        ["uncertain", "0.550000", "R1"],
    ]
    assert {one.itemRGB for one in bed} == {"107,111,118", "201,203,200", "11,97,181"}
    assert gff[0].attributes["frames"] == ["F1", "R2"] and "frames" not in gff[1].attributes
    assert set(words) < set(CALLS)


def test_ids_of_any_characters_come_back(tmp_path: Path) -> None:
    bed, gff = written(tmp_path, [FakeRecord(name, 500, [{"F1": 0.9}]) for name in HOSTILE])
    assert [feature.attributes["ID"][0] for feature in gff] == [f"{name}_chunk_1" for name in HOSTILE]
    assert [unquote(feature.seqid) for feature in gff] == HOSTILE
    lines = (tmp_path / GFF_FILE).read_text().splitlines()
    assert [line for line in lines if line.startswith("##sequence-region")] == [
        f"##sequence-region {feature.seqid} 1 500" for feature in gff
    ]
    assert [one.contig for one in bed] == ["%23first", *HOSTILE[1:]]
    assert [one.name for one in bed] == [f"{name}_chunk_1" for name in HOSTILE]


def test_htslib_indexes_both(tmp_path: Path) -> None:
    written(tmp_path, [FakeRecord(name, 2000, SCORES) for name in ("b", "a")])
    pysam.tabix_index(str(tmp_path / GFF_FILE), preset="gff")
    for name in (BED_FILE, GFF_FILE):
        with pysam.TabixFile(str(tmp_path / f"{name}.gz")) as tabix:
            assert tabix.contigs == ["b", "a"]
            (line,) = tabix.fetch("a", 600, 700)
            assert "a_chunk_2" in line


def test_records_without_chunks_have_no_line(tmp_path: Path) -> None:
    with pytest.raises(gffutils.exceptions.EmptyInputError):
        written(tmp_path, [FakeRecord("a", 0)])
    assert (tmp_path / BED_FILE).read_text() == ""
    assert (tmp_path / GFF_FILE).read_text() == "##gff-version 3\n"

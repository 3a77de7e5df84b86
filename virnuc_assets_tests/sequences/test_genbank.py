"""GenBank: sequences and CDS translations, written here by Biopython, and those of the bundled genomes."""

import gzip
import io
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import FeatureLocation, SeqFeature
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences.chunk_table import read_proteins
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged, open_source
from virnuc_assets.sequences.reading import Record, read_records

GENOMES = Path(__file__).parents[2] / "data" / "genomes"
GENBANKS = sorted(GENOMES.glob("*/*.gbk.gz"))


def feature(kind: str, **qualifiers: str) -> SeqFeature:
    return SeqFeature(FeatureLocation(0, 9), kind, qualifiers={name: [value] for name, value in qualifiers.items()})


def entry(accession: str, letters: str, *features: SeqFeature) -> SeqRecord:
    return SeqRecord(
        Seq(letters), accession, accession.split(".")[0], "made by hand", None, list(features), {"molecule_type": "DNA"}
    )


def genbank(*entries: SeqRecord) -> bytes:
    text = io.StringIO()
    SeqIO.write(entries, text, "genbank")
    return text.getvalue().encode()


TWO_ENTRIES = genbank(
    entry(
        "AB000001.1",
        "ATGGCNCTAUUR",
        feature("gene", gene="x"),
        feature("CDS", translation="MALL"),
        feature("CDS", note="pseudo"),
        feature("mat_peptide", translation="NOT"),
        feature("CDS", translation="KR"),
    ),
    entry("AB000002.3", "ACGT", feature("CDS", note="no translation")),
)


def read(path: Path) -> list[Record]:
    with open_source(path) as source:
        return [Record(found.id, bytes(found.sequence), found.proteins) for found in read_records(source)]


@pytest.mark.parametrize(
    "content",
    [
        TWO_ENTRIES,
        gzip.compress(TWO_ENTRIES, mtime=0),
        TWO_ENTRIES.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + TWO_ENTRIES,
    ],
    ids=["plain", "gzip", "crlf", "bom"],
)
def test_sequences_and_translations_of_cds_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "two.gbk"
    path.write_bytes(content)
    assert read(path) == [Record("AB000001.1", b"ATGGCNCTATTR", ("MALL", "KR")), Record("AB000002.3", b"ACGT")]


def test_records_without_translations_have_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "two.gbk"
    path.write_bytes(TWO_ENTRIES)
    with open_source(path) as source:
        sha256 = source.digest()
    assert read_proteins(path, sha256) == {"AB000001.1": ("MALL", "KR")}
    assert read_proteins(None, None) == {}
    path.write_bytes(TWO_ENTRIES.replace(b'="KR"', b'="KK"'))
    with pytest.raises(SourceChanged, match=str(path)):
        read_proteins(path, sha256)


LONG_ENTRY = genbank(entry("AB1.1", "ACGT" * 200, feature("CDS", translation="MALL")))
END_OF_LINE_3 = LONG_ENTRY.index(b"      181 ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (genbank(entry("AB1.1", "ACGT"), entry("AB1.1", "ACGT")), ["'AB1.1'", "twice"]),
        (genbank(entry("AB1.1", "MKLEAQ")), ["'AB1.1'", "protein"]),
        (LONG_ENTRY[: LONG_ENTRY.index(b"FEATURES")], ["record 1"]),
        (TWO_ENTRIES[: TWO_ENTRIES.rindex(b"CDS")], ["record 2"]),
    ],
    ids=["duplicate", "protein", "cut in the header", "cut in the features"],
)
def test_refusals_name_file_and_record(tmp_path: Path, content: bytes, words: list[str]) -> None:
    assert_refused(tmp_path, content, words)


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize("end", [END_OF_LINE_3, END_OF_LINE_3 + 25], ids=["at a line's end", "within a line"])
def test_a_record_cut_in_its_sequence_is_refused(tmp_path: Path, end: int) -> None:
    """LOCUS says 800 bp."""
    assert_refused(tmp_path, LONG_ENTRY[:end], ["AB1.1", "800"])


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
def test_only_the_end_mark_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "no_end.gbk"
    path.write_bytes(LONG_ENTRY.removesuffix(b"//\n"))
    assert read(path) == [Record("AB1.1", b"ACGT" * 200, ("MALL",))]


@pytest.mark.parametrize("content", [b"LOCUS\n", b"LOCUSTS are insects\nand no sequence\n"])
def test_a_file_without_a_single_record_is_refused(tmp_path: Path, content: bytes) -> None:
    assert_refused(tmp_path, content, [])


def assert_refused(folder: Path, content: bytes, words: list[str]) -> None:
    path = folder / "broken.gbk"
    path.write_bytes(content)
    with pytest.raises(SequenceFileError) as caught:
        read(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


def test_a_blank_entry_is_a_record_without_letters(tmp_path: Path) -> None:
    path = tmp_path / "blank.gbk"
    path.write_bytes(genbank(entry("AB1.1", "")))
    assert read(path) == [Record("AB1.1", b"")]


def test_the_bundled_genomes_have_annotation() -> None:
    assert len(GENBANKS) == 31


@pytest.mark.parametrize("path", GENBANKS, ids=lambda path: path.name)
def test_genbank_and_fasta_of_a_bundled_genome_are_the_same_records(path: Path) -> None:
    """CDS evidence is looked up by the FASTA's record ids, so ids count as much as letters."""
    entries = read(path)
    assert [(found.id, found.sequence) for found in entries] == [
        (found.id, found.sequence) for found in read(path.with_name(path.name.replace(".gbk", ".fna")))
    ]
    assert all(found.proteins for found in entries)

"""GenBank as a stream: entries and bases, what is refused, and that nothing of a record is kept that is not used."""

import gzip
import random
import re
import tracemalloc
import zlib
from pathlib import Path

import pytest

from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.sequences.records import Header
from virnuc_assets_tests.sequences.genbank_files import GENOMES, cds, entry, feature

pytestmark = pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
Read = list[tuple[str, int | None, bytes, tuple[str, ...]]]


def translations(header: Header) -> tuple[str, ...]:
    return tuple(cds.qualifiers["translation"][0] for cds in header.features if "translation" in cds.qualifiers)


def read(path: Path) -> Read:
    """Id, length by LOCUS, bases and proteins of each record."""
    found: Read = []
    with open_source(path) as source:
        for part in read_genbank(source):
            if isinstance(part, Header):
                found.append((part.id, part.length_nt, b"", translations(part)))
            else:
                found[-1] = (*found[-1][:2], found[-1][2] + part, found[-1][3])
    return found


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "made.gbk"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TWO = entry(
    "AB000001.1",
    "atggcnctauur",
    feature("gene", "1..9", 'gene="x"'),
    cds("MALL"),
    feature("CDS", "1..9", 'note="no translation"'),
    feature("mat_peptide", "1..9", 'translation="NOT"'),
    cds("KR"),
) + entry("AB000002.3", "ACGT")
TWO_READ = [("AB000001.1", 12, b"ATGGCNCTATTR", ("MALL", "KR")), ("AB000002.3", 4, b"ACGT", ())]


FORMS = {
    "plain": TWO.encode(),
    "gzip": gzip.compress(TWO.encode(), mtime=0),
    "crlf and bom": b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode(),
    "origin with text": TWO.replace("ORIGIN\n", "ORIGIN      1 bp upstream of //; chromosome 4.\n").encode(),
    "base count": TWO.replace("ORIGIN", "BASE COUNT       1 a      2 c\nORIGIN").encode(),
    "blank lines between": TWO.replace("//\n", "//\n\n").encode(),
    "no positions": TWO.replace("        1 ", "          ").encode(),
    "after the head of a release file": (
        "GBVRL1.SEQ          Genetic Sequence Data Bank\n                         October 15 2023\n\n"
        f"       2 loci,           16 bases, from        2 reported sequences\n\n{TWO}"
    ).encode(),
    "after comments": f"# made by hand\n; twice\n{TWO}".encode(),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_sequences_and_translations_of_cds_alone(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    assert read(path) == TWO_READ
    with open_source(path) as source:
        assert [(header.id, b"".join(found)) for header, found in read_records(source)] == [
            (record_id, symbols) for record_id, _, symbols, _ in TWO_READ
        ]


LONG = entry("AB1.1", "ACGT" * 200, cds("MALL"))
END_OF_LINE_3 = LONG.index("      181 ")


def without_sequence(text: str, *, end: str) -> str:
    return re.sub("ORIGIN.*?//\n", end, text, count=1, flags=re.DOTALL)


AFTER_TWO = [f"line {TWO.count(chr(10)) + 3}, after GenBank record 2: expected the next record's line"]
BROKEN = {
    "a letter of protein": (TWO.replace("ur\n", "ur E\n"), ["record 'AB000001.1', line 22:", "'E'", "protein"]),
    "a digit": (LONG.replace("  181 ACGT", "  181 ACG1"), ["record 'AB1.1', line 17:", "'1'"]),
    "cut in the header": (LONG[: LONG.index("FEATURES")], ["record 1 (from line 1)", "ends at line 7", "cut"]),
    "cut at a line's end": (LONG[:END_OF_LINE_3], ["'AB1.1'", "expected 800 nt", "found 180 up to line 16, where"]),
    "lines missing": (LONG[:END_OF_LINE_3] + "//\n", ["'AB1.1'", "expected 800 nt", "180 up to line 17; it is cut"]),
    "one too many": (LONG.replace("        800 bp", "        799 bp"), ["expected 799 nt", "found 800"]),
    "no end mark": (TWO.replace("//\n", "", 1), ["record 'AB000001.1'", "next LOCUS is in line 23"]),
    "cut, then the next": (without_sequence(TWO, end=""), ["record 1 (from line 1)", "next LOCUS", "line 21"]),
    "neither ORIGIN nor CONTIG": (without_sequence(TWO, end="//\n"), ["record 1 (lines 1 to 21)", "cannot be parsed"]),
    "neither length nor end mark": (
        re.sub(" +800 bp.*", "", LONG).removesuffix("//\n"),
        ["record 'AB1.1'", "a number of nt", "found 800"],
    ),
    "open quote": (TWO.replace('MALL"', "MALL"), ["record 1 (lines 1 to 21)", "Problem with 'CDS' feature"]),
    "a length beyond all": (TWO.replace(" 12 bp", f" {10**30} bp"), ["record 1 (line 1)", "name and length collide"]),
    "name and length that no number of bases separates": (
        re.sub("AB000001 +12 bp", "AB00000113 bp", TWO),
        ["record 1 (line 1)", "'AB00000113'", "the 12 bases", "Put a blank between them"],
    ),
    "name and length that collide, without sequence": (
        re.sub("AB000001 +12", "AB112", without_sequence(TWO, end="CONTIG      join(CD1.1:1..500)\n//\n")),
        ["record 1 (line 1)", "'AB112'", "the 0 bases"],
    ),
    "a protein": (
        "LOCUS       NP_000002                 40 aa            linear   VRL 01-JAN-2020\nORIGIN\n        1 mkta\n//\n",
        ["record 1 (line 1)", "the protein 'NP_000002' (LOCUS says aa)", "rettype=gbwithparts"],
    ),
    "words instead of a length": (TWO.replace(" 12 bp", " twelve bp"), ["record 1 (line 1)", "'NUMBER bp'", "twelve"]),
    "another word": ("LOCUSTS are insects\nand no sequence\n", ["found none"]),
    "no name": ("LOCUS       \n//\n", ["record 1 (line 1)", "expected a name"]),
    # What is between records may be one that would be left out.
    "a LOCUS in other columns": (TWO + "\n \nLOCUS     X         4 bp    DNA\n", AFTER_TWO),
    "FASTA after GenBank": (TWO + "\n \n>Y.1\nACGT\n", AFTER_TWO),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN)
def test_refusals_name_file_record_and_line(tmp_path: Path, content: str, words: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SequenceFileError) as caught:
        read(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


CONTIG = "CONTIG      join(CD1.1:1..500,gap(20),\n            CD2.1:1..30)\n"
READ = {
    "contig": (entry("AB1.1", "", tail=CONTIG, length_nt=550), (550, b"", ())),
    "origin without lines": (entry("AB1.1", "", length_nt=800), (800, b"", ())),
    "blank": (entry("AB1.1", ""), (0, b"", ())),
    "contig before a sequence": (LONG.replace("ORIGIN", f"{CONTIG}ORIGIN"), (800, b"ACGT" * 200, ("MALL",))),
    "no length": (re.sub(" +800 bp.*", "", LONG), (None, b"ACGT" * 200, ("MALL",))),
    "broken reference and feature that are not used": (
        LONG.replace("(bases 1 to 800)", "(bases").replace(
            "     source          1..800\n", '     gene            join(1..\n                     /note="open\n'
        ),
        (800, b"ACGT" * 200, ("MALL",)),
    ),
}


@pytest.mark.parametrize(("content", "expected"), READ.values(), ids=READ)
def test_what_is_read_of_odd_records(
    tmp_path: Path, content: str, expected: tuple[int | None, bytes, tuple[str, ...]]
) -> None:
    found = read(written(tmp_path, content + entry("AB2.1", "ACGT")))
    assert found == [("AB1.1", *expected), ("AB2.1", 4, b"ACGT", ())]


LOCUS_LINES = {
    "NODE_3_length_12_cov_81.4355312 bp   DNA linear\n14-OCT-2024": ("NODE_3_length_12_cov_81.43553", 12),
    "NODE_3_length_12_cov_81.43553 12 bp   DNA linear\n             14-OCT-2024": ("NODE_3_length_12_cov_81.43553", 12),
    "a long name of a contig          12 bp    DNA     circular BCT 01-JAN-2024": ("a_long_name_of_a_contig", 12),
    "a long name12 bp    DNA     circular BCT 01-JAN-2024": ("a_long_name", 12),
    "contig00001              12 bp ds-DNA     circular     1-JAN-24": ("contig00001", 12),
    "contig00001\t12 BP\tDNA": ("contig00001", 12),
    "contig00001": ("contig00001", None),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("accession", ["ACCESSION   \nVERSION\n", "ACCESSION   .\nVERSION     .\n", ""])
@pytest.mark.parametrize("line", LOCUS_LINES)
def test_locus_lines_of_annotation_programs(tmp_path: Path, line: str, accession: str) -> None:
    """Of a record without accession the name is the id; an accession of '.' is none."""
    found = read(written(tmp_path, f"LOCUS       {line}\n{accession}{TWO[TWO.index('KEYWORDS') :]}"))
    name, length_nt = LOCUS_LINES[line]
    assert found == [(name, length_nt, *TWO_READ[0][2:]), TWO_READ[1]]


def test_memory_does_not_grow_with_the_sequence(tmp_path: Path) -> None:
    """Beyond one segment of some thousand lines and the file's buffers."""
    path = written(tmp_path, entry("AB1.1", "ACGTTGCAAG" * 300_000, *[feature("gene", "1..9", 'note="x"')] * 5_000))
    with open_source(path) as source:
        tracemalloc.start()
        length_nt = sum(len(part) for part in read_genbank(source) if isinstance(part, bytes))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert length_nt == 3_000_000
    assert peak < 2_500_000


def test_genbank_and_fasta_of_a_bundled_genome_are_the_same_records() -> None:
    """CDS evidence is looked up by the FASTA's record ids, so ids count as much as bases."""
    genbanks = sorted(GENOMES.glob("*/*.gbk.gz"))
    assert len(genbanks) == 31
    for path in genbanks:
        found = read(path)
        with open_source(path.with_name(path.name.replace(".gbk", ".fna"))) as fasta:
            assert [(record_id, symbols) for record_id, _, symbols, _ in found] == [
                (header.id, b"".join(symbols)) for header, symbols in read_records(fasta)
            ]
        assert all(proteins for *_, proteins in found)


def test_a_stream_that_breaks_names_the_record(tmp_path: Path) -> None:
    packed = gzip.compress(
        LONG.encode() + entry("AB2.1", "".join(random.Random(1).choices("ACGT", k=1_500_000))).encode(), 1, mtime=0
    )
    with pytest.raises(SequenceFileError, match="cut or corrupt, in GenBank record 2") as caught:
        read(written(tmp_path, packed[: -len(packed) // 3]))
    assert isinstance(caught.value.__cause__, EOFError | zlib.error)

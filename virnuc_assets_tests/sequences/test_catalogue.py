"""Reference catalogues: rows become sources, files become rows, and a row that is wrong is named."""

import codecs
import hashlib
import shutil
import tempfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import (
    COLUMNS,
    CatalogueError,
    Source,
    append_rows,
    fasta_files,
    genbank_of,
    read_catalogue,
    read_catalogues,
    row_of,
    sequence_files,
    source_name,
)
from virnuc_assets.sequences.opening import SequenceFileError

SHA = "0123456789abcdef" * 4
LAMBDA = ["lambda", "viral", "dsDNA phage", "viral/lambda.fna.gz", "", "", "", "NCBI", "Lambda phage", ""]
YEAST = [
    *("yeast", "host", "fungi", "host/yeast.fna.gz", "host/yeast.gbk.gz"),
    *(SHA, SHA[::-1], "https://a.b", "S. cerevisiae", "yeasts"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("viral/lambda.fna.gz", "host/yeast.fna.gz", "host/yeast.gbk.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write_manifest(folder: Path, *rows: list[str], columns: list[str] = list(COLUMNS)) -> None:  # noqa: B006
    text = "".join("\t".join(row) + "\n" for row in [columns, *rows])
    (folder / "MANIFEST.tsv").write_text(text, encoding="utf-8")


def changed(row: list[str], column: str, value: str) -> list[str]:
    return [value if name == column else old for name, old in zip(COLUMNS, row, strict=True)]


def test_sources_are_sorted_by_name(folder: Path) -> None:
    """A byte order mark, as Excel writes it, is no part of the first column's name."""
    write_manifest(folder, YEAST, LAMBDA)
    manifest = folder / "MANIFEST.tsv"
    manifest.write_bytes(codecs.BOM_UTF8 + manifest.read_bytes())
    lambda_, yeast = read_catalogue(folder)
    assert lambda_ == Source(
        "lambda", folder / "viral/lambda.fna.gz", "viral", "dsDNA phage", "Lambda phage", origin="NCBI"
    )
    assert yeast == Source(
        name="yeast",
        fasta=folder / "host/yeast.fna.gz",
        label="host",
        group="fungi",
        organism="S. cerevisiae",
        relatives="yeasts",
        genbank=folder / "host/yeast.gbk.gz",
        fasta_sha256=SHA,
        genbank_sha256=SHA[::-1],
        origin="https://a.b",
    )


def test_columns_may_be_in_any_order_among_others_and_files_elsewhere(folder: Path) -> None:
    """Editors strip tabs at a line's end: an empty last field is still an empty field."""
    (elsewhere := folder / "any name").touch()
    row = changed(LAMBDA, "fasta", str(elsewhere))
    write_manifest(folder, ["?", *reversed(row)], columns=["more", *reversed(COLUMNS)])
    assert [(source.organism, source.fasta) for source in read_catalogue(folder)] == [("Lambda phage", elsewhere)]
    write_manifest(folder, LAMBDA[:9])
    assert [source.relatives for source in read_catalogue(folder)] == [""]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (changed(YEAST, "label", "Host"), [":3:", "yeast", "viral or host", "'Host'"]),
        (changed(YEAST, "group", "mushrooms"), [":3:", "yeast", "fungi", "'mushrooms'"]),
        (changed(YEAST, "name", "a/b"), [":3:", "'a/b'", "letters"]),
        (changed(YEAST, "fasta", "host/none.fna"), [":3:", "yeast: fasta", "'host/none.fna'", "no such file"]),
        (changed(YEAST, "fasta", ""), [":3:", "yeast: fasta", "''"]),
        (changed(YEAST, "fasta", "host"), [":3:", "yeast: fasta", "'host'"]),
        (changed(YEAST, "fasta", "a\0"), [":3:", "yeast: fasta", "no such file"]),
        (changed(YEAST, "genbank", "host/none.gbk"), [":3:", "yeast: genbank", "'host/none.gbk'"]),
        (changed(YEAST, "genbank", ""), [":3:", "yeast", "genbank_sha256 without a genbank file"]),
        (changed(YEAST, "fasta_sha256", SHA.upper()), [":3:", "yeast: fasta_sha256", "64 hex", SHA.upper()]),
        (changed(YEAST, "genbank_sha256", SHA[1:]), [":3:", "yeast: genbank_sha256", "64 hex"]),
        ([*YEAST, ""], [":3:", "more fields than the header's 10"]),
        (YEAST[:3], [":3: yeast"]),
        (changed(YEAST, "organism", '"S. cerevisiae" S288C'), ["not a tab separated table"]),
        (LAMBDA, ["lambda", "twice"]),
    ],
)
def test_a_wrong_row_is_named(folder: Path, row: list[str], words: list[str]) -> None:
    write_manifest(folder, LAMBDA, row)
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(folder)
    message = str(caught.value)
    assert [word for word in [str(folder / "MANIFEST.tsv"), *words] if word not in message] == []


def test_a_missing_manifest_or_column_is_named(folder: Path) -> None:
    with pytest.raises(CatalogueError, match="not found"):
        read_catalogue(folder)
    for column in COLUMNS:
        write_manifest(folder, columns=[name for name in COLUMNS if name != column])
        with pytest.raises(CatalogueError, match=f"MANIFEST.tsv: column missing: {column};"):
            read_catalogue(folder)
    (folder / "MANIFEST.tsv").write_bytes("name\tgröße\n".encode("latin-1"))
    with pytest.raises(CatalogueError, match="UTF-8"):
        read_catalogue(folder)


def test_dates_are_optional_and_a_wrong_one_is_named(folder: Path) -> None:
    columns = [*COLUMNS, "date"]
    write_manifest(folder, [*LAMBDA, "1999-12-31"], [*YEAST, ""], columns=columns)
    assert [source.date for source in read_catalogue(folder)] == [date(1999, 12, 31), None]
    for wrong in ("2021", "1999-02-30"):
        write_manifest(folder, LAMBDA, [*YEAST, wrong], columns=columns)
        with pytest.raises(CatalogueError, match=f":3: yeast: date must be empty or YYYY-MM-DD, found '{wrong}'"):
            read_catalogue(folder)


def test_several_catalogues_are_one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    mine = tmp_path_factory.mktemp("mine")
    (mine / "x.fna").touch()
    write_manifest(folder, YEAST, LAMBDA)
    write_manifest(mine, [*changed(LAMBDA, "name", "own")[:3], "x.fna"])
    assert [source.name for source in read_catalogues([folder, mine])] == ["lambda", "own", "yeast"]
    write_manifest(mine, [*LAMBDA[:3], "x.fna"])
    with pytest.raises(CatalogueError, match="name lambda is in") as caught:
        read_catalogues([folder, mine])
    assert [path for path in (folder, mine) if str(path / "MANIFEST.tsv") not in str(caught.value)] == []


# ---- names ----


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("lambda.fa", "lambda"),
        ("viral.1.1.genomic.fna.gz", "viral.1.1.genomic"),
        *((f"reads.fastq{ending}", "reads") for ending in (".gz", ".bgz", ".bz2", ".xz", ".zst")),
        ("two  blanks.fasta", "two__blanks"),
        ("a-b+c_d.fasta", "a-b+c_d"),
        ("no_ending", "no_ending"),
        ("sars é 2.fa", "sars___2"),
        ("a;rm -rf.fa", "a_rm_-rf"),
    ],
)
def test_a_source_is_named_by_its_file(file_name: str, expected: str) -> None:
    assert source_name(Path("/some/folder.d") / file_name) == expected


@pytest.mark.parametrize("file_name", ["日本.fa", "...", "é.fa.gz", "a" * 181])
def test_a_name_of_which_nothing_is_left_or_that_is_too_long_is_refused(file_name: str) -> None:
    with pytest.raises(VirnucError, match=f"^/incoming/{file_name}: .*rename"):
        source_name(Path("/incoming") / file_name)


# ---- writing ----

HOST = {"label": "host", "group": "fungi"}


def fasta(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f">{path.stem!r}\nACGT\n")
    return path


def test_a_row_holds_paths_and_checksums(tmp_path: Path) -> None:
    inside, outside = fasta(tmp_path / "mine/host/a.fna"), fasta(tmp_path / "b.fna")
    genbank = tmp_path / "b.gbk"
    genbank.write_text("LOCUS       b\n")
    rows = [row_of(tmp_path / "mine", inside, None, {"name": "a", **HOST})]
    rows += [row_of(tmp_path / "mine", outside, genbank, {"name": "b", **HOST, "date": "2020-02-02"})]
    append_rows(tmp_path / "mine", rows)
    a, b = read_catalogue(tmp_path / "mine")
    assert (rows[0]["fasta"], rows[0]["genbank"], a.fasta, a.genbank) == ("host/a.fna", "", inside, None)
    assert (b.fasta, b.genbank, str(b.date)) == (outside, genbank, "2020-02-02")
    assert b.fasta_sha256 == hashlib.sha256(outside.read_bytes()).hexdigest()
    assert b.genbank_sha256 == hashlib.sha256(genbank.read_bytes()).hexdigest()
    assert (a.fasta_sha256, a.genbank_sha256) == (hashlib.sha256(inside.read_bytes()).hexdigest(), "")


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=3, max_size=3))
def test_words_of_any_letters_stay_one_field(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = dict(zip(("organism", "relatives", "origin"), words, strict=True))
        row = row_of(folder, fasta(folder / "a.fna"), None, {**HOST, **columns})
        for name in "ab":
            append_rows(folder, [{**row, "name": name}])
        found = read_catalogue(folder)
        assert [(s.name, s.organism, s.relatives, s.origin) for s in found] == [("a", *words), ("b", *words)]


def test_control_characters_and_paths_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for letter in "\t\n\r\x7f\x85":
        path, good = fasta(tmp_path / f"a{letter}b.fna"), fasta(tmp_path / "a.fna")
        for file, more in ((path, {}), (good, {"organism": f"a{letter}"})):
            row = row_of(tmp_path, file, None, {"name": "a", **HOST, **more})
            with pytest.raises(CatalogueError, match="a: expected no control characters in (fasta|organism)"):
                append_rows(tmp_path, [row])
    assert not (tmp_path / "MANIFEST.tsv").exists()
    with pytest.raises(CatalogueError, match="not UTF-8"):
        row_of(tmp_path, fasta(tmp_path / "a.fna").rename(tmp_path / "\udce9.fna"), None, {"name": "a", **HOST})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"name": "old"}, "name old exists"),
        ({"name": "other"}, "name other exists"),
        ({}, "name good exists"),
        ({"name": ".a"}, "'.a'"),
        ({"name": "new", "group": "mushrooms"}, "host group must be one of"),
    ],
)
def test_a_row_that_is_refused_leaves_the_table_as_it_was(row: dict[str, str], words: str, tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fna")
    append_rows(tmp_path, [row_of(tmp_path, path, None, {"name": "old", **HOST})])
    before = (tmp_path / "MANIFEST.tsv").read_bytes()
    good = row_of(tmp_path, path, None, {"name": "good", **HOST})
    with pytest.raises(CatalogueError, match=words):
        append_rows(tmp_path, [good, {**good, **row}], taken=["other"])
    assert (tmp_path / "MANIFEST.tsv").read_bytes() == before
    assert list(tmp_path.glob("*.partial")) == []


def test_other_columns_of_a_table_stay(tmp_path: Path, project_root: Path) -> None:
    folder = shutil.copytree(project_root / "data/genomes", tmp_path / "genomes")
    before = (folder / "MANIFEST.tsv").read_text()
    append_rows(folder, [row_of(folder, fasta(tmp_path / "a.fna"), None, {"name": "zz", **HOST})])
    after = (folder / "MANIFEST.tsv").read_text()
    assert (after.startswith(before), after.count("\n")) == (True, before.count("\n") + 1)


def test_what_is_no_fasta_or_genbank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fna").write_text("LOCUS\n")
    good = fasta(tmp_path / "good.fna")
    with pytest.raises(CatalogueError, match="a.fna: expected FASTA, found GenBank"):
        row_of(tmp_path, tmp_path / "a.fna", None, HOST)
    with pytest.raises(CatalogueError, match="good.fna: expected GenBank, found FASTA"):
        row_of(tmp_path, good, good, HOST)
    (tmp_path / "reads.fna").write_text("@r\nACGT\n+\nIIII\n")
    with pytest.raises(CatalogueError, match="reads.fna: expected FASTA, found FASTQ; reads are .* no reference"):
        row_of(tmp_path, tmp_path / "reads.fna", None, HOST)
    with pytest.raises(SequenceFileError, match="no such sequence file"):
        row_of(tmp_path, tmp_path / "none.fna", None, HOST)


def test_a_folder_is_every_fasta_in_it_with_the_genbank_of_its_stem(tmp_path: Path) -> None:
    for name in ("b.fna.gz", "a.fa", "c.fasta", ".hidden.fna", "a.gbk", "b.gbff.gz", "notes.txt", "sub/d.fna"):
        fasta(tmp_path / name)
    found = fasta_files(tmp_path)
    assert [path.name for path in found] == ["a.fa", "b.fna.gz", "c.fasta"]
    companions = [genbank_of(path) for path in found]
    assert [path.name if path else None for path in companions] == ["a.gbk", "b.gbff.gz", None]
    fasta(tmp_path / "a.gb")
    with pytest.raises(CatalogueError, match=r"a.gb, a.gbk are all of its name"):
        genbank_of(tmp_path / "a.fa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogueError, match="no FASTA in this folder"):
        fasta_files(tmp_path / "empty")
    names = ["a.fa.xz", "b.fq.bz2", "c.gbff.zst", "d.fastq", "e.fna.bgz"]
    for name in (*names, "f.txt.gz", ".g.fq"):
        fasta(tmp_path / "sample" / name)
    assert [path.name for path in sequence_files(tmp_path / "sample")] == names
    with pytest.raises(VirnucError, match="no sequence file in this folder; expected NAME"):
        sequence_files(tmp_path / "empty")

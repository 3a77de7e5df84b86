"""Files become rows with checksums; whatever a path or a word holds, the table stays one; all rows come or none."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.catalogue import CatalogueError, read_catalogue
from virnuc_assets.sequences.cataloguing import append_rows, fasta_files, genbank_beside, row_of
from virnuc_assets.sequences.opening import SequenceFileError

HOST = {"label": "host", "group": "fungi"}
NASTY = ['"a.fna', 'a "b" c.fna', "'; rm -rf $(x).fna", "=1+1.fna", "<b>.fna", " a.fna", "ü.fna"]


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


@pytest.mark.parametrize("name", NASTY)
def test_paths_of_any_letters_stay_one_field(name: str, tmp_path: Path) -> None:
    path = fasta(tmp_path / name)
    for number in range(2):
        append_rows(tmp_path, [row_of(tmp_path, path, None, {"name": f"n{number}", **HOST})])
    assert [source.fasta for source in read_catalogue(tmp_path)] == [path, path]


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=3, max_size=3))
def test_words_of_any_letters_stay_one_field(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = fasta(folder / "a.fna")
        organism, relatives, origin = words
        row = row_of(folder, path, None, {**HOST, "organism": organism, "relatives": relatives, "origin": origin})
        append_rows(folder, [{**row, "name": "a"}])
        append_rows(folder, [{**row, "name": "b"}])
        found = read_catalogue(folder)
        assert [(s.name, s.organism, s.relatives, s.origin) for s in found] == [("a", *words), ("b", *words)]


@pytest.mark.parametrize("letter", ["\t", "\n", "\r", "\x0b", "\x7f", "\x85"])
def test_control_characters_are_refused(letter: str, tmp_path: Path) -> None:
    path = fasta(tmp_path / f"a{letter}b.fna")
    for row in (
        row_of(tmp_path, path, None, {"name": "a", **HOST}),
        row_of(tmp_path, fasta(tmp_path / "a.fna"), None, {"name": "a", **HOST, "organism": f"a{letter}"}),
    ):
        with pytest.raises(CatalogueError, match="a: expected no control characters in (fasta|organism)"):
            append_rows(tmp_path, [row])
    assert not (tmp_path / "MANIFEST.tsv").exists()


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fna").rename(tmp_path / "\udce9.fna")
    with pytest.raises(CatalogueError, match="not UTF-8"):
        row_of(tmp_path, path, None, {"name": "a", **HOST})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"name": "old"}, "name old exists"),
        ({"name": "other"}, "name other exists"),
        ({"name": "a/b"}, "'a/b'"),
        ({"name": ".a"}, "'.a'"),
        ({"name": "new", "group": "mushrooms"}, "host group must be one of"),
        ({"name": "new", "date": "yesterday"}, "YYYY-MM-DD"),
    ],
)
def test_a_row_that_is_refused_leaves_the_table_as_it_was(row: dict[str, str], words: str, tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fna")
    append_rows(tmp_path, [row_of(tmp_path, path, None, {"name": "old", **HOST})])
    before = (tmp_path / "MANIFEST.tsv").read_bytes()
    good = row_of(tmp_path, path, None, {"name": "good", **HOST})
    with pytest.raises(CatalogueError) as caught:
        append_rows(tmp_path, [good, {**good, **row}], taken=["other"])
    assert words in str(caught.value)
    assert (tmp_path / "MANIFEST.tsv").read_bytes() == before
    with pytest.raises(CatalogueError, match="name good exists"):
        append_rows(tmp_path, [good, good])
    assert list(tmp_path.glob("*.partial")) == []


def test_other_columns_of_a_table_stay(tmp_path: Path, project_root: Path) -> None:
    genomes = project_root / "data/genomes"
    shutil.copytree(genomes, tmp_path / "genomes")
    path = fasta(tmp_path / "a.fna")
    append_rows(tmp_path / "genomes", [row_of(tmp_path / "genomes", path, None, {"name": "zz", **HOST})])
    text = (tmp_path / "genomes/MANIFEST.tsv").read_text()
    assert text.startswith((genomes / "MANIFEST.tsv").read_text())
    assert text.count("\n") == (genomes / "MANIFEST.tsv").read_text().count("\n") + 1


def test_what_is_no_fasta_or_genbank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fna").write_text("LOCUS\n")
    good = fasta(tmp_path / "good.fna")
    told = {"name": "a", **HOST}
    with pytest.raises(CatalogueError, match=r"expected FASTA \('>'\) at its beginning, found 'LOCUS"):
        row_of(tmp_path, tmp_path / "a.fna", None, told)
    with pytest.raises(CatalogueError, match="expected GenBank"):
        row_of(tmp_path, good, good, told)
    with pytest.raises(SequenceFileError, match="no such sequence file"):
        row_of(tmp_path, tmp_path / "none.fna", None, told)


def test_a_folder_is_every_fasta_in_it_with_the_genbank_of_its_stem(tmp_path: Path) -> None:
    for name in ("b.fna.gz", "a.fa", "c.fasta", ".hidden.fna", "a.gbk", "b.gbff.gz", "notes.txt", "sub/d.fna"):
        fasta(tmp_path / name)
    found = fasta_files(tmp_path)
    assert [path.name for path in found] == ["a.fa", "b.fna.gz", "c.fasta"]
    beside = [genbank_beside(path) for path in found]
    assert [path.name if path else None for path in beside] == ["a.gbk", "b.gbff.gz", None]
    fasta(tmp_path / "a.gb")
    with pytest.raises(CatalogueError, match=r"a.gb, a.gbk are all of its name"):
        genbank_beside(tmp_path / "a.fa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogueError, match="no FASTA in this folder"):
        fasta_files(tmp_path / "empty")

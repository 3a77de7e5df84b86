"""Reference catalogues: rows become sources, and a row that is wrong is named."""

from datetime import date
from pathlib import Path

import pytest

from virnuc_assets.sequences.catalogue import (
    COLUMNS,
    CatalogueError,
    Source,
    read_catalogue,
    read_catalogues,
    require_checksum,
)

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
    write_manifest(folder, YEAST, LAMBDA)
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


def test_columns_may_stand_in_any_order_among_others(folder: Path) -> None:
    write_manifest(folder, ["?", *reversed(LAMBDA)], columns=["more", *reversed(COLUMNS)])
    assert [source.organism for source in read_catalogue(folder)] == ["Lambda phage"]


def test_files_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "any name"
    elsewhere.touch()
    write_manifest(folder, changed(LAMBDA, "fasta", str(elsewhere)))
    assert [source.fasta for source in read_catalogue(folder)] == [elsewhere]


@pytest.mark.parametrize("group", ["bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate"])
def test_the_seven_host_groups(folder: Path, group: str) -> None:
    write_manifest(folder, changed(YEAST, "group", group))
    assert [source.group for source in read_catalogue(folder)] == [group]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (changed(YEAST, "label", "Host"), [":3:", "yeast", "viral or host", "'Host'"]),
        (changed(YEAST, "label", ""), [":3:", "yeast", "''"]),
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


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(folder: Path, column: str) -> None:
    write_manifest(folder, columns=[name for name in COLUMNS if name != column])
    with pytest.raises(CatalogueError, match=f"column missing: {column};") as caught:
        read_catalogue(folder)
    assert str(folder / "MANIFEST.tsv") in str(caught.value)


def test_a_missing_or_empty_manifest(folder: Path) -> None:
    with pytest.raises(CatalogueError, match="not found"):
        read_catalogue(folder)
    (folder / "MANIFEST.tsv").touch()
    with pytest.raises(CatalogueError, match="column missing: name, label"):
        read_catalogue(folder)
    (folder / "MANIFEST.tsv").write_bytes("name\tgröße\n".encode("latin-1"))
    with pytest.raises(CatalogueError, match="UTF-8"):
        read_catalogue(folder)


def test_a_row_with_too_few_columns_is_named(folder: Path) -> None:
    write_manifest(folder, LAMBDA, YEAST[:3])
    with pytest.raises(CatalogueError, match=":3: yeast"):
        read_catalogue(folder)


def test_a_row_whose_last_columns_are_not_written_out(folder: Path) -> None:
    """Editors strip tabs at a line's end: an empty last field is still an empty field."""
    write_manifest(folder, LAMBDA[:9])
    assert [source.relatives for source in read_catalogue(folder)] == [""]


def test_dates_are_optional_and_a_wrong_one_is_named(folder: Path) -> None:
    columns = [*COLUMNS, "date"]
    write_manifest(folder, [*LAMBDA, "1999-12-31"], [*YEAST, ""], columns=columns)
    assert [source.date for source in read_catalogue(folder)] == [date(1999, 12, 31), None]
    write_manifest(folder, LAMBDA, YEAST)
    assert [source.date for source in read_catalogue(folder)] == [None, None]
    for wrong in ("2021", "31.12.1999", "1999-02-30"):
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
    assert str(folder / "MANIFEST.tsv") in str(caught.value)
    assert str(mine / "MANIFEST.tsv") in str(caught.value)


def test_a_file_that_is_not_the_catalogued_one_is_named() -> None:
    with pytest.raises(
        CatalogueError, match=f"^a.fna: not the file that is catalogued: expected sha256 {SHA}, found b"
    ):
        require_checksum(Path("a.fna"), SHA, "b")
    require_checksum(Path("a.fna"), "", SHA)
    require_checksum(Path("a.fna"), SHA, SHA)

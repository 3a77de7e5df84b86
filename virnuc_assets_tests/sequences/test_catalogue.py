"""The reference catalogue: rows become sources, and a row that is wrong is named."""

from datetime import date
from pathlib import Path

import pytest

from virnuc_assets.sequences.catalogue import CatalogueError, Source, read_catalogue

COLUMNS = ["name", "label", "group", "organism", "annotated", "relatives"]
LAMBDA = ["lambda", "viral", "dsDNA phage", "Lambda phage", "no", ""]
YEAST = ["yeast", "host", "fungi", "S. cerevisiae", "yes", "yeasts"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("viral/lambda.fna.gz", "host/yeast.fna.gz", "host/yeast.gbk.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write_manifest(folder: Path, *rows: list[str], columns: list[str] = COLUMNS) -> None:
    text = "".join("\t".join(row) + "\n" for row in [columns, *rows])
    (folder / "MANIFEST.tsv").write_text(text, encoding="utf-8")


def changed(row: list[str], column: str, value: str) -> list[str]:
    return [value if name == column else old for name, old in zip(COLUMNS, row, strict=True)]


def test_sources_are_sorted_by_name(folder: Path) -> None:
    write_manifest(folder, YEAST, LAMBDA)
    assert read_catalogue(folder) == [
        Source("lambda", folder / "viral/lambda.fna.gz", "viral", "dsDNA phage", "Lambda phage", ""),
        Source(
            "yeast",
            folder / "host/yeast.fna.gz",
            "host",
            "fungi",
            "S. cerevisiae",
            "yeasts",
            folder / "host/yeast.gbk.gz",
        ),
    ]


def test_columns_may_stand_in_any_order_among_others(folder: Path) -> None:
    write_manifest(folder, ["?", *reversed(LAMBDA)], columns=["more", *reversed(COLUMNS)])
    assert [source.organism for source in read_catalogue(folder)] == ["Lambda phage"]


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
        (changed(YEAST, "annotated", "maybe"), [":3:", "yeast", "yes or no", "'maybe'"]),
        (changed(YEAST, "name", "lambda2"), [":3:", "lambda2", ".fna.gz", "none"]),
        (changed(LAMBDA, "annotated", "yes"), [":3:", "lambda", ".gbk", "none"]),
        (LAMBDA, ["lambda", "twice"]),
    ],
    ids=["label", "no label", "group", "annotated", "file", "genbank", "twice"],
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


def test_two_files_for_one_source(folder: Path) -> None:
    (folder / "viral/lambda.fasta").touch()
    write_manifest(folder, LAMBDA)
    with pytest.raises(CatalogueError, match="exactly one") as caught:
        read_catalogue(folder)
    assert "lambda.fna.gz" in str(caught.value)
    assert "lambda.fasta" in str(caught.value)


def test_a_row_with_too_few_columns_is_named(folder: Path) -> None:
    write_manifest(folder, LAMBDA, YEAST[:4])
    with pytest.raises(CatalogueError, match=":3: yeast"):
        read_catalogue(folder)


def test_a_row_whose_last_columns_are_not_written_out(folder: Path) -> None:
    """Editors strip tabs at a line's end: an empty last field is still an empty field."""
    write_manifest(folder, LAMBDA[:5])
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

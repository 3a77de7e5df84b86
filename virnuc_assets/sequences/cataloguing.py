"""Writes catalogues: rows for files that a person names, appended to a folder's `MANIFEST.tsv`."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from unicodedata import category

from filelock import FileLock

from virnuc_assets.sequences.catalogue import (
    COLUMNS,
    MANIFEST,
    CatalogueError,
    read_catalogue,
    read_rows,
)
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.shard_keys import source_name
from virnuc_assets.storage.aside import written_aside

Row = Mapping[str, str]
_FASTA_ENDINGS = (".fna", ".fa", ".fasta")
_GENBANK_ENDINGS = (".gbk", ".gb", ".gbff")


def fasta_files(path: Path) -> list[Path]:
    """The file, or every FASTA file of the folder, sorted; names that begin with a dot are still being written.

    Raises:
        CatalogueError: there is none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if _has_ending(file, _FASTA_ENDINGS))
    if not found:
        raise CatalogueError(f"{path}: no FASTA in this folder; expected NAME{_spelled(_FASTA_ENDINGS)}")
    return found


def genbank_beside(fasta: Path) -> Path | None:
    """The GenBank file of a FASTA file's stem in the same folder, if there is one.

    Raises:
        CatalogueError: there are several.
    """
    stem = source_name(fasta)
    found = [file for file in sorted(fasta.parent.iterdir()) if _has_ending(file, _GENBANK_ENDINGS)]
    found = [file for file in found if source_name(file) == stem]
    if len(found) > 1:
        raise CatalogueError(f"{fasta}: {', '.join(file.name for file in found)} are all of its name; leave one there")
    return found[0] if found else None


def row_of(folder: Path, fasta: Path, genbank: Path | None, told: Row) -> dict[str, str]:
    """A row of `folder/MANIFEST.tsv`; paths inside the folder are relative to it, others absolute.

    Args:
        folder: of the catalogue.
        fasta: sequence file.
        genbank: the same records with CDS translations, or None.
        told: the other columns.

    Raises:
        CatalogueError: a path cannot be written as text, or a file does not begin as its format does.
        SequenceFileError: a file is missing, empty or cannot be read.
    """
    return {
        **told,
        "fasta": _as_written(folder, fasta),
        "genbank": _as_written(folder, genbank) if genbank else "",
        "fasta_sha256": _checked_digest(fasta, ">", "FASTA ('>')"),
        "genbank_sha256": _checked_digest(genbank, "LOCUS", "GenBank ('LOCUS')") if genbank else "",
    }


def append_rows(folder: Path, rows: Sequence[Row], taken: Iterable[str] = ()) -> None:
    """Append rows to `folder/MANIFEST.tsv`, all or none; makes the table where there is none.

    Args:
        folder: of the catalogue.
        rows: columns to text; a column that the table lacks is added to it.
        taken: names in other catalogues, which must not be used again.

    Raises:
        CatalogueError: a name exists or is given twice, or a row is not one of a catalogue; the table is as before.
    """
    manifest = folder / MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{MANIFEST}.lock"):
        columns, old = read_rows(manifest) if manifest.is_file() else (COLUMNS, [])
        names = [*taken, *(row["name"] for _, row in old)]
        for row in rows:
            if row["name"] in names:
                raise CatalogueError(f"{manifest}: name {row['name']} exists; give another (--set name=…)")
            names.append(row["name"])
        write_manifest(folder, [*(row for _, row in old), *rows], columns)


def write_manifest(folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write `folder/MANIFEST.tsv`, a line a row; it appears only if all of it can be read back as a catalogue.

    Raises:
        CatalogueError: a row is not one of a catalogue, or holds a tab, a line end or another control character.
    """
    for row in rows:
        if wrong := [column for column, text in row.items() if any(category(letter) == "Cc" for letter in text)]:
            raise CatalogueError(
                f"{folder / MANIFEST}: {row['name']}: expected no control characters in {wrong[0]}, found "
                f"{row[wrong[0]]!r}; rename the file, or reword"
            )
    more = dict.fromkeys(column for row in rows for column in row if column not in columns)
    with written_aside(folder / MANIFEST) as aside:
        with aside.open("w", encoding="utf-8", newline="") as handle:
            table = csv.DictWriter(handle, [*columns, *more], restval="", delimiter="\t", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        read_catalogue(folder, aside)


def _as_written(folder: Path, path: Path) -> str:
    absolute = path.resolve()
    try:
        text = str(absolute.relative_to(folder.resolve()) if absolute.is_relative_to(folder.resolve()) else absolute)
        text.encode()
    except UnicodeEncodeError as error:
        raise CatalogueError(f"{path!r}: the path is not UTF-8 and cannot be catalogued; rename the file") from error
    return text


def _checked_digest(path: Path, opening: str, what: str) -> str:
    """SHA-256 of a file that begins as its format does."""
    with open_source(path) as source:
        head = source.head
    if not head.startswith(opening):
        raise CatalogueError(f"{path}: expected {what} at its beginning, found {head[:20]!r}")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.removesuffix(".gz").endswith(endings)


def _spelled(endings: tuple[str, ...]) -> str:
    return f"{{{','.join(endings)}}}[.gz]"

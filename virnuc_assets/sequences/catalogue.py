"""Catalogues of reference sequence: a row of a folder's `MANIFEST.tsv` is a source of labelled records."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unicodedata import category

from filelock import FileLock

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.opening import COMPRESSED_ENDINGS, open_source, unpacked_name
from virnuc_assets.sequences.reading import FASTQ_IS_NO_REFERENCE, sequence_format
from virnuc_assets.storage.atomic import atomic_write

Label = Literal["viral", "host"]
Row = Mapping[str, str]
MANIFEST = "MANIFEST.tsv"
HOST_GROUPS = ("bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate")
_TEXTS = ("fasta_sha256", "genbank_sha256", "origin", "organism", "relatives")
COLUMNS = ("name", "label", "group", "fasta", "genbank", *_TEXTS)
# A name becomes partition keys, file names and part of URLs; records' ids never do.
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
# Tables are files named after their shard, with more before and behind it; file systems take 255 bytes in all.
_MAX_NAME_CHARACTERS = 180
_SHA256 = re.compile("[0-9a-f]{64}")
_FASTA_ENDINGS = (".fna", ".fa", ".fasta", ".fas", ".ffn", ".fsa")
_GENBANK_ENDINGS = (".gbk", ".gb", ".gbff")
_FASTQ_ENDINGS = (".fastq", ".fq")


class CatalogueError(VirnucError):
    """A catalogue lacks a column or a file, a row contradicts itself, or a file is not the catalogued one."""


@dataclass(frozen=True)
class Source:
    """One file of sequence: catalogued reference, or a sample of which only name and file are known."""

    name: str  # unique; opens the keys of the source's shards
    fasta: Path
    label: Label | None = None
    group: str | None = None  # virus group, or one of VirNucPro's seven host groups
    organism: str = ""  # where given, all records of the source are of one genome and stay in one split
    relatives: str = ""  # name of a hand-named group of close relatives, or empty
    genbank: Path | None = None  # the same records with CDS translations
    date: datetime.date | None = None  # when the sequence became known, for a split by time
    fasta_sha256: str = ""  # digest that the file must have, or empty
    genbank_sha256: str = ""
    origin: str = ""  # from where the files come, a URL or words


def source_name(path: Path) -> str:
    """A file's name as it opens shard keys: without its endings, other characters as `_`."""
    stem = unpacked_name(path)
    stem = stem.rsplit(".", 1)[0] if "." in stem.lstrip(".") else stem
    name = "".join(letter if letter in _NAME_CHARACTERS else "_" for letter in stem).strip("._-")
    if not name:
        raise VirnucError(f"{path}: no characters are left of this file's name to name its shards by; rename the file")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise VirnucError(
            f"{path}: a name of {len(name)} characters; expected at most {_MAX_NAME_CHARACTERS}, because its tables "
            "are named by it; rename the file"
        )
    return name


def read_catalogues(folders: Iterable[Path]) -> list[Source]:
    """Sources of several catalogues, sorted by name."""
    found: dict[str, tuple[Path, Source]] = {}
    for folder in folders:
        for source in read_catalogue(folder):
            if source.name in found:
                raise CatalogueError(
                    f"{folder / MANIFEST}: name {source.name} is in {found[source.name][0] / MANIFEST}, too; names "
                    "must be unique over all catalogues, because shards are named by them. Rename one."
                )
            found[source.name] = folder, source
    return [source for _, (_, source) in sorted(found.items())]


def read_catalogue(folder: Path, manifest: Path | None = None) -> list[Source]:
    """Sources of `folder/MANIFEST.tsv`, or of another table with paths from that folder, sorted by name."""
    manifest = manifest or folder / MANIFEST
    found: dict[str, Source] = {}
    for line, row in _read_rows(manifest)[1]:
        source = _source(folder, row, f"{manifest}:{line}")
        if found.setdefault(source.name, source) is not source:
            raise CatalogueError(f"{manifest}: names must be unique, found twice: {source.name}")
    return [source for _, source in sorted(found.items())]


def _read_rows(manifest: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Columns of a manifest, and its rows as text, each with the line on which it ends."""
    if not manifest.is_file():
        raise CatalogueError(f"{manifest}: not found; expected a tab separated table with columns {', '.join(COLUMNS)}")
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t", restval="", strict=True)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise CatalogueError(f"{manifest}: not a tab separated table in UTF-8 ({error}); save it as such") from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise CatalogueError(f"{manifest}: column missing: {', '.join(missing)}; found {columns}")
    for line, row in rows:
        if None in row:  # where csv puts what is beyond the header
            raise CatalogueError(f"{manifest}:{line}: more fields than the header's {len(columns)}; a tab too many?")
    return columns, rows


def _source(folder: Path, row: Row, where: str) -> Source:
    name, label, group, date = row["name"], row["label"], row["group"], row.get("date", "")
    if not name or set(name) - _NAME_CHARACTERS or name.startswith("."):
        raise CatalogueError(f"{where}: name {name!r}: expected letters, digits, '.', '_', '+' and '-' only")
    where = f"{where}: {name}"
    if label not in ("viral", "host"):
        raise CatalogueError(f"{where}: label must be viral or host, found {label!r}")
    if label == "host" and group not in HOST_GROUPS:
        raise CatalogueError(f"{where}: host group must be one of {', '.join(HOST_GROUPS)}; found {group!r}")
    if row["genbank_sha256"] and not row["genbank"]:
        raise CatalogueError(f"{where}: genbank_sha256 without a genbank file; name the file, or empty the column")
    for column in ("fasta_sha256", "genbank_sha256"):
        if (found := row[column]) and not _SHA256.fullmatch(found):
            raise CatalogueError(f"{where}: {column} must be empty or 64 hex digits in lower case, found {found!r}")
    try:
        day = datetime.date.fromisoformat(date) if date else None
    except ValueError as error:
        raise CatalogueError(f"{where}: date must be empty or YYYY-MM-DD, found {date!r}") from error
    return Source(
        name=name,
        fasta=_file(folder, row["fasta"], f"{where}: fasta"),
        label="viral" if label == "viral" else "host",
        group=group,
        genbank=_file(folder, row["genbank"], f"{where}: genbank") if row["genbank"] else None,
        date=day,
        **{column: row[column] for column in _TEXTS},
    )


def _file(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not name or "\0" in name or not path.is_file():
        raise CatalogueError(f"{where}: expected a file, absolute or from {folder}, found {name!r}: no such file")
    return path


def require_checksum(path: Path, expected: str, found: str) -> None:
    """Raise CatalogueError unless a file has the catalogued digest, if there is one."""
    if expected and expected != found:
        raise CatalogueError(
            f"{path}: not the file that is catalogued: expected sha256 {expected}, found {found}; put that file back, "
            f"or correct its row of {MANIFEST}"
        )


def fasta_files(path: Path) -> list[Path]:
    """The file, or every FASTA file of the folder, sorted; names that begin with a dot are still being written."""
    return _required(path, _FASTA_ENDINGS, "FASTA") if path.is_dir() else [path]


def sequence_files(folder: Path) -> list[Path]:
    """The sequence files of a folder itself, sorted; names that begin with a dot are left out."""
    return _required(folder, _FASTA_ENDINGS + _FASTQ_ENDINGS + _GENBANK_ENDINGS, "sequence file")


def genbank_of(fasta: Path) -> Path | None:
    """The GenBank file of a FASTA file's stem in the same folder, if there is one."""
    found = [file for file in _with_ending(fasta.parent, _GENBANK_ENDINGS) if source_name(file) == source_name(fasta)]
    if len(found) > 1:
        raise CatalogueError(f"{fasta}: {', '.join(file.name for file in found)} are all of its name; leave one there")
    return found[0] if found else None


def _required(folder: Path, endings: tuple[str, ...], what: str) -> list[Path]:
    if not (found := _with_ending(folder, endings)):
        expected = f"NAME{{{','.join(endings)}}}[{'|'.join(COMPRESSED_ENDINGS)}]"
        raise CatalogueError(f"{folder}: no {what} in this folder; expected {expected}")
    return found


def _with_ending(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    visible = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in visible if unpacked_name(path.with_name(path.name.lower())).endswith(endings)]


def row_of(folder: Path, fasta: Path, genbank: Path | None, others: Row) -> dict[str, str]:
    """A row of `folder/MANIFEST.tsv` with the other columns; paths inside the folder are relative to it."""
    row = {**others, "genbank": "", "genbank_sha256": ""}
    for column, path, expected in (("fasta", fasta, "FASTA"), ("genbank", genbank, "GenBank")):
        if path is None:
            continue
        absolute, home = path.resolve(), folder.resolve()
        row[column] = str(absolute.relative_to(home) if absolute.is_relative_to(home) else absolute)
        try:
            row[column].encode()
        except UnicodeEncodeError as error:
            raise CatalogueError(f"{path!r}: the path is not UTF-8 and cannot be catalogued; rename it") from error
        with open_source(path) as source:
            if (found := sequence_format(source)) != expected:
                remedy = FASTQ_IS_NO_REFERENCE if found == "FASTQ" else "give the other file, or leave it out"
                raise CatalogueError(f"{path}: expected {expected}, found {found}; {remedy}")
            row[f"{column}_sha256"] = source.digest()
    return row


def append_rows(folder: Path, rows: Sequence[Row], taken: Iterable[str] = ()) -> None:
    """Append rows to `folder/MANIFEST.tsv`, all or none; makes the table where there is none.

    A column that the table lacks is added to it; names that other catalogues have (`taken`) must not be used again.
    """
    manifest = folder / MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{MANIFEST}.lock"):
        columns, old = _read_rows(manifest) if manifest.is_file() else (COLUMNS, [])
        names = {*taken, *(row["name"] for _, row in old)}
        for row in rows:
            if row["name"] in names:
                raise CatalogueError(f"{manifest}: name {row['name']} exists; give another (--set name=…)")
            names.add(row["name"])
        write_manifest(folder, [*(row for _, row in old), *rows], columns)


def write_manifest(folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write `folder/MANIFEST.tsv`, one line per row; it appears only if all of it can be read back as a catalogue."""
    for row in rows:
        if wrong := [column for column, text in row.items() if any(category(letter) == "Cc" for letter in text)]:
            raise CatalogueError(
                f"{folder / MANIFEST}: {row['name']}: expected no control characters in {wrong[0]}, found "
                f"{row[wrong[0]]!r}; rename the file, or reword"
            )
    more = dict.fromkeys(column for row in rows for column in row if column not in columns)
    with atomic_write(folder / MANIFEST) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            table = csv.DictWriter(handle, [*columns, *more], restval="", delimiter="\t", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        read_catalogue(folder, temporary)

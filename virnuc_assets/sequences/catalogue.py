"""Catalogues of reference sequence: a row of a folder's `MANIFEST.tsv` is a source of labelled records."""

from __future__ import annotations

import csv
import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from virnuc_assets.errors import VirnucError

Label = Literal["viral", "host"]
MANIFEST = "MANIFEST.tsv"
# A name becomes partition keys, file names and part of URLs; records' ids never do.
KEY_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
HOST_GROUPS = ("bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate")
COLUMNS = (
    *("name", "label", "group", "fasta", "genbank", "fasta_sha256", "genbank_sha256"),
    *("origin", "organism", "relatives"),
)
_SHA256 = re.compile("[0-9a-f]{64}")


class CatalogueError(VirnucError):
    """A catalogue misses a column or a file, a row contradicts itself, or a file is not the catalogued one."""


@dataclass(frozen=True)
class Source:
    """One file of sequence: catalogued reference, or a sample of which nothing is known.

    Attributes:
        name: unique; opens the keys of the source's shards.
        fasta: the sequences.
        label: viral or host; None for a sample.
        group: virus group, or one of VirNucPro's seven host groups; None for a sample.
        organism: where given, all records of the source are of one genome and stay on one side of the split.
        relatives: name of a hand-named group of close relatives, or empty.
        genbank: the same records with CDS translations, or None.
        date: when the sequence became known, by which a split by time deals it; None where it is not told.
        fasta_sha256: digest that the file must have, or empty.
        genbank_sha256: digest that the GenBank file must have, or empty.
        origin: from where the files come, a URL or words.
    """

    name: str
    fasta: Path
    label: Label | None = None
    group: str | None = None
    organism: str = ""
    relatives: str = ""
    genbank: Path | None = None
    date: datetime.date | None = None
    fasta_sha256: str = ""
    genbank_sha256: str = ""
    origin: str = ""


def read_catalogues(folders: Iterable[Path]) -> list[Source]:
    """Sources of several catalogues, sorted by name.

    Raises:
        CatalogueError: as `read_catalogue`; a name occurs in two catalogues.
    """
    found = {folder: read_catalogue(folder) for folder in folders}
    owner: dict[str, Path] = {}
    for folder, sources in found.items():
        for source in sources:
            if source.name in owner:
                raise CatalogueError(
                    f"{folder / MANIFEST}: name {source.name} is in {owner[source.name] / MANIFEST}, too; names "
                    "must be unique over all catalogues, because shards are named by them. Rename one."
                )
            owner[source.name] = folder
    return sorted((source for sources in found.values() for source in sources), key=lambda source: source.name)


def read_catalogue(folder: Path, manifest: Path | None = None) -> list[Source]:
    """Sources of a manifest, sorted by name.

    Args:
        folder: from where relative paths of files start.
        manifest: the table; `folder/MANIFEST.tsv` without.

    Raises:
        CatalogueError: the manifest, a column or a file is missing, a name occurs twice, a label, host group,
            date or checksum is none, or a row is longer than the header; the message names the row.
    """
    manifest = manifest or folder / MANIFEST
    sources = [_source(folder, row, f"{manifest}:{line}") for line, row in read_rows(manifest)[1]]
    times = Counter(source.name for source in sources)
    if twice := sorted(name for name, count in times.items() if count > 1):
        raise CatalogueError(f"{manifest}: names must be unique, found twice: {', '.join(twice)}")
    return sorted(sources, key=lambda source: source.name)


def read_rows(manifest: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Columns of a manifest, and its rows as text, each with the line on which it ends.

    Raises:
        CatalogueError: the manifest or a column is missing, it is no table, or a row is longer than the header.
    """
    if not manifest.is_file():
        raise CatalogueError(f"{manifest}: not found; expected a tab separated table with columns {', '.join(COLUMNS)}")
    try:
        with manifest.open(encoding="utf-8", newline="") as handle:
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


def require_checksum(path: Path, expected: str, found: str) -> None:
    """Hold a file's digest against the catalogued one, if there is one.

    Raises:
        CatalogueError: they differ.
    """
    if expected and expected != found:
        raise CatalogueError(
            f"{path}: not the file that is catalogued: expected sha256 {expected}, found {found}; put that file back, "
            f"or correct its row of {MANIFEST}"
        )


def _source(folder: Path, row: Mapping[str, str], where: str) -> Source:
    name, label, group = row["name"], row["label"], row["group"]
    if not name or set(name) - KEY_LETTERS or name.startswith("."):
        raise CatalogueError(f"{where}: name {name!r}: expected letters, digits, '.', '_', '+' and '-' only")
    where = f"{where}: {name}"
    if label not in ("viral", "host"):
        raise CatalogueError(f"{where}: label must be viral or host, found {label!r}")
    if label == "host" and group not in HOST_GROUPS:
        raise CatalogueError(f"{where}: host group must be one of {', '.join(HOST_GROUPS)}; found {group!r}")
    if row["genbank_sha256"] and not row["genbank"]:
        raise CatalogueError(f"{where}: genbank_sha256 without a genbank file; name the file, or empty the column")
    return Source(
        name=name,
        fasta=_file(folder, row["fasta"], f"{where}: fasta"),
        label="viral" if label == "viral" else "host",
        group=group,
        organism=row["organism"],
        relatives=row["relatives"],
        genbank=_file(folder, row["genbank"], f"{where}: genbank") if row["genbank"] else None,
        date=_date(row.get("date", ""), where),
        fasta_sha256=_sha256(row["fasta_sha256"], f"{where}: fasta_sha256"),
        genbank_sha256=_sha256(row["genbank_sha256"], f"{where}: genbank_sha256"),
        origin=row["origin"],
    )


def _date(text: str, where: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise CatalogueError(f"{where}: date must be empty or YYYY-MM-DD, found {text!r}") from error


def _sha256(text: str, where: str) -> str:
    if text and not _SHA256.fullmatch(text):
        raise CatalogueError(f"{where} must be empty or 64 hex digits in lower case, found {text!r}")
    return text


def _file(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not name or "\0" in name or not path.is_file():
        raise CatalogueError(f"{where}: expected a file, absolute or from {folder}, found {name!r}: no such file")
    return path

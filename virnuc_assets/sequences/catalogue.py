"""The reference catalogue: one row a source of labelled sequence (`MANIFEST.tsv` beside the genomes)."""

from __future__ import annotations

import csv
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from virnuc_assets.errors import VirnucError

Label = Literal["viral", "host"]
# A name becomes partition keys, file names and part of URLs; records' ids never do.
KEY_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
HOST_GROUPS = ("bacteria", "archaea", "fungi", "protozoa", "plant", "invertebrate", "vertebrate")
_REQUIRED = ("name", "label", "group", "organism", "annotated", "relatives")
_FASTA_ENDINGS = (".fna.gz", ".fna", ".fa.gz", ".fa", ".fasta.gz", ".fasta")
_GENBANK_ENDINGS = (".gbk.gz", ".gbk", ".gb.gz", ".gb", ".gbff.gz", ".gbff")


class CatalogueError(VirnucError):
    """The catalogue misses a column or a file, or a row contradicts itself."""


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
    """

    name: str
    fasta: Path
    label: Label | None = None
    group: str | None = None
    organism: str = ""
    relatives: str = ""
    genbank: Path | None = None
    date: datetime.date | None = None


def read_catalogue(folder: Path) -> list[Source]:
    """Sources of `folder/MANIFEST.tsv`, sorted by name; files lie in `folder/{label}/`.

    Raises:
        CatalogueError: the manifest, a column or a file is missing, a name occurs twice, or a label or host
            group is unknown, or a date is none; the message names the row.
    """
    manifest = folder / "MANIFEST.tsv"
    if not manifest.is_file():
        raise CatalogueError(
            f"{manifest}: not found; expected a tab separated table with columns {', '.join(_REQUIRED)}"
        )
    with manifest.open(encoding="utf-8", newline="") as handle:
        rows = csv.DictReader(handle, delimiter="\t", restval="")
        if missing := [name for name in _REQUIRED if name not in (rows.fieldnames or ())]:
            raise CatalogueError(f"{manifest}: column missing: {', '.join(missing)}; found {rows.fieldnames}")
        sources = [_source(folder, row, f"{manifest}:{number}") for number, row in enumerate(rows, start=2)]
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CatalogueError(f"{manifest}: names must be unique, found twice: {', '.join(twice)}")
    return sorted(sources, key=lambda source: source.name)


def _source(folder: Path, row: dict[str, str], where: str) -> Source:
    name, label, group = row["name"], row["label"], row["group"]
    if not name or set(name) - KEY_LETTERS or name.startswith("."):
        raise CatalogueError(f"{where}: name {name!r}: expected letters, digits, '.', '_', '+' and '-' only")
    if label not in ("viral", "host"):
        raise CatalogueError(f"{where}: {name}: label must be viral or host, found {label!r}")
    if label == "host" and group not in HOST_GROUPS:
        raise CatalogueError(f"{where}: {name}: host group must be one of {', '.join(HOST_GROUPS)}; found {group!r}")
    if row["annotated"] not in ("yes", "no"):
        raise CatalogueError(f"{where}: {name}: annotated must be yes or no, found {row['annotated']!r}")
    stem = folder / label / name
    return Source(
        name=name,
        fasta=_file(stem, _FASTA_ENDINGS, where),
        label="viral" if label == "viral" else "host",
        group=group,
        organism=row["organism"],
        relatives=row["relatives"],
        genbank=_file(stem, _GENBANK_ENDINGS, where) if row["annotated"] == "yes" else None,
        date=_date(row.get("date", ""), f"{where}: {name}"),
    )


def _date(text: str, where: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise CatalogueError(f"{where}: date must be empty or YYYY-MM-DD, found {text!r}") from error


def _file(stem: Path, endings: tuple[str, ...], where: str) -> Path:
    found = [path for ending in endings if (path := stem.with_name(stem.name + ending)).is_file()]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CatalogueError(f"{where}: expected exactly one of {stem}{{{','.join(endings)}}}, found {names}")
    return found[0]

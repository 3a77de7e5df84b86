"""An NCBI RefSeq release as reference sequence: which of its files are used, their download, and their catalogue.

As VirNucPro's `download_data.py` does: the viruses, and of every directory of hosts some GenBank files with the first
FASTA of each. Deviations: all increments of the viruses, not the first alone; the draw is made from sorted names, each
directory by a generator of its own, so that it depends on the release and the seed only.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from virnuc_assets.sequences.catalogue import MANIFEST, CatalogueError, write_manifest
from virnuc_assets.settings import RefseqHosts, RefseqSettings
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.download import Fetched, Fetcher, digests

# File, its number, number of files, bytes of it so far, bytes of it in all where they are known.
Progress = Callable[[str, int, int, int, int | None], None]
VIRAL = "viral"
# Files that VirNucPro draws of each directory of hosts, whose first word is their group.
HOSTS: Mapping[RefseqHosts, int] = {
    name: 1 if name in ("bacteria", "archaea", "fungi", "protozoa") else 10 for name in get_args(RefseqHosts)
}
ASSET = "reference/refseq_release"
_MARK = "RELEASE.json"
_MD5 = re.compile("[0-9a-f]{32}")
_FASTA = re.compile(r"([a-z_]+)\.([0-9]+)\.([0-9]+)\.genomic\.fna\.gz")


class RefseqError(CatalogueError):
    """A release is not what the settings name, or its list of files is not one."""


@dataclass(frozen=True)
class Entry:
    """A FASTA file of a release, and the GenBank file of its increment, or None where the release has none."""

    directory: str
    fasta: str
    genbank: str | None

    @property
    def name(self) -> str:
        """Name in the catalogue, e.g. viral.1.1."""
        return self.fasta.removesuffix(".genomic.fna.gz")

    @property
    def place(self) -> tuple[str, list[int]]:
        """By which entries are sorted: directory and numbers."""
        return self.directory, [int(number) for number in self.name.split(".")[1:]]


def _listing(settings: RefseqSettings, folder: Path) -> Path:
    """The release's list of files with their MD5."""
    return folder / f"release{settings.release}.files.installed"


def read_listing(path: Path) -> dict[str, str]:
    """File name to MD5 of a `release{N}.files.installed`: MD5, tab, name; a first line without an MD5 is a header."""
    if not path.is_file():
        raise RefseqError(f"{path}: the release's list of files is not there: materialize {ASSET}")
    found: dict[str, str] = {}
    again = f"remove {path.name} and materialize {ASSET} again"
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="backslashreplace").splitlines(), start=1):
        md5, _, name = line.strip().partition("\t")
        where = f"{path}:{number}"
        if not _MD5.fullmatch(md5 := md5.lower()) or not name:
            if number == 1 or not line.strip():
                continue
            raise RefseqError(f"{where}: expected an MD5, a tab and a file's name, found {line[:80]!r}; {again}")
        if "/" in name or "\\" in name or ".." in name:
            raise RefseqError(f"{where}: expected a plain file name, found {name!r}; nothing of this list is used")
        if found.setdefault(name, md5) != md5:
            raise RefseqError(f"{where}: {name} has two checksums, {found[name]} and {md5}; {again}")
    if not found:
        raise RefseqError(f"{path}: names no file; {again}")
    return found


def choose(listing: Mapping[str, str], settings: RefseqSettings) -> list[Entry]:
    """The files to take: every FASTA of the viruses, and the seeded draw of every directory of hosts; sorted."""
    entries = []
    for match in filter(None, map(_FASTA.fullmatch, listing)):
        genbank = f"{match[1]}.{match[2]}.genomic.gbff.gz"
        entries.append(Entry(match[1], match[0], genbank if genbank in listing else None))
    entries.sort(key=lambda entry: entry.place)
    chosen = [entry for entry in entries if entry.directory == VIRAL]
    if not chosen:
        raise RefseqError(f"release {settings.release} lists no {VIRAL}.*.genomic.fna.gz; is it a release of RefSeq?")
    for directory, usual in HOSTS.items():
        wanted = settings.files_per_directory.get(directory, usual)
        of_directory = [entry for entry in entries if entry.directory == directory]
        there = [entry for entry in of_directory if entry.genbank and entry.name.endswith(".1")]
        if wanted > len(there):
            raise RefseqError(
                f"release {settings.release}, {directory}: {wanted} files are to be drawn, it lists {len(there)} with "
                f"FASTA and GenBank; lower refseq.files_per_directory.{directory}"
            )
        draw = random.Random(f"{settings.seed} {directory}")  # noqa: S311 - a draw to repeat, not a secret
        chosen += draw.sample(there, wanted)
    return sorted(chosen, key=lambda entry: entry.place)


def _row(entry: Entry, files: Mapping[str, Fetched], base_url: str) -> dict[str, str]:
    """The entry's row in the catalogue of its folder; the group of viruses, which the files do not give, is `viral`."""
    return {
        "name": entry.name,
        "label": "viral" if entry.directory == VIRAL else "host",
        "group": entry.directory.partition("_")[0],
        "fasta": entry.fasta,
        "genbank": entry.genbank or "",
        "fasta_sha256": files[entry.fasta].digests["sha256"],
        "genbank_sha256": files[entry.genbank].digests["sha256"] if entry.genbank else "",
        "origin": _url(entry.fasta, base_url),
    }


def _url(name: str, base_url: str) -> str:
    """Address of a file of the release: its directory is the name's first word."""
    return f"{base_url.rstrip('/')}/{name.partition('.')[0]}/{name}"


def download_release(
    settings: RefseqSettings, folder: Path, fetcher: Fetcher, report: Progress
) -> tuple[list[Entry], dict[str, Fetched]]:
    """Fetch the release's list and the files to take, then write `folder/MANIFEST.tsv`; what became of each file.

    What is there with its checksum is not fetched again; if that is all, no request is made. The catalogue is written
    when every file is whole and verified, so that no part of a release passes for it.
    """
    base, listing_path = settings.base_url.rstrip("/"), _listing(settings, folder)
    if not listing_path.is_file():
        _require_number(settings, fetcher)
        fetcher.fetch(f"{base}/release-catalog/{listing_path.name}", listing_path, None)
        try:
            read_listing(listing_path)
        except RefseqError:  # a server under maintenance answers with a page
            listing_path.unlink()
            raise
    listing = read_listing(listing_path)
    entries = choose(listing, settings)
    names = _names(entries)
    if any(not (folder / name).is_file() for name in names):
        _require_number(settings, fetcher)
    files = {}
    for number, name in enumerate(names, start=1):
        progress = partial(report, name, number, len(names))
        files[name] = fetcher.fetch(_url(name, base), folder / name, listing[name], progress)
    (folder / _MARK).unlink(missing_ok=True)
    write_manifest(folder, [_row(entry, files, base) for entry in entries])
    mark_complete(folder, settings)
    return entries, files


def _names(entries: list[Entry]) -> list[str]:
    """Of the entries' files; several entries may have one GenBank file."""
    return list(dict.fromkeys(name for entry in entries for name in (entry.fasta, entry.genbank) if name))


def _require_number(settings: RefseqSettings, fetcher: Fetcher) -> None:
    url = f"{settings.base_url.rstrip('/')}/RELEASE_NUMBER"
    if (found := fetcher.small_text(url).strip()) != str(settings.release):
        raise RefseqError(
            f"{url}: the server has release {found[:40]!r}, refseq.release in virnuc.toml is {settings.release}; "
            "name the server's, or a mirror that still has yours as refseq.base_url"
        )


def altered_files(settings: RefseqSettings, folder: Path) -> dict[str, list[str]]:
    """Files of a downloaded release that are not those of its list, each with what is wrong."""
    listing = read_listing(_listing(settings, folder))
    faults: dict[str, list[str]] = {}
    for name in _names(choose(listing, settings)):
        found = digests(folder / name)["md5"] if (folder / name).is_file() else "no such file"
        if found != listing[name]:
            faults[name] = [f"expected md5 {listing[name]}, found {found}"]
    return faults


def mark_complete(folder: Path, settings: RefseqSettings) -> None:
    """Note that the folder's catalogue is all of what the settings name."""
    with atomic_write(folder / _MARK) as temporary:
        temporary.write_text(json.dumps(_meant(settings), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def require_release(folder: Path, settings: RefseqSettings) -> None:
    """Raise RefseqError unless what the settings name was downloaded, all of it."""
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not (folder / MANIFEST).is_file() or found is None:
        raise RefseqError(
            f"{folder}: RefSeq release {settings.release} is not downloaded, or not all of it: materialize {ASSET}"
        )
    if found != (meant := _meant(settings)):
        raise RefseqError(f"{folder}: holds {found}, virnuc.toml names {meant}: materialize {ASSET}")


def _meant(settings: RefseqSettings) -> dict[str, Any]:
    draw = {name: settings.files_per_directory.get(name, usual) for name, usual in HOSTS.items()}
    return {"release": settings.release, "base_url": settings.base_url, "seed": settings.seed, "draw": draw}

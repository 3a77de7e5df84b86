"""Downloads what is taken of a RefSeq release, and catalogues it when all of it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from virnuc_assets.sequences.cataloguing import write_manifest
from virnuc_assets.sequences.refseq import (
    HOSTS,
    Entry,
    RefseqError,
    choose,
    listing_name,
    mark_complete,
    read_listing,
    row_of,
    unmark,
    url_of,
)
from virnuc_assets.settings import RefseqSettings
from virnuc_assets.storage.download import Checksum, Fetched, Fetcher, digests

# File, its number, number of files, bytes of it so far, bytes of it in all where they are known.
Progress = Callable[[str, int, int, int, int | None], None]


@dataclass(frozen=True)
class Download:
    """A release as it lies on disk: its entries, and what became of each file."""

    entries: list[Entry]
    files: Mapping[str, Fetched]

    @property
    def drawn(self) -> dict[str, list[str]]:
        """Names of the entries by directory."""
        return {
            directory: [entry.name for entry in self.entries if entry.directory == directory]
            for directory in ("viral", *HOSTS)
        }


def download_release(settings: RefseqSettings, folder: Path, fetcher: Fetcher, report: Progress) -> Download:
    """Fetch the release's list and the files to take, then write `folder/MANIFEST.tsv`.

    What lies there with its checksum is not asked for again; if that is all, the server is not asked at all. The
    catalogue is written when every file is whole and verified, so that no part of a release passes for it.

    Raises:
        RefseqError: the server has another release, or its list is not one.
        FetchError: a file cannot be had; those that are whole stay.
    """
    base, listing_path = settings.base_url.rstrip("/"), folder / listing_name(settings.release)
    if not listing_path.is_file():
        _require_number(settings, fetcher)
        fetcher.fetch(f"{base}/release-catalog/{listing_path.name}", listing_path, None)
        with _removed_if_refused(listing_path):
            read_listing(listing_path)
    listing = read_listing(listing_path)
    entries = choose(listing, settings)
    names = list(dict.fromkeys(name for entry in entries for name in entry.files))
    if any(not (folder / name).is_file() for name in names):
        _require_number(settings, fetcher)
    files = {}
    for number, name in enumerate(names, start=1):
        files[name] = fetcher.fetch(
            url_of(name, base),
            folder / name,
            Checksum("md5", listing[name]),
            lambda done, total, name=name, number=number: report(name, number, len(names), done, total),  # type: ignore[misc]
        )
    sha256 = {name: file.digests["sha256"] for name, file in files.items()}
    unmark(folder)
    write_manifest(folder, [row_of(entry, sha256, base) for entry in entries])
    mark_complete(folder, settings)
    return Download(entries, files)


def altered_files(settings: RefseqSettings, folder: Path) -> dict[str, list[str]]:
    """Files of a downloaded release that are not those of its list, each with what is wrong.

    Raises:
        RefseqError: the list is not one.
    """
    listing = read_listing(folder / listing_name(settings.release))
    faults: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for entry in choose(listing, settings) for name in entry.files):
        found = digests(folder / name)["md5"] if (folder / name).is_file() else "no such file"
        if found != listing[name]:
            faults[name] = [f"expected md5 {listing[name]}, found {found}"]
    return faults


@contextlib.contextmanager
def _removed_if_refused(listing: Path) -> Iterator[None]:
    """A server that is being mended answers with a page: that is no list, and must be asked for again."""
    try:
        yield
    except RefseqError:
        listing.unlink()
        raise


def _require_number(settings: RefseqSettings, fetcher: Fetcher) -> None:
    url = f"{settings.base_url.rstrip('/')}/RELEASE_NUMBER"
    if (found := fetcher.small_text(url).strip()) != str(settings.release):
        raise RefseqError(
            f"{url}: the server has release {found[:40]!r}, refseq.release in virnuc.toml is {settings.release}; "
            "name the server's, or a mirror that still has yours as refseq.base_url"
        )

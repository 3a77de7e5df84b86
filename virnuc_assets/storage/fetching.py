"""Downloads a file: resumed by range where it broke off, held against its checksum, under its name only when whole.

What has arrived lies in `.NAME.partial`, and beside it in `.NAME.partial.json` which version of the file that is
(RFC 9110: ETag, Last-Modified, length), so that a process that dies is continued by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import requests
from filelock import FileLock

from virnuc_assets.storage.requesting import Client, FetchError, Interrupted, Patience, body

Algorithm = Literal["md5", "sha256"]
# Bytes there so far, and bytes of the whole file where the server told them.
Report = Callable[[int, int | None], None]
_READ = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")


@dataclass(frozen=True)
class Checksum:
    """What a file must be: the publisher's digest of it, in lower-case hex."""

    algorithm: Algorithm
    hexdigest: str


@dataclass(frozen=True)
class Fetched:
    """A file that is whole.

    Attributes:
        bytes: its length.
        received: bytes that came over the network now, those of attempts in vain included; 0 for a reused file.
        reused: it lay there already, with this checksum.
        digests: its MD5 and SHA-256.
    """

    bytes: int
    received: int
    reused: bool
    digests: Mapping[str, str]


class Fetcher:
    """Downloads files, one at a time for each name even where several processes try.

    Args:
        ca_bundle: certificates to trust (PEM); None for the usual ones.
        patience: how long a server is waited for.
    """

    def __init__(self, ca_bundle: Path | None = None, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._client = Client(ca_bundle, self._patience.silence_s)

    def fetch(
        self, url: str, to: Path, expected: Checksum | None, report: Report = lambda done, total: None
    ) -> Fetched:
        """Download a file unless it is there; what an earlier attempt left is continued.

        Args:
            url: https, or http on this machine.
            to: where it appears when it is whole.
            expected: its checksum; without one, the length that the server announces must be reached.
            report: called as bytes arrive.

        Raises:
            FetchError: it cannot be had, or is not the file of this checksum; `to` is as before.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(to.with_name(f".{to.name}.lock")):
            partial = _Partial(to, url)
            if to.is_file() and expected and (found := digests(to))[expected.algorithm] == expected.hexdigest:
                partial.discard()
                return Fetched(to.stat().st_size, 0, reused=True, digests=found)
            if not partial.version():
                partial.discard()
            return self._verified(partial, expected, report)

    def small_text(self, url: str, most_bytes: int = 4096) -> str:
        """The text of a small file, which is not kept.

        Raises:
            FetchError: it cannot be had, is longer than `most_bytes`, or no UTF-8.
        """

        def attempt() -> bytes:
            with self._client.get(url, {}) as response:
                content = b""
                for block in body(response):
                    if len(content := content + block) > most_bytes:
                        raise FetchError(f"{url}: expected at most {most_bytes} bytes, found more")
                return content

        try:
            return self._patience.until_done(url, attempt, lambda: 0).decode()
        except UnicodeDecodeError as error:
            raise FetchError(f"{url}: expected text in UTF-8, found {error}") from error

    def _verified(self, partial: _Partial, expected: Checksum | None, report: Report, again: bool = True) -> Fetched:
        """The whole file; one of a wrong checksum is thrown away and fetched once more: it may be spoilt on the way."""
        self._patience.until_done(partial.url, lambda: self._receive(partial, expected, report), partial.size)
        length, found = partial.size(), digests(partial.path)
        if expected is None or found[expected.algorithm] == expected.hexdigest:
            partial.become_whole()
            return Fetched(length, partial.received, reused=False, digests=found)
        partial.discard()
        if again:
            return self._verified(partial, expected, report, again=False)
        encoded = f" (sent with Content-Encoding {partial.encoding})" if partial.encoding else ""
        raise FetchError(
            f"{partial.to}: not the file that is expected, twice: {partial.url} gives {length} bytes of "
            f"{expected.algorithm} {found[expected.algorithm]}, expected {expected.hexdigest}{encoded}; nothing "
            "is kept. Was the file replaced on the server? Then its checksum must be asked for anew."
        )

    def _receive(self, partial: _Partial, expected: Checksum | None, report: Report) -> None:
        """One attempt to receive what is missing."""
        version = partial.version()
        start = partial.size() if version else 0
        if start and version and start == version.length:
            return
        asked = {"Range": f"bytes={start}-", "If-Range": version.validator} if version and start else {}
        with self._client.get(partial.url, asked) as response:
            if response.status_code == 200:
                version = _Version.of(partial.url, response)
                if expected is None and version.length is None:
                    raise FetchError(
                        f"{partial.url}: neither checksum nor length is known, so it could be cut unnoticed"
                    )
                partial.begin(version)
            elif not (version and start and _continues(response, start, version)):
                partial.discard()
                raise Interrupted(
                    f"from byte {start} on found status {response.status_code} with Content-Range "
                    f"{response.headers.get('Content-Range')!r}; begun anew"
                )
            partial.encoding = response.headers.get("Content-Encoding", "")
            partial.append(body(response), version.length, report)
        if version.length is not None and partial.size() != version.length:
            raise Interrupted(f"{partial.size()} of {version.length} bytes arrived")


@dataclass(frozen=True)
class _Version:
    """One version of a file on a server, as its answers tell it."""

    url: str
    etag: str | None
    last_modified: str | None
    length: int | None

    @classmethod
    def of(cls, url: str, response: requests.Response) -> _Version:
        etag, length = response.headers.get("ETag"), response.headers.get("Content-Length", "")
        return cls(
            url=url,
            etag=etag if etag and not etag.startswith("W/") else None,  # a weak one does not tell bytes apart
            last_modified=response.headers.get("Last-Modified"),
            length=int(length) if length.isascii() and length.isdecimal() else None,
        )

    @property
    def validator(self) -> str:
        """What If-Range asks by; empty where the server told nothing to know a version by."""
        return self.etag or self.last_modified or ""


def _continues(response: requests.Response, start: int, version: _Version) -> bool:
    """Whether a partial answer goes on where the file broke off, to its end, in the same version."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not match:
        return False
    first, last, total = match.groups()
    length = int(last) + 1
    same = all(response.headers.get(name, told) == told for name, told in _told(version))
    return same and int(first) == start and total in ("*", str(length)) and version.length in (None, length)


def _told(version: _Version) -> Iterator[tuple[str, str]]:
    if version.etag:
        yield "ETag", version.etag
    elif version.last_modified:
        yield "Last-Modified", version.last_modified


class _Partial:
    """What has arrived of a file, and which version of it that is."""

    def __init__(self, to: Path, url: str) -> None:
        self.to, self.url, self.received, self.encoding = to, url, 0, ""
        self.path = to.with_name(f".{to.name}.partial")
        self._note = to.with_name(f".{to.name}.partial.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> _Version | None:
        """The version that is begun, if it can be continued: of this URL, no longer than told, known to the server."""
        try:
            version = _Version(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        known = version.url == self.url and version.validator
        return version if known and self.size() <= (version.length or self.size()) else None

    def begin(self, version: _Version) -> None:
        """Forget what is there before the note of another version says what comes."""
        with self._writing():
            self.discard()
            self._note.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def append(self, blocks: Iterator[bytes], total: int | None, report: Report) -> None:
        done = self.size()
        with self._writing(), self.path.open("ab", buffering=0) as handle:
            for block in blocks:
                handle.write(block)
                done += len(block)
                self.received += len(block)
                report(done, total)

    def become_whole(self) -> None:
        with self._writing():
            with self.path.open("rb+") as handle:
                os.fsync(handle.fileno())
            self.path.replace(self.to)
            folder = os.open(self.to.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        with self._writing():
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FetchError(
                f"{self.to}: cannot be written ({error}); {self.size()} bytes are kept, and the next run continues"
            ) from error


def digests(path: Path) -> dict[str, str]:
    """MD5 and SHA-256 of a file, in one pass; MD5 because it is what NCBI publishes."""
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as handle:
        while block := handle.read(_READ):
            for digest in found.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in found.items()}

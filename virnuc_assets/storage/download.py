"""Downloads a file: resumed by range where it broke off, held against its checksum, under its name only when whole.

What has arrived lies in `.NAME.partial`, and beside it in `.NAME.partial.json` which version of the file that is
(RFC 9110: ETag or Last-Modified, length), so that a process that dies is continued by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin, urlsplit

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from virnuc_assets.errors import VirnucError

_PASSING = {408, 425, 429, *range(500, 600)}
# Nine attempts in three minutes, or with the pauses that the server asks for, of at most ten minutes each. `other` are
# errors of TLS: `_receive` repeats them, but not a bad certificate.
PATIENCE = Retry(
    8, other=0, status_forcelist=_PASSING, backoff_factor=1, backoff_jitter=1, backoff_max=60, retry_after_max=600
)
Report = Callable[[int, int | None], None]
_BLOCK = 1 << 18


class FetchError(VirnucError):
    """A file cannot be downloaded; the message names the URL, what was expected and found, and what to do."""


@dataclass(frozen=True)
class Checksum:
    """What a file must be: the publisher's digest of it, in lower-case hex."""

    algorithm: Literal["md5", "sha256"]
    hexdigest: str


@dataclass(frozen=True)
class Fetched:
    """A file that is whole, or was (reused); `received` counts all that came over the network now, also in vain."""

    bytes: int
    received: int
    reused: bool
    digests: Mapping[str, str]


class Fetcher:
    """Downloads files, one at a time for each name even where several processes try.

    Certificates of `ca_bundle` (PEM) are trusted in place of those of `certifi` or of the environment. A connection
    counts as broken after `silence_s` without a byte.
    """

    def __init__(self, ca_bundle: Path | None = None, patience: Retry = PATIENCE, silence_s: float = 60.0) -> None:
        try:
            ssl.create_default_context(cafile=ca_bundle)
        except OSError as error:
            raise FetchError(f"{ca_bundle}: expected certificates in PEM as ca_bundle, found: {error}") from error
        session = requests.Session()
        session.hooks["response"].append(_check_redirect)
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=patience))
        verify = str(ca_bundle) if ca_bundle else True
        self._get, self._patience = partial(session.get, stream=True, timeout=silence_s, verify=verify), patience

    def fetch(self, url: str, to: Path, expected: Checksum | None, report: Report = lambda *_: None) -> Fetched:
        """Download `to` unless it is there with the expected checksum; what an earlier attempt left is continued.

        Without a checksum, the length that the server announces must be reached. As bytes arrive, `report` is told how
        many there are, and of how many where the server says so.

        Raises:
            FetchError: it cannot be had, or is not the file of this checksum; `to` is as before.
        """
        part = _Part(to, url)
        try:
            _check_address(url)
            to.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(to.with_name(f".{to.name}.lock")):
                if expected and to.is_file() and (found := digests(to))[expected.algorithm] == expected.hexdigest:
                    part.discard()
                    return Fetched(to.stat().st_size, 0, True, found)
                return self._verified(part, expected, report)
        except (requests.RequestException, HTTPError) as error:
            raise FetchError(f"{url}: given up: {error}; run again later, what has arrived is kept") from error
        except OSError as error:
            raise FetchError(f"{to}: cannot be written ({error}); run again, what has arrived is kept") from error

    def small_text(self, url: str) -> str:
        """The text of a small file, which is not kept; raises FetchError as `fetch` does."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(url, to := Path(folder) / "text", None)
            return to.read_text(encoding="utf-8", errors="replace")

    def _verified(self, part: _Part, expected: Checksum | None, report: Report) -> Fetched:
        """The whole file; one of a wrong checksum is thrown away and fetched once more: it may be spoilt on the way."""
        wrong = ""
        for _ in range(2):
            self._receive(part, expected, report)
            length, found = part.size(), digests(part.path)
            if expected is None or found[expected.algorithm] == expected.hexdigest:
                with part.path.open("rb+") as handle:
                    os.fsync(handle.fileno())
                part.path.replace(part.to)
                part.discard()
                return Fetched(length, part.received, False, found)
            part.discard()
            wrong = f"{length} bytes of {expected.algorithm} {found[expected.algorithm]}, not {expected.hexdigest}"
        raise FetchError(
            f"{part.to}: not the file that is expected, twice: {part.url} gives {wrong}; nothing is kept. "
            "Was the file replaced on the server? Then its checksum must be asked for anew."
        )

    def _receive(self, part: _Part, expected: Checksum | None, report: Report) -> None:
        """Attempts until all is there: the next one at once after one that brought bytes, else as patience lasts."""
        patience, most = self._patience, part.resume()
        while True:
            try:
                return self._attempt(part, expected, report)
            except (requests.exceptions.SSLError, HTTPError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    remedy = "for a mirror of your own name its certificates as ca_bundle"
                    raise FetchError(f"{part.url}: its certificate is not trusted ({error}); {remedy}") from error
                if part.size() > most:
                    patience, most = self._patience, part.size()
                elif patience.total:
                    patience = patience.increment("GET", part.url, error=ProtocolError(str(error)))
                    patience.sleep()
                else:
                    raise

    def _attempt(self, part: _Part, expected: Checksum | None, report: Report) -> None:
        """Receive what is missing, as it comes: lengths and checksums are of the file, not of an encoding of it."""
        if (start := part.resume()) and start == part.length:
            return
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-", "If-Range": part.validator} if start else {}
        with self._get(part.url, headers=headers) as answer:
            if answer.status_code == 200:
                part.begin(answer)
            elif answer.status_code not in (206, 416):
                found = f"status {answer.status_code} {answer.reason} from {answer.url}"
                raise FetchError(f"{part.url}: expected the file, found {found}; does the server still have it?")
            elif not start or answer.headers.get("Content-Range") != f"bytes {start}-{part.length - 1}/{part.length}":
                part.discard()
                raise ProtocolError(f"status {answer.status_code} does not go on at byte {start}; begun anew")
            if not expected and not part.length:
                raise FetchError(f"{part.url}: neither checksum nor length is known, so it could be cut unnoticed")
            with part.path.open("ab") as handle:  # urllib3 raises ProtocolError if it is cut short of its length
                while block := answer.raw.read1(_BLOCK, decode_content=False):
                    handle.write(block)
                    part.received, start = part.received + len(block), start + len(block)
                    report(start, part.length or None)


class _Part:
    """What has arrived of a file, and of which version, told by a strong ETag or a time; a length of 0 is unknown."""

    def __init__(self, to: Path, url: str) -> None:
        self.to, self.url, self.received, self.validator, self.length = to, url, 0, "", 0
        self.path, self._note = to.with_name(f".{to.name}.partial"), to.with_name(f".{to.name}.partial.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def resume(self) -> int:
        """Where to go on; at 0, without what is there, unless it is of a version that the server can be asked for."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            url, self.validator, self.length = json.loads(self._note.read_text(encoding="utf-8"))
            if url == self.url and self.validator and self.length:
                return self.size()
        self.discard()
        return 0

    def begin(self, answer: requests.Response) -> None:
        """Forget what is there before the note of another version says what comes."""
        self.discard()
        etag = answer.headers.get("ETag", "W/")  # a weak one does not tell bytes apart
        self.validator = answer.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
        self.length = answer.raw.length_remaining or 0
        self._note.write_text(json.dumps([self.url, self.validator, self.length]), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _check_redirect(answer: requests.Response, **_: object) -> None:
    if answer.is_redirect:
        _check_address(answer.headers["Location"], answer.url)


def _check_address(url: str, before: str = "") -> None:
    """Refuse an address, or a redirect to it, unless it is https, or http on this machine and not after https."""
    try:
        parts = urlsplit(urljoin(before, url))
    except ValueError as error:
        raise FetchError(f"{before} {url}: expected an address ({error})") from error
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"{parts.hostname}: the address carries a user's name or password; expected none")
    local = parts.hostname in ("localhost", "127.0.0.1", "::1") and not before.startswith("https:")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise FetchError(f"{before} {url}: expected an https address (http on this machine only, not after https)")


def digests(path: Path) -> dict[str, str]:
    """MD5 and SHA-256 of a file, in one pass; MD5 because it is what NCBI publishes."""
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            for digest in found.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in found.items()}

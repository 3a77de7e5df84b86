"""Downloads a file: resumed where it broke off, compared with its checksum, under its name only when whole.

What has arrived is in `.NAME.partial`, so that a process that dies is continued by the next one. Whether what came
before and after a break is of one version, the checksum shows; a file without one is not resumed.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from virnuc_assets.errors import VirnucError

_TEMPORARY = {408, 425, 429, *range(500, 600)}
# Nine attempts in three minutes, or with the pauses that the server asks for, of at most ten minutes each. `other` are
# errors of TLS: `_receive` repeats them, but not a bad certificate.
RETRIES = Retry(
    8, other=0, status_forcelist=_TEMPORARY, backoff_factor=1, backoff_jitter=1, backoff_max=60, retry_after_max=600
)
Report = Callable[[int, int | None], None]
_BLOCK = 1 << 18


class FetchError(VirnucError):
    """A file cannot be downloaded; the message names the URL, what was expected and found, and what to do."""


@dataclass(frozen=True)
class Fetched:
    """A file that is whole, or was (reused); `received` are bytes from the network, discarded ones too."""

    bytes: int
    received: int
    reused: bool
    digests: Mapping[str, str]


@dataclass
class _Transfer:
    url: str
    path: Path
    md5: str | None
    report: Report
    received: int = 0

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


class Fetcher:
    """Downloads files, one at a time for each name even where several processes try.

    Certificates of `ca_bundle` (PEM) are trusted in place of those of `certifi` or of the environment. A connection
    counts as broken after `timeout_s` without a byte.
    """

    def __init__(self, ca_bundle: Path | None = None, retries: Retry = RETRIES, timeout_s: float = 60.0) -> None:
        try:
            ssl.create_default_context(cafile=ca_bundle)
        except OSError as error:
            raise FetchError(f"{ca_bundle}: expected certificates in PEM as ca_bundle, found: {error}") from error
        session = requests.Session()
        session.hooks["response"].append(_check_redirect)
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        verify = str(ca_bundle) if ca_bundle else True
        self._get, self._retries = partial(session.get, stream=True, timeout=timeout_s, verify=verify), retries

    def fetch(self, url: str, to: Path, md5: str | None, report: Report = lambda *_: None) -> Fetched:
        """Download `to` unless it is there with this MD5 (lower-case hex); what an earlier attempt left is continued.

        Without a checksum, the length that the server announces must be reached. As bytes arrive, `report` gets how
        many there are, and of how many where the server announces it. On a FetchError `to` is as before.
        """
        transfer = _Transfer(url, to.with_name(f".{to.name}.partial"), md5, report)
        try:
            _check_address(url)
            to.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(to.with_name(f".{to.name}.lock")):
                if md5 and to.is_file() and (found := digests(to))["md5"] == md5:
                    transfer.path.unlink(missing_ok=True)
                    return Fetched(to.stat().st_size, 0, True, found)
                return self._verified(transfer, to)
        except (requests.RequestException, HTTPError) as error:
            raise FetchError(f"{url}: retries exhausted: {error}; run again later, what has arrived is kept") from error
        except OSError as error:
            raise FetchError(f"{to}: cannot be written ({error}); run again, what has arrived is kept") from error

    def small_text(self, url: str) -> str:
        """The text of a small file, which is not kept; raises FetchError as `fetch` does."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(url, to := Path(folder) / "text", None)
            return to.read_text(encoding="utf-8", errors="replace")

    def _verified(self, transfer: _Transfer, to: Path) -> Fetched:
        """The whole file; one of a wrong checksum is discarded and fetched again: it may have changed on the way."""
        wrong = ""
        for _ in range(2):
            self._receive(transfer)
            length, found = transfer.size(), digests(transfer.path)
            if transfer.md5 in (None, found["md5"]):
                with transfer.path.open("rb+") as handle:
                    os.fsync(handle.fileno())
                transfer.path.replace(to)
                return Fetched(length, transfer.received, False, found)
            transfer.path.unlink()
            wrong = f"{length} bytes of MD5 {found['md5']}, not {transfer.md5}"
        raise FetchError(
            f"{to}: not the file that is expected, twice: {transfer.url} gives {wrong}; nothing is kept. "
            "Was the file replaced on the server? Then its checksum must be fetched again."
        )

    def _receive(self, transfer: _Transfer) -> None:
        """Attempt until all is there: again at once after an attempt that brought bytes, else as retries are left."""
        retries, most = self._retries, transfer.size()
        while True:
            try:
                return self._attempt(transfer)
            except (requests.exceptions.SSLError, HTTPError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    remedy = "for a mirror of your own name its certificates as ca_bundle"
                    raise FetchError(f"{transfer.url}: its certificate is not trusted ({error}); {remedy}") from error
                if transfer.size() > most:
                    retries, most = self._retries, transfer.size()
                elif retries.total:
                    retries = retries.increment("GET", transfer.url, error=ProtocolError(str(error)))
                    retries.sleep()
                else:
                    raise

    def _attempt(self, transfer: _Transfer) -> None:
        """Receive what is missing, as it comes: lengths and checksums are of the file, not of an encoding of it."""
        start = transfer.size() if transfer.md5 else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with self._get(transfer.url, headers=headers) as answer:
            if answer.status_code == 200:
                start = 0
            elif answer.status_code not in (206, 416):
                found = f"status {answer.status_code} {answer.reason} from {answer.url}"
                raise FetchError(f"{transfer.url}: expected the file, found {found}; does the server still have it?")
            elif (served := answer.headers.get("Content-Range", "")) == f"bytes */{start}":
                return  # all of it had arrived
            elif not start or not served.startswith(f"bytes {start}-"):
                transfer.path.unlink(missing_ok=True)
                raise ProtocolError(f"status {answer.status_code} does not continue at byte {start}; started again")
            length = start + answer.raw.length_remaining if answer.raw.length_remaining else None
            if not transfer.md5 and not length:
                raise FetchError(f"{transfer.url}: neither checksum nor length is known, so it could be cut unnoticed")
            with transfer.path.open("ab" if start else "wb") as handle:
                # urllib3 raises if it is cut short of its length.
                while block := answer.raw.read1(_BLOCK, decode_content=False):
                    handle.write(block)
                    transfer.received, start = transfer.received + len(block), start + len(block)
                    transfer.report(start, length)


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

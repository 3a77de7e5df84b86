"""One HTTPS request: which URLs are asked, which answers are worth another try, and how long a server is waited for."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import ipaddress
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from virnuc_assets.errors import VirnucError

T = TypeVar("T")
_MAX_REDIRECTS = 5
_BLOCK = 1 << 18
_ANSWERED = (200, 206, 416)
_TEMPORARY = (408, 425, 429)


class FetchError(VirnucError):
    """A file cannot be downloaded; the message names the URL, what was expected and found, and what to do."""


class Interrupted(Exception):
    """An attempt failed in a way that the next one may not.

    Attributes:
        retry_after_s: how long the server asked to be left alone, or None.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        attempts: in a row that bring nothing new, after which it is given up.
        first_wait_s: before the second attempt; doubles with each, and half of it is random.
        longest_wait_s: bound of that.
        silence_s: without a byte, after which a connection counts as broken.
        longest_retry_after_s: a server that asks for more is not waited for.
    """

    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    silence_s: float = 60.0
    longest_retry_after_s: float = 600.0

    def until_done(self, url: str, attempt: Callable[[], T], arrived: Callable[[], int]) -> T:
        """Repeat an attempt that is interrupted.

        Args:
            url: for messages.
            attempt: one try.
            arrived: bytes that are there so far; an attempt that raised the most there ever was did not fail in vain.

        Raises:
            FetchError: too many attempts in a row brought nothing, or the server asks for a long pause.
        """
        in_vain, most = 0, arrived()
        while True:
            try:
                return attempt()
            except Interrupted as error:
                in_vain = 0 if arrived() > most else in_vain + 1
                most = max(most, arrived())
                if in_vain >= self.attempts:
                    raise FetchError(
                        f"{url}: given up after {in_vain} attempts in a row that brought nothing, the last: {error}; "
                        f"run again when the server answers, what has arrived is kept"
                    ) from error
                self._wait(url, in_vain, error.retry_after_s or 0.0)

    def _wait(self, url: str, in_vain: int, asked_s: float) -> None:
        if asked_s > self.longest_retry_after_s:
            raise FetchError(f"{url}: the server asks to come back after {asked_s:.0f} s; run again then")
        wait_s = min(self.longest_wait_s, self.first_wait_s * 2**in_vain) * random.uniform(0.5, 1.0)  # noqa: S311
        time.sleep(max(wait_s, asked_s))


class Client:
    """Asks servers over HTTPS; plain HTTP is for loopback only.

    Args:
        ca_bundle: certificates to trust (PEM), in place of those of `certifi` or of the environment.
        silence_s: as of `Patience`.

    Raises:
        FetchError: there is no usable bundle.
    """

    def __init__(self, ca_bundle: Path | None, silence_s: float) -> None:
        if ca_bundle is not None:
            try:
                ssl.create_default_context(cafile=str(ca_bundle))
            except (OSError, ssl.SSLError) as error:
                raise FetchError(f"{ca_bundle}: expected certificates in PEM as ca_bundle, found: {error}") from error
        self._verify: str | bool = str(ca_bundle) if ca_bundle else True
        self._silence_s = silence_s
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = (
            "identity"  # ranges and checksums are of the file, not of an encoding
        )

    @contextlib.contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer to a GET, redirects followed, its body unread: status 200, 206 or 416.

        Raises:
            Interrupted: no answer, or one that says to come again.
            FetchError: any other answer; an unsafe URL, a redirect to one, or a certificate that is not trusted.
        """
        response = self._followed(url, headers)
        with response:
            status = response.status_code
            if status in _TEMPORARY or status >= 500:
                raise Interrupted(f"status {status} {response.reason}", _retry_after(response))
            if status not in _ANSWERED:
                raise FetchError(
                    f"{url}: expected the file, found status {status} {response.reason} from {response.url}; "
                    "is the address right, and does the server still have it?"
                )
            yield response

    def _followed(self, url: str, headers: dict[str, str]) -> requests.Response:
        asked = url
        for _ in range(_MAX_REDIRECTS + 1):
            require_safe(asked, url)
            with _sorted_errors(asked):
                response = self._session.get(
                    asked,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._silence_s,
                    verify=self._verify,
                )
            location = self._session.get_redirect_target(response)
            if not location:
                return response
            response.close()
            target = urljoin(asked, location)
            if asked.startswith("https:") and not target.startswith("https:"):
                raise FetchError(f"{url}: redirected from https to {target}, which anyone could alter; not followed")
            asked = target
        raise FetchError(f"{url}: more than {_MAX_REDIRECTS} redirects, the last to {asked}; is the address right?")


def body(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they come, not decoded whatever encoding the server names.

    Raises:
        Interrupted: the connection broke, fell silent, or ended before the length that was announced.
    """
    with _sorted_errors(response.url):
        while block := response.raw.read1(_BLOCK, decode_content=False):
            yield block


def require_safe(url: str, origin: str) -> None:
    """Raise FetchError unless a URL is https, or http on this machine, and carries no password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise FetchError(f"{origin}: {url!r} is no URL ({error})") from error
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"{origin.split('@')[-1]}: the URL carries a user's name or password; expected none")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise FetchError(f"{origin}: expected an https address (http on this machine only), found {url}")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _sorted_errors(url: str) -> Iterator[None]:
    """Errors of the network as Interrupted, those that repetition does not mend as FetchError."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FetchError(
                f"{url}: the server's certificate is not trusted ({error}); for a mirror of your own name its "
                "certificates as ca_bundle"
            ) from error
        raise Interrupted(str(error)) from error
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise Interrupted(f"{type(error).__name__}: {error}") from error
    except (requests.RequestException, ValueError) as error:  # requests lets errors of urllib's parser through
        raise FetchError(f"{url}: cannot be asked for ({type(error).__name__}: {error})") from error


def _retry_after(response: requests.Response) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None where it is neither."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())

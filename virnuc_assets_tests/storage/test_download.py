"""Downloads from a real HTTPS server that breaks off, falls silent, fails, redirects and changes its files."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from virnuc_assets.storage.download import RETRIES, Fetched, Fetcher, FetchError
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.storage.file_server import Answer, Authority, FileServer

CONTENT = random.Random(0).randbytes(300_001)
OTHER = random.Random(1).randbytes(len(CONTENT))
HASTE = RETRIES.new(total=3, backoff_factor=0.002, backoff_jitter=0)
PATH = "/viral/viral.1.1.genomic.fna.gz"
LEFT = ".file.gz.partial"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.made(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[FileServer]:
    with answering(FileServer(authority.tls)) as server:
        server.files[PATH] = CONTENT
        yield server


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "in" / "file.gz"


@pytest.fixture
def fetch(authority: Authority, server: FileServer, to: Path) -> Fetch:
    return Fetch(authority, server, to)


class Fetch:
    """One file of the server, fetched to one place."""

    def __init__(self, authority: Authority, server: FileServer, to: Path) -> None:
        self.fetcher, self._server, self._to = Fetcher(authority.bundle, HASTE, timeout_s=0.4), server, to
        self.reports: list[tuple[int, int | None]] = []

    def __call__(self, *answers: Answer, path: str = PATH, content: bytes = CONTENT) -> Fetched:
        self._server.answers[path].extend(answers)
        url = self._server.url + path
        done = self.fetcher.fetch(url, self._to, md5(content), lambda *report: self.reports.append(report))
        assert self._to.read_bytes() == content
        assert list(self._to.parent.glob("*partial*")) == []
        return done

    def refused(self, *answers: Answer) -> str:
        with pytest.raises(FetchError) as caught:
            self(*answers)
        assert not self._to.exists()
        assert self._server.url + PATH in str(caught.value)
        return str(caught.value)


def test_a_file_is_fetched_once(fetch: Fetch, server: FileServer, to: Path) -> None:
    done = fetch()
    both = {"md5": md5(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert done == Fetched(len(CONTENT), len(CONTENT), reused=False, digests=both)
    assert fetch.reports == sorted({(bytes_, len(CONTENT)) for bytes_, _ in fetch.reports})
    assert fetch.reports[-1] == (len(CONTENT), len(CONTENT))
    assert fetch() == Fetched(len(CONTENT), 0, reused=True, digests=both)
    assert server.gets == {PATH: 1}
    to.write_bytes(CONTENT[:-1] + b"?")
    assert not fetch().reused
    assert server.gets == {PATH: 2}


@pytest.mark.parametrize("seed", range(4))
def test_what_arrived_before_a_cut_is_not_fetched_again(seed: int, fetch: Fetch, server: FileServer) -> None:
    """Cuts at random bytes, many more than attempts are allowed in a row: each brings something."""
    points = sorted(random.Random(seed).sample(range(1, len(CONTENT)), 9))
    fetch(*(Answer(cut=after - before) for before, after in itertools.pairwise([0, *points])))
    assert server.sent[PATH] == len(CONTENT)
    asked = [headers.get("Range") for headers in server.asked[PATH]]
    assert asked == [None, *(f"bytes={point}-" for point in points)]


def test_a_connection_that_is_reset_or_falls_silent_is_continued(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(cut=100_000, stall_s=2.0), *(Answer(cut=60_000, reset=True) for _ in range(3)))
    assert server.gets[PATH] == 5


def test_attempts_that_bring_nothing_end(fetch: Fetch, server: FileServer, to: Path) -> None:
    server.always[PATH] = Answer(cut=0)
    assert re.search("retries exhausted: .*run again", fetch.refused())
    assert server.gets[PATH] == 4
    server.always[PATH] = Answer(cut=1)
    with pytest.raises(FetchError, match="retries exhausted"):  # without a checksum, each begins at the first byte
        fetch.fetcher.fetch(server.url + PATH, to.with_name("new"), None)
    assert server.gets[PATH] == 4 + 5


def test_a_burst_of_failures_is_waited_out_as_long_as_the_server_asks(fetch: Fetch, server: FileServer) -> None:
    started, asked = time.monotonic(), Answer(status=429, headers={"Retry-After": "1"})
    fetch(Answer(status=500), Answer(cut=1000), Answer(status=503), asked, Answer(status=408))
    assert time.monotonic() - started >= 1.0
    assert (server.gets[PATH], server.sent[PATH]) == (6, len(CONTENT))


def test_a_server_that_only_fails_or_is_not_there_exhausts_the_retries(
    fetch: Fetch, server: FileServer, to: Path
) -> None:
    server.always[PATH] = Answer(status=503)
    assert re.search("retries exhausted: .*too many 503 error responses.*run again", fetch.refused())
    assert server.gets[PATH] == 4
    with answering(FileServer(None)) as gone:
        url = gone.url
    with pytest.raises(FetchError, match=r"retries exhausted: .*Connection refused.*run again"):
        fetch.fetcher.fetch(url, to, None)


def test_what_another_attempt_does_not_fix_is_reported_at_once(fetch: Fetch, server: FileServer) -> None:
    for status in (403, 404, 204):
        assert f"status {status}" in fetch.refused(Answer(status=status))
    assert server.gets[PATH] == 3


@pytest.mark.parametrize(
    ("answers", "received"),
    [
        ((Answer(blind_to_range=True, becomes=OTHER),), 100_000 + len(OTHER)),
        ((Answer(becomes=OTHER),), len(CONTENT) + len(OTHER)),
        ((Answer(becomes=OTHER[:9]), Answer(becomes=OTHER)), 100_000 + len(OTHER)),
        ((Answer(status=206, headers={"Content-Range": "bytes 5-9/10"}), Answer(becomes=OTHER)), 100_000 + len(OTHER)),
    ],
    ids=["range ignored", "continued in the other file", "shorter than what is there", "another range"],
)
def test_a_file_that_changed_starts_again(answers: tuple[Answer, ...], received: int, fetch: Fetch) -> None:
    assert fetch(Answer(cut=100_000), *answers, content=OTHER).received == received


def test_a_file_of_another_checksum_is_fetched_twice_and_refused(fetch: Fetch, server: FileServer, to: Path) -> None:
    server.files[PATH] = OTHER
    shown = fetch.refused()
    assert (server.gets[PATH], server.sent[PATH]) == (2, 2 * len(OTHER))
    wanted = [str(to), md5(OTHER), md5(CONTENT), "nothing is kept"]
    assert all(word in shown for word in wanted)
    assert list(to.parent.glob("*partial*")) == []
    to.write_bytes(b"before")
    with pytest.raises(FetchError):
        fetch()
    assert to.read_bytes() == b"before"


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_part_is_continued_later(spoilt: bool, fetch: Fetch, to: Path) -> None:
    fetch.refused(Answer(cut=100_000), Answer(status=404))
    assert to.with_name(LEFT).read_bytes() == CONTENT[:100_000]
    if spoilt:
        to.with_name(LEFT).write_bytes(bytes(100_000))
    done = fetch(*(Answer(cut=10_000) for _ in range(9)))  # each brings something
    assert done.received == len(CONTENT) - 100_000 + spoilt * len(CONTENT)


def test_a_part_that_is_whole_is_not_fetched_again(fetch: Fetch, to: Path) -> None:
    """Its process died before the file got its name."""
    to.parent.mkdir()
    to.with_name(LEFT).write_bytes(CONTENT)
    assert fetch().received == 0


def test_redirects_are_followed_to_safe_addresses_only(fetch: Fetch, server: FileServer, to: Path) -> None:
    server.files["/there"] = CONTENT
    server.always["/a"] = Answer(status=301, headers={"Location": f"{server.url}/there"})
    server.always[PATH] = Answer(status=302, headers={"Location": "/a"})
    fetch()
    to.unlink()
    with answering(FileServer(None)) as plain:
        plain.files[PATH] = CONTENT
        for target in (plain.url + PATH, "http://example.org/", "file:///etc/passwd", PATH):
            server.always[PATH] = Answer(status=302, headers={"Location": target})
            shown = fetch.refused()
            assert ("redirects" if target == PATH else f"{target}: expected an https address") in shown
        assert plain.gets == {}
    assert server.gets["/there"] == 1


def test_plain_http_is_for_this_machine_only(to: Path) -> None:
    fetcher = Fetcher(retries=HASTE)
    with answering(FileServer(None)) as plain:
        plain.files[PATH] = CONTENT
        assert fetcher.fetch(plain.url + PATH, to, md5(CONTENT)).bytes == len(CONTENT)
    for url in ("http://example.org/x", "http://127.0.0.1.example.org/x", "ftp://127.0.0.1/x", "//x", "x"):
        with pytest.raises(FetchError, match="expected an https address"):
            fetcher.fetch(url, to, None)
    with pytest.raises(FetchError, match="expected none") as caught:
        fetcher.fetch("https://me:secret@127.0.0.1/x", to, None)
    assert "secret" not in str(caught.value)


def test_certificates_are_verified(server: FileServer, to: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"certificate is not trusted .* ca_bundle"):
        Fetcher().fetch(server.url + PATH, to, None)  # at once, whatever the retries
    assert server.gets == {}
    (tmp_path / "empty.pem").write_text("no certificate\n")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(FetchError, match=f"{name}: expected certificates in PEM"):
            Fetcher(tmp_path / name)


def test_two_at_once_fetch_a_file_once(authority: Authority, server: FileServer, to: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda _: Fetcher(authority.bundle).fetch(server.url + PATH, to, md5(CONTENT)), range(3))
    assert sorted(done.reused for done in found) == [False, True, True]
    assert server.gets[PATH] == 1


def test_bytes_are_kept_as_they_are_sent(fetch: Fetch, server: FileServer) -> None:
    """NCBI's server has called its gzip files an encoding of the content; they are the content."""
    server.always[PATH] = Answer(headers={"Content-Encoding": "gzip"})
    fetch()
    assert server.asked[PATH][0]["Accept-Encoding"] == "identity"


def test_without_a_checksum_the_length_must_be_given_and_reached(fetch: Fetch, server: FileServer, to: Path) -> None:
    url = server.url + PATH
    server.answers[PATH].append(Answer(cut=5))
    assert fetch.fetcher.fetch(url, to, None).bytes == len(CONTENT)
    assert to.read_bytes() == CONTENT
    server.always[PATH] = Answer(headers={"Content-Length": None})
    with pytest.raises(FetchError, match="neither checksum nor length"):
        fetch.fetcher.fetch(url, to.with_name("b"), None)
    assert fetch.fetcher.fetch(url, to.with_name("c"), md5(CONTENT)).bytes == len(CONTENT)


def test_a_disk_that_is_full(fetch: Fetch) -> None:
    """A limit on the length of files gives the same kind of error in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        with pytest.raises(FetchError, match=r"file.gz: cannot be written \(.*File too large.*is kept"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fetch().received == len(CONTENT) - 150_000


def test_small_texts(fetch: Fetch, server: FileServer) -> None:
    server.files["/number"] = b"230\n"
    server.answers["/number"].extend([Answer(status=500), Answer(cut=1)])
    assert fetch.fetcher.small_text(f"{server.url}/number") == "230\n"
    with pytest.raises(FetchError, match="status 404"):
        fetch.fetcher.small_text(f"{server.url}/none")

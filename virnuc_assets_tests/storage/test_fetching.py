"""Downloads from a real HTTPS server that breaks off, lies about lengths, fails, redirects and changes its files."""

from __future__ import annotations

import email.utils
import hashlib
import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.storage.fetching import Checksum, Fetched, Fetcher, digests
from virnuc_assets.storage.requesting import FetchError, Patience
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.storage.file_server import Answer, Authority, FileServer

CONTENT = random.Random(0).randbytes(300_001)
OTHER = random.Random(1).randbytes(len(CONTENT))
HASTE = Patience(attempts=4, first_wait_s=0.002, longest_wait_s=0.01, silence_s=0.4)
PATH = "/viral/viral.1.1.genomic.fna.gz"


def md5(content: bytes) -> Checksum:
    return Checksum("md5", hashlib.md5(content).hexdigest())


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
        self._fetcher, self._server, self._to = Fetcher(authority.bundle, HASTE), server, to
        self.reports: list[tuple[int, int | None]] = []

    def __call__(self, *answers: Answer, content: bytes = CONTENT) -> Fetched:
        self._server.answers[PATH].extend(answers)
        url = self._server.url + PATH
        done = self._fetcher.fetch(url, self._to, md5(content), lambda *report: self.reports.append(report))
        assert self._to.read_bytes() == content
        assert left_beside(self._to) == set()
        return done

    def refused(self, *answers: Answer) -> str:
        with pytest.raises(FetchError) as caught:
            self(*answers)
        assert not self._to.exists()
        return str(caught.value)


def left_beside(to: Path) -> set[str]:
    """What is left of attempts in the file's folder."""
    return {path.name for path in to.parent.glob("*partial*")}


def test_a_file_is_fetched_once(fetch: Fetch, server: FileServer) -> None:
    done = fetch()
    assert (done.bytes, done.received, done.reused) == (len(CONTENT), len(CONTENT), False)
    assert done.digests == {"md5": md5(CONTENT).hexdigest, "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert [total for _, total in fetch.reports] == [len(CONTENT)] * len(fetch.reports)
    assert [bytes_ for bytes_, _ in fetch.reports] == sorted({bytes_ for bytes_, _ in fetch.reports})
    assert fetch.reports[-1][0] == len(CONTENT)
    again = fetch()
    assert (again.bytes, again.received, again.reused, again.digests) == (len(CONTENT), 0, True, done.digests)
    assert server.gets == {PATH: 1}


def test_a_file_that_was_altered_is_fetched_again(fetch: Fetch, to: Path, server: FileServer) -> None:
    fetch()
    to.write_bytes(CONTENT[:-1] + b"?")
    assert not fetch().reused
    assert server.gets[PATH] == 2


@pytest.mark.parametrize("seed", range(4))
def test_what_arrived_before_a_cut_is_not_fetched_again(seed: int, fetch: Fetch, server: FileServer) -> None:
    """Cuts at random bytes, many more than attempts are allowed in a row: each brings something."""
    points = sorted(random.Random(seed).sample(range(1, len(CONTENT)), 9))
    fetch(*(Answer(cut=after - before) for before, after in itertools.pairwise([0, *points])))
    assert server.sent[PATH] == len(CONTENT)
    asked = [headers.get("Range") for headers in server.asked[PATH]]
    assert asked == [None, *(f"bytes={point}-" for point in points)]
    versions = {headers.get("If-Range") for headers in server.asked[PATH]}
    assert versions == {None, f'"{hashlib.sha256(CONTENT).hexdigest()[:16]}"'}


def test_connections_that_are_reset_bring_what_they_brought(fetch: Fetch, server: FileServer) -> None:
    fetch(*(Answer(cut=60_000, reset=True) for _ in range(3)))
    assert server.gets[PATH] == 4


@pytest.mark.parametrize("cut", [0, 1], ids=["nothing", "the same byte"])
def test_attempts_that_bring_nothing_end(cut: int, fetch: Fetch, server: FileServer) -> None:
    """The second server has no versions to tell, so that its file is begun anew each time."""
    headers: dict[str, str | None] = {"ETag": None, "Last-Modified": None}
    server.always[PATH] = Answer(cut=cut, headers=headers)
    told = fetch.refused()
    assert server.gets[PATH] == HASTE.attempts + cut
    assert server.url + PATH in told
    assert "4 attempts in a row" in told
    assert "run again" in told


def test_a_length_that_is_too_long(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(longer=10))
    server.always[PATH] = Answer(longer=10)
    assert "attempts in a row" in fetch_elsewhere(fetch, "b").refused()


def test_a_length_that_is_too_short(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(longer=-10))
    assert server.gets[PATH] == 2
    server.always[PATH] = Answer(longer=-10)
    told = fetch_elsewhere(fetch, "b").refused()
    assert f"gives {len(CONTENT) - 10} bytes" in told
    assert left_beside(fetch._to) == set()


def fetch_elsewhere(fetch: Fetch, name: str) -> Fetch:
    fetch._to = fetch._to.with_name(name)
    return fetch


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_burst_of_failures_is_waited_out(status: int, fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(status=status), Answer(cut=1000), *(Answer(status=status) for _ in range(3)))
    assert (server.gets[PATH], server.sent[PATH]) == (6, len(CONTENT))


def test_a_server_that_only_fails_is_given_up(fetch: Fetch, server: FileServer) -> None:
    server.always[PATH] = Answer(status=503)
    assert "status 503" in fetch.refused()
    assert server.gets[PATH] == HASTE.attempts


def test_a_server_is_left_alone_as_long_as_it_asks(fetch: Fetch) -> None:
    started = time.monotonic()
    fetch(Answer(status=429, headers={"Retry-After": "1"}))
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize("dated", [False, True])
def test_a_server_that_asks_for_an_hour_is_not_waited_for(dated: bool, fetch: Fetch, server: FileServer) -> None:
    after = email.utils.formatdate(time.time() + 3600, usegmt=True) if dated else "3600"
    told = fetch.refused(Answer(status=503, headers={"Retry-After": after}))
    assert "come back after 3" in told
    assert server.gets[PATH] == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
def test_what_another_attempt_does_not_mend_is_told_at_once(status: int, fetch: Fetch, server: FileServer) -> None:
    told = fetch.refused(Answer(status=status))
    assert server.url + PATH in told
    assert f"status {status}" in told
    assert server.gets[PATH] == 1


def test_a_range_that_is_ignored_begins_anew(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(cut=100_000), Answer(blind_to_range=True))
    assert (server.gets[PATH], server.sent[PATH]) == (2, 100_000 + len(CONTENT))


@pytest.mark.parametrize(
    "answers",
    [
        (Answer(becomes=OTHER),),
        (Answer(becomes=OTHER, blind_to_version=True),),
        (Answer(becomes=OTHER[:90_000], blind_to_version=True), Answer(becomes=OTHER)),
    ],
    ids=["as asked", "goes on in the other file", "shorter than what is there"],
)
def test_a_file_that_changed_in_the_middle_begins_anew(answers: tuple[Answer, ...], fetch: Fetch) -> None:
    """Noticed from the head of an answer: what would not fit is not received."""
    assert fetch(Answer(cut=100_000), *answers, content=OTHER).received == 100_000 + len(OTHER)


def test_a_partial_answer_from_elsewhere_in_the_file_begins_anew(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(cut=100_000), Answer(shifted=1))
    assert "Range" not in server.asked[PATH][2]


def test_a_range_that_was_not_asked_for_is_not_taken(fetch: Fetch) -> None:
    fetch(Answer(status=206, headers={"Content-Range": "bytes 5-9/10"}))


def test_a_file_of_another_checksum_is_fetched_twice_and_refused(fetch: Fetch, server: FileServer, to: Path) -> None:
    server.files[PATH] = OTHER
    told = fetch.refused()
    assert (server.gets[PATH], server.sent[PATH]) == (2, 2 * len(OTHER))
    wanted = [str(to), server.url + PATH, md5(OTHER).hexdigest, md5(CONTENT).hexdigest, "nothing is kept"]
    assert [word for word in wanted if word not in told] == []
    assert left_beside(to) == set()
    to.write_bytes(b"before")
    with pytest.raises(FetchError):
        fetch()
    assert to.read_bytes() == b"before"


def test_a_part_that_was_spoilt_on_disk_is_thrown_away(fetch: Fetch, server: FileServer, to: Path) -> None:
    fetch.refused(Answer(cut=100_000), Answer(status=404))
    partial = to.with_name(f".{to.name}.partial")
    assert partial.read_bytes() == CONTENT[:100_000]
    partial.write_bytes(bytes(100_000))
    fetch()
    assert server.sent[PATH] == 2 * len(CONTENT)


def test_a_part_of_another_address_or_without_its_note_is_not_continued(
    fetch: Fetch, server: FileServer, to: Path
) -> None:
    server.files["/mirror"] = CONTENT
    fetch.refused(Answer(cut=100_000), Answer(status=404))
    fetch._fetcher.fetch(f"{server.url}/mirror", to, md5(CONTENT))
    assert "Range" not in server.asked["/mirror"][0]
    fetch_elsewhere(fetch, "b").refused(Answer(cut=200_000), Answer(status=404))
    fetch._to.with_name(".b.partial.json").write_text("{")
    before = server.gets[PATH]
    fetch(*(Answer(cut=10_000) for _ in range(9)))  # each of them brings something, though less than was there
    assert "Range" not in server.asked[PATH][before]


def test_a_server_that_falls_silent_is_asked_again(fetch: Fetch, server: FileServer) -> None:
    fetch(Answer(cut=100_000, stall_s=2.0))
    assert (server.gets[PATH], server.sent[PATH]) == (2, len(CONTENT))


@pytest.mark.parametrize(
    ("headers", "resumed"),
    [
        ({"ETag": None}, True),
        ({"ETag": 'W/"weak"'}, True),
        ({"ETag": 'W/"weak"', "Last-Modified": None}, False),
        ({"ETag": None, "Last-Modified": None}, False),
    ],
)
def test_only_a_known_version_is_continued(
    headers: dict[str, str | None], resumed: bool, fetch: Fetch, server: FileServer
) -> None:
    server.always[PATH] = Answer(headers=headers)
    fetch(Answer(cut=100_000, headers=headers))
    assert ("Range" in server.asked[PATH][1]) == resumed


def test_redirects_are_followed_within_https(fetch: Fetch, server: FileServer) -> None:
    server.files["/there"] = CONTENT
    server.always["/a"] = Answer(status=301, headers={"Location": f"{server.url}/there"})
    server.always[PATH] = Answer(status=302, headers={"Location": "/a"})
    server.answers["/there"].append(Answer(cut=100_000))
    fetch()
    assert (server.gets["/there"], server.sent["/there"]) == (2, len(CONTENT))


def test_a_redirect_to_plain_http_is_refused(fetch: Fetch, server: FileServer) -> None:
    with answering(FileServer(None)) as plain:
        plain.files[PATH] = CONTENT
        told = fetch.refused(Answer(status=302, headers={"Location": plain.url + PATH}))
        assert plain.gets == {}
    assert "redirected from https to http:" in told


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd", "https to file:"),
        ("https://[", "cannot be asked for"),
        (PATH, "redirects"),
        ("https:///x", "https"),
    ],
)
def test_other_redirects_are_refused(location: str, words: str, fetch: Fetch, server: FileServer) -> None:
    server.always[PATH] = Answer(status=302, headers={"Location": location})
    assert words in fetch.refused()


def test_plain_http_is_for_this_machine_only(tmp_path: Path) -> None:
    with answering(FileServer(None)) as plain:
        plain.files[PATH] = CONTENT
        assert Fetcher(patience=HASTE).fetch(plain.url + PATH, tmp_path / "file", md5(CONTENT)).bytes == len(CONTENT)
    for url in ("http://example.org/x", "http://127.0.0.1.example.org/x", "ftp://127.0.0.1/x", "//x", "x"):
        with pytest.raises(FetchError, match="expected an https address"):
            Fetcher(patience=HASTE).fetch(url, tmp_path / "other", md5(CONTENT))
    with pytest.raises(FetchError, match="expected none") as caught:
        Fetcher(patience=HASTE).fetch("https://me:secret@127.0.0.1/x", tmp_path / "other", md5(CONTENT))
    assert "secret" not in str(caught.value)


def test_a_certificate_of_no_known_authority_is_refused(server: FileServer, to: Path) -> None:
    with pytest.raises(FetchError, match="certificate is not trusted") as caught:
        Fetcher(patience=HASTE).fetch(server.url + PATH, to, md5(CONTENT))
    assert "ca_bundle" in str(caught.value)
    assert server.gets == {}


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate\n")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(FetchError, match=f"{name}: expected certificates in PEM"):
            Fetcher(tmp_path / name, HASTE)


def test_no_server_at_all(authority: Authority, to: Path) -> None:
    with answering(FileServer(authority.tls)) as server:
        url = server.url
    with pytest.raises(FetchError, match="given up after 4 attempts"):
        Fetcher(authority.bundle, HASTE).fetch(url, to, md5(CONTENT))


def test_two_at_once_fetch_a_file_once(authority: Authority, server: FileServer, to: Path) -> None:
    found: list[Fetched] = []

    def fetch() -> None:
        found.append(Fetcher(authority.bundle, HASTE).fetch(server.url + PATH, to, md5(CONTENT)))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done.reused for done in found) == [False, True, True]
    assert server.gets[PATH] == 1


def test_bytes_are_kept_as_they_are_sent(fetch: Fetch, server: FileServer) -> None:
    """NCBI's server has called its gzip files an encoding of the content; they are the content."""
    server.always[PATH] = Answer(headers={"Content-Encoding": "gzip"})
    fetch()
    assert server.asked[PATH][0]["Accept-Encoding"] == "identity"


def test_without_a_checksum_the_length_must_be_told_and_reached(
    authority: Authority, server: FileServer, to: Path
) -> None:
    fetcher = Fetcher(authority.bundle, HASTE)
    server.answers[PATH].extend([Answer(cut=5), Answer()])
    assert fetcher.fetch(server.url + PATH, to, None).bytes == len(CONTENT)
    assert to.read_bytes() == CONTENT
    server.always[PATH] = Answer(headers={"Content-Length": None})
    with pytest.raises(FetchError, match="neither checksum nor length"):
        fetcher.fetch(server.url + PATH, to.with_name("b"), None)
    assert fetcher.fetch(server.url + PATH, to.with_name("c"), md5(CONTENT)).bytes == len(CONTENT)


def test_a_folder_that_cannot_be_written(fetch: Fetch, to: Path) -> None:
    (to.with_name(f".{to.name}.partial.json")).mkdir(parents=True)
    assert f"{to}: cannot be written" in fetch.refused()


def test_small_texts(authority: Authority, server: FileServer) -> None:
    fetcher = Fetcher(authority.bundle, HASTE)
    server.files |= {"/number": b"230\n", "/long": b"2" * 5000, "/latin": b"\xe9"}
    server.answers["/number"].extend([Answer(status=500), Answer(cut=1)])
    assert fetcher.small_text(f"{server.url}/number") == "230\n"
    for path, words in (("/long", "at most 4096"), ("/latin", "UTF-8"), ("/none", "status 404")):
        with pytest.raises(FetchError, match=words):
            fetcher.small_text(server.url + path)


def test_digests_are_those_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT * 5)
    expected = {name: hashlib.new(name, CONTENT * 5).hexdigest() for name in ("md5", "sha256")}
    assert digests(tmp_path / "file") == expected

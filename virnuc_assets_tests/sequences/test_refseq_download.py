"""A release comes whole or not at all, and what is whole is never asked for again, however often a download dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.sequences.refseq import HOSTS, RefseqError, require_release
from virnuc_assets.sequences.refseq_download import Download, altered_files, download_release
from virnuc_assets.settings import RefseqSettings
from virnuc_assets.storage.download import PATIENCE, Fetcher, FetchError
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.sequences.release import NUMBER, publish
from virnuc_assets_tests.storage.file_server import Answer, Authority, FileServer

HASTE = PATIENCE.new(total=3, backoff_factor=0.002, backoff_jitter=0)
NAMES = [
    *("viral.1.1.genomic.fna.gz", "viral.1.genomic.gbff.gz", "viral.2.1.genomic.fna.gz", "viral.2.genomic.gbff.gz"),
    *("plant.3.1.genomic.fna.gz", "plant.3.genomic.gbff.gz", "plant.4.1.genomic.fna.gz", "plant.4.genomic.gbff.gz"),
]
LISTING = f"release{NUMBER}.files.installed"
KILLS = 10


def content(number: int) -> bytes:
    return random.Random(number).randbytes(200_000 + 10_000 * number)


FILES = {name: content(number) for number, name in enumerate(NAMES)}
"""The draw takes one of the two plants."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.made(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[FileServer]:
    with answering(FileServer(authority.tls)) as server:
        publish(server, FILES)
        yield server


@pytest.fixture
def settings(server: FileServer) -> RefseqSettings:
    counts = dict.fromkeys(HOSTS, 0)
    return RefseqSettings(release=NUMBER, base_url=server.url, files_per_directory={**counts, "plant": 1})


def download(settings: RefseqSettings, folder: Path, bundle: Path) -> Download:
    return download_release(settings, folder, Fetcher(bundle, HASTE), lambda *progress: None)


def test_a_release_is_fetched_and_catalogued(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    fetcher = Fetcher(authority.bundle, HASTE)
    done = download_release(settings, tmp_path, fetcher, lambda name, n, count, *_: seen.append((name, n, count)))
    assert len(done.files) == 6
    assert list(dict.fromkeys(seen)) == [(name, number, 6) for number, name in enumerate(done.files, start=1)]
    sources = read_catalogue(tmp_path)
    assert [source.name for source in sources] == [entry.name for entry in done.entries]
    assert [(s.name, s.label, s.group) for s in sources if s.label == "viral"] == [
        ("viral.1.1", "viral", "viral"),
        ("viral.2.1", "viral", "viral"),
    ]
    (plant,) = done.drawn["plant"]
    (host,) = (source for source in sources if source.label == "host")
    assert (host.name, host.group, host.origin) == (plant, "plant", f"{server.url}/plant/{plant}.genomic.fna.gz")
    for source in sources:
        assert source.genbank is not None
        assert source.fasta.read_bytes() == FILES[source.fasta.name]
        assert source.genbank.read_bytes() == FILES[source.genbank.name]
    require_release(tmp_path, settings)
    assert altered_files(settings, tmp_path) == {}


def test_what_is_there_is_not_asked_for(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    download(settings, tmp_path, authority.bundle)
    before = server.gets.copy()
    assert set(before.values()) == {1, 2}  # the number twice: before the list, and before the files
    assert all(file.reused for file in download(settings, tmp_path, authority.bundle).files.values())
    assert server.gets == before
    (tmp_path / NAMES[0]).write_bytes(b"altered")
    assert list(altered_files(settings, tmp_path)) == [NAMES[0]]
    again = download(settings, tmp_path, authority.bundle)
    assert [name for name, file in again.files.items() if not file.reused] == [NAMES[0]]
    assert altered_files(settings, tmp_path) == {}


def test_another_release_on_the_server(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    server.files["/RELEASE_NUMBER"] = b"231\n"
    with pytest.raises(RefseqError, match=r"the server has release '231', refseq.release in virnuc.toml is 230"):
        download(settings, tmp_path, authority.bundle)
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_the_list_is_not_kept(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    path = f"/release-catalog/{LISTING}"
    listing = server.files[path]
    server.files[path] = b"<html>\nDown for maintenance\n</html>\n"
    with pytest.raises(RefseqError, match="expected an MD5"):
        download(settings, tmp_path, authority.bundle)
    with pytest.raises(RefseqError, match="is not there: materialize reference/refseq_release"):
        altered_files(settings, tmp_path)
    server.files[path] = listing
    assert len(download(settings, tmp_path, authority.bundle).files) == 6


def test_a_release_that_lacks_a_file_is_not_catalogued(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    path = f"/viral/{NAMES[3]}"
    server.always[path] = Answer(status=404)
    with pytest.raises(FetchError, match="status 404"):
        download(settings, tmp_path, authority.bundle)
    assert not (tmp_path / "MANIFEST.tsv").exists()
    with pytest.raises(RefseqError, match="materialize reference/refseq_release"):
        require_release(tmp_path, settings)
    server.always.clear()
    counts = server.gets.copy()
    download(settings, tmp_path, authority.bundle)
    assert (server.gets - counts) == {"/RELEASE_NUMBER": 1, path: 1}


def wait_for_bytes(folder: Path) -> None:
    """Until what was sent is on disk; no longer than a second, for it may be of a file that is not kept, or whole."""
    end = time.monotonic() + 1
    while time.monotonic() < end and not has_bytes(folder):
        time.sleep(0.005)


def has_bytes(folder: Path) -> bool:
    """Whether a part of a file is there."""
    for path in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # it became whole
            if path.stat().st_size:
                return True
    return False


def test_a_download_killed_at_ten_random_points(
    settings: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    """Some of the points are the last byte of a file: the process dies while the file is checked and renamed."""
    # Not forked from this process: its server's threads may hold a lock that the child would wait for.
    processes, draw = multiprocessing.get_context("forkserver"), random.Random(0)
    processes.set_forkserver_preload([download_release.__module__])
    whole, broken_off = set[str](), 0
    length = sum(map(len, FILES.values())) // 2
    for kill, point in enumerate(sorted(draw.sample(range(1, length), KILLS))):
        asked = {path: server.gets[path] for path in whole}
        server.stopped.clear()
        server.stop_after, server.at_an_end = point, kill % 3 == 1
        process = processes.Process(target=download, args=(settings, tmp_path, authority.bundle))
        process.start()
        assert process.pid is not None
        assert server.stopped.wait(30)
        if kill % 2:
            wait_for_bytes(tmp_path)
        time.sleep(draw.uniform(0, 0.005))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "MANIFEST.tsv").exists()
        whole = {path for path in server.files if (tmp_path / Path(path).name).is_file()}
        broken_off += has_bytes(tmp_path)
        assert asked == {path: server.gets[path] for path in asked}
    assert len(whole) > 2
    assert broken_off > 1
    server.stop_after = None
    asked = {path: server.gets[path] for path in whole}
    done = download(settings, tmp_path, authority.bundle)
    assert asked == {path: server.gets[path] for path in asked}
    assert {name: (tmp_path / name).read_bytes() for name in done.files} == {name: FILES[name] for name in done.files}
    assert altered_files(settings, tmp_path) == {}
    assert [path.name for path in tmp_path.glob(".*partial*")] == []

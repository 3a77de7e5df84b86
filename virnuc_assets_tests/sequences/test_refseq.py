"""Which files of a RefSeq release are taken; it comes whole or not at all, however often a download dies."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.sequences.refseq import (
    HOSTS,
    Entry,
    RefseqError,
    altered_files,
    choose,
    download_release,
    mark_complete,
    read_listing,
    require_release,
)
from virnuc_assets.settings import RefseqSettings
from virnuc_assets.storage.download import RETRIES, Fetched, Fetcher
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.sequences.release import NUMBER, publish
from virnuc_assets_tests.storage.file_server import Authority, FileServer

Files = dict[str, Fetched]
SETTINGS = RefseqSettings(release=230)
MD5 = "0123456789abcdef0123456789abcdef"


def release(host_files: int = 12) -> dict[str, str]:
    """Names as in a release: three increments of viruses, some of each directory, and what else there is."""
    names = [*(f"viral.{i}.1.genomic.fna.gz" for i in (1, 2, 10)), *(f"viral.{i}.genomic.gbff.gz" for i in (1, 2, 10))]
    names += ["viral.1.2.genomic.fna.gz", "viral.1.protein.faa.gz", "viral.1.genomic.gbff.gz.md5", "README.230"]
    for directory in HOSTS:
        names += [f"{directory}.{i}.1.genomic.fna.gz" for i in range(1, host_files + 1)]
        names += [f"{directory}.{i}.2.genomic.fna.gz" for i in range(1, host_files + 1)]
        names += [f"{directory}.{i}.genomic.gbff.gz" for i in range(1, host_files + 1)]
        names += [f"{directory}.{i}.rna.fna.gz" for i in range(1, host_files + 1)]
    names += [f"mitochondrion.{i}.1.genomic.fna.gz" for i in (1, 2)] + ["complete.1.1.genomic.fna.gz"]
    return dict.fromkeys(names, MD5)


def names(entries: list[Entry], directory: str) -> list[str]:
    return [entry.name for entry in entries if entry.directory == directory]


def test_all_viruses_and_as_many_hosts_as_virnucpro_draws() -> None:
    chosen = choose(release(), SETTINGS)
    assert names(chosen, "viral") == ["viral.1.1", "viral.1.2", "viral.2.1", "viral.10.1"]
    counts = {directory: len(names(chosen, directory)) for directory in HOSTS}
    few, many = ("bacteria", "archaea", "fungi", "protozoa"), ("plant", "invertebrate")
    vertebrates = ("vertebrate_mammalian", "vertebrate_other")
    assert counts == {**dict.fromkeys(few, 1), **dict.fromkeys(many, 10), **dict.fromkeys(vertebrates, 10)}
    assert len(chosen) == 4 + sum(counts.values())
    for entry in chosen:
        increment = entry.name.split(".")[1]
        assert entry.genbank == f"{entry.directory}.{increment}.genomic.gbff.gz"
        assert entry.directory == "viral" or entry.fasta.endswith(f".{increment}.1.genomic.fna.gz")


def test_the_draw_follows_from_names_and_seed_alone_for_each_directory() -> None:
    shuffled = random.Random(1).sample(list(release().items()), len(release()))
    assert choose(dict(shuffled), SETTINGS) == choose(release(), SETTINGS)
    draws = {str(names(choose(release(), RefseqSettings(release=230, seed=seed)), "plant")) for seed in range(20)}
    assert len(draws) > 10
    more = {**release(), **{f"plant.{i}.1.genomic.fna.gz": MD5 for i in range(13, 40)}}
    more |= {f"plant.{i}.genomic.gbff.gz": MD5 for i in range(13, 40)}
    before, after = choose(release(), SETTINGS), choose(more, SETTINGS)
    assert names(before, "plant") != names(after, "plant")
    assert [entry for entry in before if entry.directory != "plant"] == [e for e in after if e.directory != "plant"]


def test_counts_can_be_set_and_files_must_be_there() -> None:
    """Hosts are drawn with both files, viruses are taken without GenBank as well."""
    chosen = choose(release(), RefseqSettings(release=230, files_per_directory={"plant": 12, "fungi": 0}))
    assert (len(names(chosen, "plant")), len(names(chosen, "fungi")), len(names(chosen, "archaea"))) == (12, 0, 1)
    with pytest.raises(RefseqError, match=r"plant: 13 files are to be drawn, it lists 12 .*files_per_directory.plant"):
        choose(release(), RefseqSettings(release=230, files_per_directory={"plant": 13}))
    with pytest.raises(RefseqError, match="no viral"):
        choose({"README": MD5}, SETTINGS)
    listing = release()
    del listing["viral.2.genomic.gbff.gz"], listing["plant.1.genomic.gbff.gz"]
    found = {entry.name: entry.genbank for entry in choose(listing, SETTINGS)}
    assert found["viral.2.1"] is None
    with pytest.raises(RefseqError, match="plant: 12 files are to be drawn, it lists 11"):
        choose(listing, RefseqSettings(release=230, files_per_directory={"plant": 12}))


def test_a_list_may_have_a_header(tmp_path: Path) -> None:
    for header in ("", "MD5 checksum\tfile name\n"):
        (tmp_path / "list").write_text(f"{header}{MD5.upper()}\tviral.1.1.genomic.fna.gz\r\n\n{MD5}\tother\n")
        assert read_listing(tmp_path / "list") == {"viral.1.1.genomic.fna.gz": MD5, "other": MD5}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (f"{MD5}\ta\n{MD5}\tviral/../../x\n", ":2: expected a plain file name"),
        (f"{MD5}\t..\n", ":1: expected a plain file name"),
        (f"{MD5}\tviral\\x\n", ":1: expected a plain file name"),
        (f"{MD5}\ta\n{MD5[1:]}\tb\n", ":2: expected an MD5, a tab and"),
        (f"{MD5}\ta\n{MD5[::-1]}\ta\n", ":2: a has two checksums"),
        ("<html>\n", "names no file"),
        ("<html>\n<body>\n", ":2: expected an MD5"),
    ],
)
def test_what_is_no_list_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(lines)
    with pytest.raises(RefseqError) as caught:
        read_listing(tmp_path / "list")
    assert str(caught.value).startswith(str(tmp_path / "list"))
    assert words in str(caught.value)


def test_the_release_on_disk_is_that_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(RefseqError, match="not downloaded, or not all of it: materialize reference/refseq_release"):
        require_release(tmp_path, SETTINGS)
    mark_complete(tmp_path, SETTINGS)
    with pytest.raises(RefseqError, match="not downloaded"):
        require_release(tmp_path, SETTINGS)
    (tmp_path / "MANIFEST.tsv").touch()
    require_release(tmp_path, SETTINGS)
    require_release(tmp_path, RefseqSettings(release=230, files_per_directory={"plant": 10}))
    for other in ({"release": 231}, {"seed": 1}, {"files_per_directory": {"plant": 9}}, {"base_url": "https://x"}):
        with pytest.raises(RefseqError, match="materialize reference/refseq_release"):
            require_release(tmp_path, RefseqSettings(**{"release": 230, **other}))


# ---- download ----

HASTE = RETRIES.new(total=3, backoff_factor=0.002, backoff_jitter=0)
NAMES = [
    *("viral.1.1.genomic.fna.gz", "viral.1.genomic.gbff.gz", "viral.2.1.genomic.fna.gz", "viral.2.genomic.gbff.gz"),
    *("plant.3.1.genomic.fna.gz", "plant.3.genomic.gbff.gz", "plant.4.1.genomic.fna.gz", "plant.4.genomic.gbff.gz"),
]
KILLS = 10


# The draw takes one of the two plants.
FILES = {name: random.Random(number).randbytes(200_000 + 10_000 * number) for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.made(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[FileServer]:
    with answering(FileServer(authority.tls)) as server:
        publish(server, FILES)
        yield server


@pytest.fixture
def wanted(server: FileServer) -> RefseqSettings:
    counts = dict.fromkeys(HOSTS, 0)
    return RefseqSettings(release=NUMBER, base_url=server.url, files_per_directory={**counts, "plant": 1})


def download(wanted: RefseqSettings, folder: Path, bundle: Path) -> Files:
    return download_release(wanted, folder, Fetcher(bundle, HASTE), lambda *progress: None)[1]


@pytest.fixture
def fetch(wanted: RefseqSettings, authority: Authority, tmp_path: Path) -> partial[Files]:
    """Downloads what is wanted to `tmp_path`."""
    return partial(download, wanted, tmp_path, authority.bundle)


def test_a_release_is_fetched_and_catalogued(
    wanted: RefseqSettings, server: FileServer, authority: Authority, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    fetcher = Fetcher(authority.bundle, HASTE)
    entries, files = download_release(
        wanted, tmp_path, fetcher, lambda name, n, count, *_: seen.append((name, n, count))
    )
    assert len(files) == 6
    assert list(dict.fromkeys(seen)) == [(name, number, 6) for number, name in enumerate(files, start=1)]
    sources = read_catalogue(tmp_path)
    assert [source.name for source in sources] == [entry.name for entry in entries]
    assert [(s.name, s.group) for s in sources if s.label == "viral"] == [(f"viral.{n}.1", "viral") for n in (1, 2)]
    (plant,) = (entry.name for entry in entries if entry.directory == "plant")
    (host,) = (source for source in sources if source.label == "host")
    assert (host.name, host.group, host.origin) == (plant, "plant", f"{server.url}/plant/{plant}.genomic.fna.gz")
    for source in sources:
        assert source.genbank is not None
        for path, digest in ((source.fasta, source.fasta_sha256), (source.genbank, source.genbank_sha256)):
            assert path.read_bytes() == FILES[path.name]
            assert digest == hashlib.sha256(FILES[path.name]).hexdigest()
    require_release(tmp_path, wanted)
    assert altered_files(wanted, tmp_path) == {}
    (tmp_path / NAMES[0]).write_bytes(b"altered")
    assert list(altered_files(wanted, tmp_path)) == [NAMES[0]]


def test_another_release_on_the_server(server: FileServer, fetch: partial[Files], tmp_path: Path) -> None:
    server.files["/RELEASE_NUMBER"] = b"231\n"
    with pytest.raises(RefseqError, match=r"the server has release '231', refseq.release in virnuc.toml is 230"):
        fetch()
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_the_list_is_not_kept(
    wanted: RefseqSettings, server: FileServer, fetch: partial[Files], tmp_path: Path
) -> None:
    path = f"/release-catalog/release{NUMBER}.files.installed"
    listing = server.files[path]
    server.files[path] = b"<html>\nDown for maintenance\n</html>\n"
    with pytest.raises(RefseqError, match="expected an MD5"):
        fetch()
    with pytest.raises(RefseqError, match="is not there: materialize reference/refseq_release"):
        altered_files(wanted, tmp_path)
    server.files[path] = listing
    assert len(fetch()) == 6


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
    wanted: RefseqSettings, server: FileServer, fetch: partial[Files], tmp_path: Path
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
        process = processes.Process(target=download, args=fetch.args)
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
    done = fetch()
    assert asked == {path: server.gets[path] for path in asked}
    assert {name: (tmp_path / name).read_bytes() for name in done} == {name: FILES[name] for name in done}
    assert altered_files(wanted, tmp_path) == {}
    assert [path.name for path in tmp_path.glob(".*partial*")] == []

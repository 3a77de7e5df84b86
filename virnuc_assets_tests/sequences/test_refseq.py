"""Which files of a RefSeq release are taken, and what its list may not say."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.refseq import (
    HOSTS,
    Entry,
    RefseqError,
    choose,
    mark_complete,
    read_listing,
    require_release,
    row_of,
)
from virnuc_assets.settings import RefseqSettings

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
        assert entry.label == ("viral" if entry.directory == "viral" else "host")
        assert entry.directory == "viral" or entry.fasta.endswith(f".{increment}.1.genomic.fna.gz")


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_the_draw_follows_from_names_and_seed_alone(order: random.Random, seed: int) -> None:
    listing = list(release().items())
    order.shuffle(listing)
    seeded = RefseqSettings(release=230, seed=seed)
    assert choose(dict(listing), seeded) == choose(release(), seeded)


def test_seeds_and_directories_draw_differently() -> None:
    draws = {str(names(choose(release(), RefseqSettings(release=230, seed=seed)), "plant")) for seed in range(20)}
    assert len(draws) > 10
    chosen = choose(release(), SETTINGS)
    assert len({str([name.split(".")[1] for name in names(chosen, d)]) for d in ("plant", "invertebrate")}) == 2


def test_a_directory_draws_the_same_whatever_the_others_do() -> None:
    more = {**release(), **{f"plant.{i}.1.genomic.fna.gz": MD5 for i in range(13, 40)}}
    more |= {f"plant.{i}.genomic.gbff.gz": MD5 for i in range(13, 40)}
    before, after = choose(release(), SETTINGS), choose(more, SETTINGS)
    assert names(before, "plant") != names(after, "plant")
    assert [entry for entry in before if entry.directory != "plant"] == [e for e in after if e.directory != "plant"]


def test_counts_can_be_set_and_must_be_there() -> None:
    chosen = choose(release(), RefseqSettings(release=230, files_per_directory={"plant": 12, "fungi": 0}))
    assert (len(names(chosen, "plant")), len(names(chosen, "fungi")), len(names(chosen, "archaea"))) == (12, 0, 1)
    with pytest.raises(RefseqError, match=r"plant: 13 files are to be drawn, it lists 12 .*files_per_directory.plant"):
        choose(release(), RefseqSettings(release=230, files_per_directory={"plant": 13}))
    with pytest.raises(RefseqError, match="no viral"):
        choose({"README": MD5}, SETTINGS)


def test_hosts_are_drawn_with_both_files_and_viruses_taken_without() -> None:
    listing = release(1)
    ones = RefseqSettings(release=230, files_per_directory=dict.fromkeys(HOSTS, 1))
    del listing["viral.2.genomic.gbff.gz"]
    assert {entry.name: entry.genbank for entry in choose(listing, ones)}["viral.2.1"] is None
    del listing["plant.1.genomic.gbff.gz"]
    with pytest.raises(RefseqError, match="plant: 1 files are to be drawn, it lists 0"):
        choose(listing, ones)


def test_rows_tell_group_origin_and_checksums() -> None:
    entry = Entry("vertebrate_other", "vertebrate_other.7.1.genomic.fna.gz", "vertebrate_other.7.genomic.gbff.gz")
    row = row_of(entry, {entry.fasta: "a", entry.files[1]: "b"}, "https://host/release/")
    assert row == {
        "name": "vertebrate_other.7.1",
        "label": "host",
        "group": "vertebrate",
        "fasta": "vertebrate_other.7.1.genomic.fna.gz",
        "genbank": "vertebrate_other.7.genomic.gbff.gz",
        "fasta_sha256": "a",
        "genbank_sha256": "b",
        "origin": "https://host/release/vertebrate_other/vertebrate_other.7.1.genomic.fna.gz",
    }


@pytest.mark.parametrize("header", ["", "MD5 checksum\tfile name\n", "# md5\tname\n"])
def test_a_list_with_and_without_a_header(header: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{header}{MD5.upper()}\tviral.1.1.genomic.fna.gz\r\n\n{MD5}\tother\n")
    assert read_listing(tmp_path / "list") == {"viral.1.1.genomic.fna.gz": MD5, "other": MD5}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (f"{MD5}\ta\n{MD5}\tviral/../../x\n", ":2: expected a plain file name"),
        (f"{MD5}\t/etc/passwd\n", ":1: expected a plain file name"),
        (f"{MD5}\t..\n", ":1: expected a plain file name"),
        (f"{MD5}\tviral\\x\n", ":1: expected a plain file name"),
        (f"{MD5}\ta\n{MD5[1:]}\tb\n", ":2: expected an MD5, a tab and"),
        (f"{MD5}\ta\n{MD5} b\n", ":2: expected an MD5, a tab and"),
        (f"{MD5}\ta\n{MD5[::-1]}\ta\n", ":2: a has two checksums"),
        ("", "names no file"),
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

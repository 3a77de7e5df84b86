"""Which files of the watched folder are asked for, and what becomes of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from virnuc_assets import automation
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import SAMPLE_NAMES, SAMPLES
from virnuc_assets.sequences.incoming import visible_files, waiting_files
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import Layout
from virnuc_assets_tests.assets.project import failures, quiet
from virnuc_assets_tests.watching_fakes import look


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "data/incoming"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def defs(tmp_path: Path) -> dg.Definitions:
    return build_defs(Settings(root=tmp_path))


class Folder:
    """The sensor of a watched folder and the plan that it asks for, look after look."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.defs, self.instance, self.cursor = defs, instance, None

    def asked(self) -> list[list[str]]:
        """Files of each run that one look asks for."""
        requests, self.cursor = look(self.defs, self.instance, "incoming_samples", self.cursor)
        return [request.run_config["ops"][automation.PLAN_SAMPLES_OP]["config"]["files"] for request in requests]

    def plan(self, files: list[str] | None = None) -> list[str]:
        """Errors of a plan of these files, or of all."""
        config: dict[str, Any] = {"ops": {automation.PLAN_SAMPLES_OP: {"config": {"files": files}}}} if files else {}
        job = self.defs.resolve_job_def(automation.PLAN_SAMPLES_JOB)
        with quiet():
            result = job.execute_in_process(instance=self.instance, raise_on_error=False, run_config=config)
        return failures(result)

    def settle(self) -> list[str]:
        """Look until nothing is asked for, twice; errors of all plans on the way."""
        told, quiet_looks = list[str](), 0
        while quiet_looks < 2:
            asked = self.asked()
            quiet_looks = 0 if asked else quiet_looks + 1
            for files in asked:
                told += self.plan(files)
        return told

    def samples(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(str(SAMPLE_NAMES.name)))


@pytest.fixture
def folder(defs: dg.Definitions, instance: dg.DagsterInstance) -> Folder:
    return Folder(defs, instance)


def test_a_file_is_planned_when_it_stayed_as_it_is_for_two_looks(folder: Folder, incoming: Path) -> None:
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    assert folder.asked() == []
    assert folder.asked() == [["one.fasta"]]
    assert folder.plan(["one.fasta"]) == []
    assert folder.asked() == []
    assert folder.samples() == {"one"}


def test_a_growing_file_is_left_alone_until_it_stops(folder: Folder, incoming: Path) -> None:
    for length in (4, 8, 12):
        (incoming / "growing.fasta").write_text(">a\n" + "A" * length)
        assert folder.asked() == []
    assert folder.asked() == [["growing.fasta"]]


def test_a_file_that_goes_on_growing_after_a_pause_is_planned_again(folder: Folder, incoming: Path) -> None:
    (incoming / "paused.fasta").write_text(">a\nACGT")
    assert folder.settle() == []
    with (incoming / "paused.fasta").open("a") as handle:
        handle.write("ACGT\n")
    assert folder.asked() == []
    assert folder.asked() == [["paused.fasta"]]


def test_a_file_rewritten_at_equal_length_and_time_is_seen(folder: Folder, incoming: Path) -> None:
    """As `mv` and `cp -p` do it."""
    path = incoming / "one.fasta"
    path.write_text(">a\nACGT\n")
    os.utime(path, ns=(1, 1))
    assert folder.settle() == []
    (incoming / ".aside").write_text(">a\nTTTT\n")
    os.utime(incoming / ".aside", ns=(1, 1))
    (incoming / ".aside").replace(path)
    assert folder.asked() == []
    assert folder.asked() == [["one.fasta"]]


def test_nothing_is_planned_while_a_neighbour_is_still_written(folder: Folder, incoming: Path) -> None:
    (incoming / "done.fasta").write_text(">a\nACGT\n")
    (incoming / "growing.fasta").write_text(">a\nAC")
    folder.asked()
    (incoming / "growing.fasta").write_text(">a\nACGTAC")
    assert folder.asked() == [["done.fasta"]]


def test_hidden_files_folders_and_an_empty_folder_ask_for_nothing(folder: Folder, incoming: Path) -> None:
    (incoming / ".gitkeep").write_text("")
    (incoming / "a_folder.fasta").mkdir()
    (incoming / "dangling.fasta").symlink_to("nowhere")
    (incoming / "too_long.fasta").symlink_to("x" * 300)
    (incoming / "circle.fasta").symlink_to("circle.fasta")
    assert [folder.asked() for _ in range(3)] == [[], [], []]


def test_a_missing_folder_asks_for_nothing(folder: Folder) -> None:
    assert [folder.asked() for _ in range(3)] == [[], [], []]


def test_other_settings_ask_for_another_plan(folder: Folder, incoming: Path, tmp_path: Path) -> None:
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    assert folder.settle() == []
    folder.defs = build_defs(Settings.model_validate({"root": tmp_path, "sequences": {"chunk_length": 300}}))
    folder.asked()
    assert folder.asked() == [["one.fasta"]]


def test_a_broken_file_fails_once_and_holds_up_no_other(folder: Folder, incoming: Path) -> None:
    (incoming / "broken.fasta").write_text(">a\nMKVLEEFIPQLL\n")
    (incoming / "whole.fasta").write_text(">b\nACGT\n")
    (told,) = folder.settle()
    assert "broken.fasta: SequenceFileError" in told
    assert "looks like protein" in told
    assert folder.samples() == {"whole"}
    (incoming / "later.fasta").write_text(">c\nACGTA\n")
    assert folder.settle() == []
    assert folder.samples() == {"whole", "later"}


def test_a_broken_file_that_is_mended_is_planned(folder: Folder, incoming: Path) -> None:
    (incoming / "one.fasta").write_text("no header\n")
    assert len(folder.settle()) == 1
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    assert folder.settle() == []
    assert folder.samples() == {"one"}


def test_a_file_that_was_replaced_by_a_broken_one_is_no_sample_any_more(folder: Folder, incoming: Path) -> None:
    """Nothing would ever predict it: what its shards were planned from is gone."""
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    (incoming / "two.fasta").write_text(">b\nACGTA\n")
    assert folder.settle() == []
    (incoming / "one.fasta").write_text("no header\n")
    assert len(folder.settle()) == 1
    assert folder.samples() == {"two"}
    assert list(folder.instance.get_dynamic_partitions("sample_shards")) == ["two-000001"]
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    assert folder.settle() == []
    assert folder.samples() == {"one", "two"}


def test_a_file_that_is_written_to_while_it_is_read_stays_what_it_was(folder: Folder, incoming: Path) -> None:
    path, planned = incoming / "one.fasta", threading.Event()
    path.write_text(">a\nACGT\n")
    assert folder.settle() == []
    path.write_text(">a\n" + ("ACGT" * 15 + "\n") * 100_000)

    def append() -> None:
        while not planned.is_set():
            with path.open("a") as handle:
                handle.write("ACGT\n")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        told = folder.plan(["one.fasta"])
    finally:
        planned.set()
        writer.join()
    assert told == []
    assert folder.samples() == {"one"}
    event = folder.instance.get_latest_materialization_event(SAMPLES.key("shard_plan"))
    assert event and event.asset_materialization
    assert "written to while it was read" in event.asset_materialization.metadata["still_written"].value["one.fasta"]
    folder.asked()
    assert folder.asked() == [["one.fasta"]]


NAMES = {
    b"with space.fasta": "with_space",
    b"semi;colon & more.fa": "semi_colon___more",
    b"quote'\"$(reboot).fasta": "quote____reboot",
    b"new\nline.fasta": "new_line",
    b"\x1b[31mred.fasta": "31mred",
    b"latin\xe9.fasta": "latin",
    "größe.fasta".encode(): "gr__e",
    b"=cmd.fasta": "cmd",
    b"-rf.fasta": "rf",
    b"two.dots.fasta.gz": "two.dots",
}


def test_hostile_names_become_samples(folder: Folder, incoming: Path) -> None:
    import gzip

    for number, name in enumerate(NAMES):
        content = b">a\n" + b"ACGT" * (number + 1) + b"\n"
        path = os.path.join(os.fsencode(incoming), name)  # noqa: PTH118 - a Path holds no bytes
        with open(path, "wb") as handle:  # noqa: PTH123
            handle.write(gzip.compress(content) if name.endswith(b".gz") else content)
    assert folder.settle() == []
    assert folder.samples() == set(NAMES.values())


@pytest.mark.parametrize("name", [b"x" * 220 + b".fasta", b"___.fasta", b"\xff\xfe.fasta"])
def test_a_name_that_no_sample_can_have_is_refused(folder: Folder, incoming: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(incoming), name), "wb") as handle:  # noqa: PTH118, PTH123
        handle.write(b">a\nACGT\n")
    (told,) = folder.settle()
    assert "rename the file" in told
    assert folder.samples() == set()


def test_the_second_of_two_files_of_one_name_is_refused(folder: Folder, incoming: Path) -> None:
    (incoming / "one.fna").write_text(">a\nACGT\n")
    assert folder.settle() == []
    (incoming / "one.fa").write_text(">b\nACGTA\n")
    (told,) = folder.settle()
    assert "one.fa: named 'one' as 'one.fna' is; rename one" in told
    assert folder.settle() == []


@pytest.mark.parametrize("owner", [">a\nACGT\n", "no header\n"])
def test_the_second_of_two_files_of_one_name_is_planned_when_the_first_is_gone(
    folder: Folder, incoming: Path, owner: str
) -> None:
    (incoming / "one.fna").write_text(owner)
    folder.settle()
    (incoming / "one.fsa").write_text(">b\nACGTA\n")
    assert "named 'one'" in "".join(folder.settle())
    assert waiting(incoming) == []
    (incoming / "one.fna").unlink()
    assert waiting(incoming) == ["one.fsa"]
    assert folder.plan(["one.fsa"]) == []
    assert waiting(incoming) == []
    assert folder.samples() == {"one"}


def waiting(incoming: Path) -> list[str]:
    root = incoming.parents[1]
    layout, settings = Layout(root / "var", "miniature"), Settings(root=root).sequences
    return list(waiting_files(layout, visible_files(incoming), settings))


def test_a_duplicate_is_recognised_by_its_records_and_has_no_shards(folder: Folder, incoming: Path) -> None:
    """Whatever it is called, and however it is written; with another record it is another sample."""
    (incoming / "one.fasta").write_text(">a some words\nACGTAC\n>b\nTTTT\n")
    assert folder.settle() == []
    (incoming / "copy.fasta").write_text(">a\nacg\ntac\n>b\nTTTT")
    (incoming / "more.fasta").write_text(">a\nACGTAC\n>b\nTTTT\n>c\nGG\n")
    assert folder.settle() == []
    assert folder.samples() == {"one", "more"}
    assert {key.split("-")[0] for key in folder.instance.get_dynamic_partitions("sample_shards")} == {"one", "more"}
    event = folder.instance.get_latest_materialization_event(SAMPLES.key("shard_plan"))
    assert event and event.asset_materialization
    told = event.asset_materialization.metadata["duplicates"].value
    assert list(told) == ["copy.fasta"]
    assert "same records as one, whose results hold for it" in told["copy.fasta"]


def test_two_files_with_the_same_records_are_one_sample(folder: Folder, incoming: Path) -> None:
    for name in ("b", "a", "c"):
        (incoming / f"{name}.fasta").write_text(">r\nACGT\n")
    assert folder.settle() == []
    assert folder.samples() == {"a"}


def test_a_duplicate_is_a_sample_when_its_original_became_another(folder: Folder, incoming: Path) -> None:
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    assert folder.settle() == []
    (incoming / "copy.fasta").write_text(">a\nACGT\n")
    assert folder.settle() == []
    (incoming / "one.fasta").write_text(">a\nTTTTT\n")
    assert folder.settle() == []
    assert folder.samples() == {"one", "copy"}

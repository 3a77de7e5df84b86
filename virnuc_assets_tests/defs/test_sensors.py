"""The watched folder: which files are requested, and what becomes of them."""

from __future__ import annotations

import gzip
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.sequences import incoming
from virnuc_assets.settings import Settings
from virnuc_assets_tests.assets.project import failures, quiet


class Folder:
    """The sensor of a watched folder and the plan that it requests, poll after poll."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.path, self.instance, self.cursor = root / "data/incoming", instance, None
        self.path.mkdir(parents=True)
        self.defs = build_defs(Settings(root=root))

    def write(self, **files: str) -> None:
        """Files by name without ending."""
        for name, text in files.items():
            (self.path / f"{name}.fasta").write_text(text)

    def poll(self) -> list[str]:
        """Files that one poll requests, in one run at most."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=self.defs)
        result = self.defs.resolve_sensor_def("incoming_samples")(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        config = [request.run_config["ops"][jobs.PLAN_SAMPLES_OP]["config"] for request in result.run_requests or []]
        assert len(config) <= 1
        return config[0]["files"] if config else []

    def plan(self, *files: str) -> list[str]:
        """Errors of a plan of these files."""
        config: dict[str, Any] = {"ops": {jobs.PLAN_SAMPLES_OP: {"config": {"files": list(files)}}}}
        job = self.defs.resolve_job_def(jobs.PLAN_SAMPLES_JOB)
        with quiet():
            return failures(job.execute_in_process(instance=self.instance, raise_on_error=False, run_config=config))

    def settle(self) -> list[str]:
        """Poll until nothing is requested, twice; errors of all plans on the way."""
        text, quiet_polls = list[str](), 0
        while quiet_polls < 2:
            files = self.poll()
            quiet_polls = 0 if files else quiet_polls + 1
            text += self.plan(*files) if files else []
        return text

    def samples(self) -> list[str]:
        return SAMPLES.keys(self.instance)

    def named_by_plan(self, what: str) -> dict[str, str]:
        """Files that the metadata of the latest plan name."""
        event = self.instance.get_latest_materialization_event(SAMPLES.key("shard_plan"))
        assert event and event.asset_materialization
        table = event.asset_materialization.metadata[what]
        assert isinstance(table, dg.TableMetadataValue)
        return {row.data["file"]: row.data["reason"] for row in table.records}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Folder(tmp_path, instance)


@pytest.fixture
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    now, hours = time.time() // 3600 * 3600 + 1, [0]  # a test does not last until the next hour
    monkeypatch.setattr(time, "time", lambda: now + 3600 * len(hours))
    yield lambda: hours.append(0)


def test_a_growing_file_waits_and_holds_up_no_other(folder: Folder) -> None:
    folder.write(done=">a\nACGT\n", growing=">a\nAC")
    assert folder.poll() == []
    folder.write(growing=">a\nACGTAC")
    assert folder.poll() == ["done.fasta"]
    folder.write(growing=">a\nACGTACGT")
    assert [folder.poll(), folder.poll()] == [[], ["growing.fasta"]]


def test_what_the_intake_log_does_not_know_is_requested_once_an_hour(folder: Folder, an_hour_later: Any) -> None:
    """As the run may have been canceled, or found no space."""
    folder.write(one=">a\nACGT\n")
    assert [folder.poll() for _ in range(6)] == [[], ["one.fasta"], *[[]] * 4]
    an_hour_later()
    assert [folder.poll() for _ in range(6)] == [["one.fasta"], *[[]] * 5]
    folder.write(one=">a\nACGTT\n")
    assert [folder.poll(), folder.poll()] == [[], ["one.fasta"]]


def test_a_broken_file_fails_once_and_holds_up_no_other(folder: Folder, an_hour_later: Any) -> None:
    folder.write(broken=">a\nMKVLEEFIPQLL\n", whole=">b\nACGT\n")
    (text,) = folder.settle()
    assert "broken.fasta" in text and "looks like protein" in text
    assert folder.samples() == ["whole"]
    an_hour_later()
    assert folder.settle() == []
    folder.write(broken=">a\nACGTAA\n")
    assert folder.settle() == []
    assert folder.samples() == ["broken", "whole"]


def test_a_refused_file_is_planned_again_where_more_can_be_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(broken=">a\nMKVLEEFIPQLL\n", whole=">b\nACGT\n")
    assert len(folder.settle()) == 1
    monkeypatch.setattr(incoming, "_READABLE", incoming._READABLE + 1)
    assert [folder.poll(), folder.poll()] == [[], ["broken.fasta"]]
    assert len(folder.plan("broken.fasta")) == 1
    assert folder.settle() == []


def test_a_file_that_was_replaced_by_a_broken_one_is_no_sample_any_more(folder: Folder) -> None:
    """Nothing would ever predict it: what its shards were planned from is gone."""
    folder.write(one=">a\nACGT\n", two=">b\nACGTA\n")
    assert folder.settle() == []
    folder.write(one="no header\n")
    assert len(folder.settle()) == 1
    assert folder.samples() == ["two"]
    folder.write(one=">a\nACGT\n")
    assert folder.settle() == []
    assert folder.samples() == ["one", "two"]


def test_a_changed_file_is_requested_again(folder: Folder) -> None:
    """Also one that was rewritten at equal length and time, as `mv` and `cp -p` do it, and for other settings."""
    path = folder.path / "one.fasta"
    folder.write(one=">a\nACGT\n")
    os.utime(path, ns=(1, 1))
    assert folder.settle() == []
    (folder.path / ".temporary").write_text(">a\nTTTT\n")
    os.utime(folder.path / ".temporary", ns=(1, 1))
    (folder.path / ".temporary").replace(path)
    assert [folder.poll(), folder.poll()] == [[], ["one.fasta"]]
    assert folder.plan("one.fasta") == []
    settings = {"root": folder.path.parents[1], "sequences": {"chunk_length": 300}}
    folder.defs = build_defs(Settings.model_validate(settings))
    assert [folder.poll(), folder.poll()] == [[], ["one.fasta"]]


def test_hidden_files_and_a_missing_folder_request_nothing(folder: Folder) -> None:
    (folder.path / ".gitkeep").write_text("")
    assert [folder.poll() for _ in range(3)] == [[], [], []]
    shutil.rmtree(folder.path)
    assert [folder.poll() for _ in range(3)] == [[], [], []]


def test_what_is_no_file_is_named_once_and_holds_up_no_file(folder: Folder, an_hour_later: Any) -> None:
    folder.write(one=">a\nACGT\n")
    (folder.path / "a_folder").mkdir()
    os.mkfifo(folder.path / "a_pipe.fasta")
    for name, target in {"dangling": "nowhere", "too_long": "x" * 300, "circle": "circle.fasta"}.items():
        (folder.path / f"{name}.fasta").symlink_to(target)
    (text,) = folder.settle()
    assert (text.count("found a folder"), text.count("found a pipe"), text.count("found a link to nothing")) == (
        1,
        1,
        3,
    )
    assert folder.samples() == ["one"]
    (folder.path / "a_folder/inside.fasta").touch()
    an_hour_later()
    assert folder.settle() == []
    (folder.path / "nowhere").write_text(">b\nACGTA\n")
    folder.settle()
    assert folder.samples() == ["dangling", "one"]


def test_a_file_that_is_written_to_while_it_is_read_stays_what_it_was(folder: Folder) -> None:
    path, planned = folder.path / "one.fasta", threading.Event()
    folder.write(one=">a\nACGT\n")
    assert folder.settle() == []
    folder.write(one=">a\n" + ("ACGT" * 15 + "\n") * 100_000)

    def append() -> None:
        while not planned.is_set():
            with path.open("a") as handle:
                handle.write("ACGT\n")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        text = folder.plan("one.fasta")
    finally:
        planned.set()
        writer.join()
    assert text == []
    assert folder.samples() == ["one"]
    assert "written to while it was read" in folder.named_by_plan("still_written")["one.fasta"]
    assert [folder.poll(), folder.poll()] == [[], ["one.fasta"]]


NAMES = {
    b"with space.fasta": "with_space",
    b"quote'\"$(reboot).fasta": "quote____reboot",
    b"new\nline.fasta": "new_line",
    b"latin\xe9.fasta": "latin",
    "größe.fasta".encode(): "gr__e",
    b"=cmd.fasta": "cmd",
    b"two.dots.fasta.gz": "two.dots",
}
NO_NAMES = (b"x" * 220 + b".fasta", b"___.fasta", b"\xff\xfe.fasta")


def test_hostile_names_become_samples_or_are_refused(folder: Folder) -> None:
    for number, name in enumerate([*NAMES, *NO_NAMES]):
        content = b">a\n" + b"ACGT" * (number + 1) + b"\n"
        path = os.path.join(os.fsencode(folder.path), name)  # noqa: PTH118 - a Path holds no bytes
        with open(path, "wb") as handle:  # noqa: PTH123
            handle.write(gzip.compress(content) if name.endswith(b".gz") else content)
    (text,) = folder.settle()
    assert text.count("rename the file") == len(NO_NAMES)
    assert folder.samples() == sorted(NAMES.values())


@pytest.mark.parametrize("owner", [">a\nACGT\n", "no header\n"])
def test_the_second_of_two_files_of_one_name_is_planned_when_the_first_is_gone(folder: Folder, owner: str) -> None:
    (folder.path / "one.fna").write_text(owner)
    folder.settle()
    (folder.path / "one.fsa").write_text(">b\nACGTA\n")
    (text,) = folder.settle()
    assert "one.fsa: named 'one' as 'one.fna' is; rename one" in text
    assert folder.settle() == []
    (folder.path / "one.fna").unlink()
    assert [folder.poll(), folder.poll()] == [[], ["one.fsa"]]
    assert folder.plan("one.fsa") == []
    assert folder.settle() == []
    assert folder.samples() == ["one"]


def test_a_duplicate_is_recognised_by_its_records_and_is_no_sample(folder: Folder) -> None:
    """Whatever it is called, and however it is written; with another record it is another sample."""
    folder.write(one=">a some words\nACGTAC\n>b\nTTTT\n")
    assert folder.settle() == []
    folder.write(copy=">a\nacg\ntac\n>b\nTTTT", more=">a\nACGTAC\n>b\nTTTT\n>c\nGG\n")
    assert folder.settle() == []
    assert folder.samples() == ["more", "one"]
    assert list(folder.named_by_plan("duplicates")) == ["copy.fasta"]
    assert "same records as one, whose results hold for it" in folder.named_by_plan("duplicates")["copy.fasta"]


def test_a_duplicate_is_a_sample_when_its_original_became_another(folder: Folder) -> None:
    folder.write(**dict.fromkeys(("b", "a", "c"), ">r\nACGT\n"))
    assert folder.settle() == []
    assert folder.samples() == ["a"]
    folder.write(a=">r\nTTTTT\n")
    assert folder.settle() == []
    assert folder.samples() == ["a", "b"]

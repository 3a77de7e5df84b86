"""Unfinished files are cleared by whether their writer lives, and what they were about to replace is put back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.storage.places import host
from virnuc_assets.workstation.cleanup import clean_up, unfinished_files
from virnuc_assets_tests.assets.project import Project, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

# Dies between the two renames that give a new folder the name of an older one.
BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from virnuc_assets.storage.aside import folder_written_aside

def replace_and_die(path, target, replace=Path.replace):
    replace(path, target)
    os.kill(os.getpid(), signal.SIGKILL)

with folder_written_aside(Path(sys.argv[1])) as folder:
    (folder / "pages").write_text("new")
    Path.replace = replace_and_die
"""


@pytest.fixture
def project(blank: Path, tmp_path: Path) -> Iterator[Project]:
    project = new_project(tmp_path / "project", blank, in_memory=False)
    yield project
    project.instance.dispose()


def of(number: int) -> str:
    """As a process of this host marks what it has not finished."""
    return f"{number}@{host()}"


def gone() -> int:
    """Number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_unfinished_files_of_dead_writers_vanish(project: Project) -> None:
    var, number = project.settings.var, gone()
    dead = [
        f".x.parquet.{of(number)}.partial",
        f".fastesm2.{of(number)}.replaced",
        f".fastesm2.{of(number)}.a1_b2c3d.rows",
    ]
    kept = [
        f".x.parquet.{of(os.getpid())}.partial",
        ".viral.1.fna.gz.partial",
        ".viral.1.lock",
        f"x.{of(number)}.partial",
    ]
    (var / "fastesm2").mkdir()  # the newer one got its name
    for name in (dead[0], *kept):
        (var / name).write_text("half")
    for name in dead[1:]:
        (var / name).mkdir()
        (var / name / f".inner.{of(number)}.partial").write_text("half")
    assert sorted(unfinished_files(project.settings)) == sorted(var / name for name in dead)
    told: list[str] = []
    clean_up(project.settings, told.append)
    assert told == ["Removed 3 unfinished files and folders of killed processes."]
    assert [(var / name).exists() for name in (*dead, *kept)] == [False] * 3 + [True] * 4


def test_the_file_of_a_writer_whose_number_was_given_to_another(project: Project) -> None:
    path = project.settings.var / f".x.parquet.{of(os.getpid())}.partial"
    path.write_text("half")
    assert unfinished_files(project.settings) == []
    os.utime(path, (1, 1))  # long before this process began
    assert unfinished_files(project.settings) == [path]


def test_the_file_of_another_host_is_abandoned_after_a_day(project: Project) -> None:
    path = project.settings.var / f".x.parquet.{gone()}@another-host.partial"
    path.write_text("half")
    assert unfinished_files(project.settings) == []
    os.utime(path, (time.time() - 90_000,) * 2)
    assert unfinished_files(project.settings) == [path]


def test_a_folder_whose_writer_died_before_the_new_one_had_its_name_is_put_back(project: Project) -> None:
    folder, told = project.settings.var / "decision", list[str]()
    folder.mkdir()
    (folder / "pages").write_text("older")
    with subprocess.Popen([sys.executable, "-c", BETWEEN_RENAMES, folder]) as writer:
        assert writer.wait() == -signal.SIGKILL
    beside = [folder.with_name(f".decision.{of(writer.pid)}.{kind}") for kind in ("partial", "replaced")]
    assert not folder.exists()
    assert unfinished_files(project.settings) == beside
    clean_up(project.settings, told.append)
    assert told == [
        "Put back 1 folders that killed processes were about to replace.",
        "Removed 1 unfinished files and folders of killed processes.",
    ]
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("pages", "older")]
    assert unfinished_files(project.settings) == []


def test_of_two_folders_that_were_to_be_replaced_the_latest_is_put_back(project: Project) -> None:
    var, told = project.settings.var, list[str]()
    first, second = (var / f".decision.{of(gone())}.replaced" for _ in range(2))
    for folder in (second, first):
        folder.mkdir()
        (folder / "pages").write_text(folder.name)
    while second.stat().st_ctime <= first.stat().st_ctime:
        second.chmod(0o755)
    clean_up(project.settings, told.append)
    assert (var / "decision/pages").read_text() == second.name
    assert not first.exists() and not second.exists()
    assert told == [
        "Put back 1 folders that killed processes were about to replace.",
        "Removed 1 unfinished files and folders of killed processes.",
    ]


def test_a_folder_that_a_living_process_replaces_is_left_to_it(project: Project) -> None:
    folder = project.settings.var / "decision"
    folder.mkdir()
    os.utime(folder, (1, 1))  # the older one was written long before this process began
    folder.rename(folder.with_name(f".decision.{of(os.getpid())}.replaced"))
    assert unfinished_files(project.settings) == []


def test_what_vanishes_while_it_is_looked_for_disturbs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shell's run renames a file, and removes a folder, after the folder above them was listed."""
    var, number, walk = project.settings.var, gone(), os.walk
    vanishing, stays = (
        var / "busy" / f".x.parquet.{of(number)}.partial",
        var / "busy" / f".y.parquet.{of(number)}.partial",
    )
    (var / "busy/scratch").mkdir(parents=True)
    for path in (vanishing, stays):
        path.write_text("half")

    def walk_among_others(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, files in walk(top):
            if vanishing.name in files:
                vanishing.rename(var / "busy/x.parquet")
                (var / "busy/scratch").rmdir()
            yield folder, folders, files

    monkeypatch.setattr(os, "walk", walk_among_others)
    assert unfinished_files(project.settings) == [stays]
    assert not (var / "busy/scratch").exists()

"""What a run that is not finished leaves next to its results, and when a folder is free for them."""

import os
import shutil
from pathlib import Path

import pytest

from virnuc_assets.storage.atomic import atomic_files
from virnuc_assets.storage.outputs import OutputRefused, published, require_free, unfinished_folder


def test_a_failure_leaves_what_is_finished_and_no_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "made/out"
    with pytest.raises(ValueError, match="early"), unfinished_folder(out) as work:
        (work / "frames").mkdir()
        raise ValueError("early")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="late"), unfinished_folder(out) as work:
        (work / "frames").mkdir()
        (work / "frames/a.parquet").touch()
        raise ValueError("late")
    require_free(out, ["a"])
    with unfinished_folder(out) as work:
        assert [path.name for path in work.rglob("*.parquet")] == ["a.parquet"]
        (work / "frames/.b.parquet.1@host.partial").touch()
    assert list(out.iterdir()) == []


def test_what_killed_processes_had_not_finished_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".unfinished/frames").mkdir(parents=True)
    (tmp_path / ".unfinished/frames/.a.parquet.1@host.partial").touch()
    with unfinished_folder(tmp_path) as work:
        assert list(work.rglob("*.partial")) == []


def test_results_appear_together_and_take_the_mark_of_it_along(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path) as work, published(tmp_path) as temporary:
        (temporary / "summary.tsv").write_text("new")
        assert not (tmp_path / "summary.tsv").exists() and not (work / "publishing").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"summary.tsv"}
    with pytest.raises(OutputRefused, match=r"found 1 files or folders, e.g. summary.tsv; .* --force"):
        require_free(tmp_path, ["summary.tsv"])


def test_a_process_that_dies_after_all_results_appeared_leaves_results(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished_folder(tmp_path):
        with published(tmp_path) as temporary:
            (temporary / "summary.tsv").touch()
        raise KeyboardInterrupt  # before the tables are removed
    with pytest.raises(OutputRefused, match="--force"):
        require_free(tmp_path, ["summary.tsv"])


def test_the_file_that_was_written_last_appears_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = list[str]()
    monkeypatch.setattr(shutil, "move", lambda file, target: moved.append(Path(target).name))
    with atomic_files(tmp_path / "out") as temporary:
        for number, name in enumerate(("b", "c", "a")):
            (temporary / name).touch()
            os.utime(temporary / name, (number, number))
    assert moved == ["b", "c", "a"]

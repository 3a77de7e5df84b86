"""What commands write: paths are checked first, results appear together, and who is stopped leaves nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from virnuc_assets.storage.places import host
from virnuc_assets.storage.tables import read_rows
from virnuc_assets_tests.assets.project import SAMPLE, Finished, Project, write_sample
from virnuc_assets_tests.cli.commands import console, message, virnuc

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

SCRIPT = Path(sys.executable).with_name("virnuc")
ODD_NAME = os.fsdecode("s3:β ".encode() + b"\xff")  # a URL to Arrow, not UTF-8, with a blank
ENDED = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "flu.fasta"
    write_sample(path, ["fluA_PB2"])
    return path


@pytest.fixture
def frames(sample: Path, tmp_path: Path) -> Path:
    path = tmp_path / "frames.parquet"
    assert virnuc("frames", sample, "--out", path).exit_code == 0
    return path


REFUSED = {"pipe": "found a pipe", "circle": "Too many levels", "folder": "found a folder", "file/below": "is a file"}


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Folder of what cannot be written to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    return tmp_path


def predict_options(project: Project, command: str) -> list[str | Path]:
    config = ["--project", project.root]
    return {"embed": ["--encoder", "fastesm2_650_miniature", *config], "predict": config}.get(command, [])


@pytest.mark.parametrize("command", ["frames", "embed", "export"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_before_any_work(
    untrained: Project, places: Path, command: str, name: str
) -> None:
    """The input is absent, and is not read."""
    option, before = "--to" if command == "export" else "--out", sorted(places.iterdir())
    result = virnuc(command, places / "absent", *predict_options(untrained, command), option, places / name)
    assert REFUSED[name] in message(result)
    assert sorted(places.iterdir()) == before


@pytest.mark.parametrize("command", ["frames", "embed", "export", "predict"])
@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
def test_an_input_is_not_overwritten(
    untrained: Project, frames: Path, sample: Path, tmp_path: Path, command: str, way: str
) -> None:
    source, option = frames if command in ("embed", "export") else sample, "--to" if command == "export" else "--out"
    (tmp_path / "results").mkdir()
    out = source if way == "itself" and command != "predict" else tmp_path / "results/summary.tsv"
    if way == "itself" and command == "predict":
        source = source.rename(out)
    elif way != "itself":
        (out.symlink_to if way == "link" else out.hardlink_to)(source)
    whole = source.read_bytes()
    to = out.parent if command == "predict" else out
    result = virnuc(command, source, *predict_options(untrained, command), option, to)
    assert "is also an input" in message(result)
    assert source.read_bytes() == whole


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_stays_one_and_what_it_names_is_written(sample: Path, tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "elsewhere/target.parquet", tmp_path / "link.parquet"
    target.parent.mkdir()
    if there:
        target.write_text("older")
    link.symlink_to("elsewhere/target.parquet")
    assert virnuc("frames", sample, "--out", link).exit_code == 0
    assert link.is_symlink()
    assert read_rows(target) > 0
    assert list(target.parent.iterdir()) == [target]


def test_names_are_whatever_the_system_allows(
    untrained: Project, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ODD_NAME
    place.mkdir()
    source = sample.rename(place / f"{ODD_NAME}.fasta")
    longest = ODD_NAME + "x" * (255 - len(os.fsencode(ODD_NAME)))
    options = ("--encoder", "fastesm2_650_miniature", "--project", untrained.root)
    monkeypatch.chdir(place)
    for name in (ODD_NAME, longest):  # as names in the current folder, which could be URLs
        assert virnuc("frames", source.name, "--out", name).exit_code == 0
        assert virnuc("embed", name, *options, "--out", f"{ODD_NAME}.vectors").exit_code == 0
    assert read_rows(place / longest) == read_rows(place / f"{ODD_NAME}.vectors") > 0
    assert ">fluA_PB2_chunk_1" in console("fasta", longest, "--column", "protein", cwd=place).stdout
    assert len(list(place.iterdir())) == 4


def started(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """`virnuc frames` of a file that takes seconds, while it writes; on a busy machine this process goes first."""
    source.write_bytes(b">long\n" + b"ACGTCCGA" * 12_000_000 + b"\n")
    command = ["nice", "-n", "19", SCRIPT, "frames", source, "--out", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not list(out.parent.glob(f".{out.name}.*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", ENDED, ids=lambda number: number.name)
def test_a_command_that_a_signal_ends_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    source = tmp_path / "long.fasta"
    with started(source, tmp_path / "frames.parquet") as process:
        process.send_signal(number)
        _, text = process.communicate()
    assert process.returncode == ENDED[number]
    assert b"Traceback" not in text
    assert list(tmp_path.iterdir()) == [source]


def test_what_a_killed_command_left_is_removed_by_the_next(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "made/frames.parquet"
    out.parent.mkdir()
    with started(tmp_path / "long.fasta", out) as process:
        process.kill()
    others = [out.parent / f".{name}.{os.getpid()}@{host()}.partial" for name in ("frames.parquet", "b.parquet")]
    for path in others:
        path.write_text("another process writes it")
    assert len(list(out.parent.iterdir())) == 3
    assert virnuc("frames", sample, "--out", out).exit_code == 0
    assert sorted(out.parent.iterdir()) == sorted([*others[1:], out])


def test_a_closed_pipe_ends_a_command_as_a_shell_expects(tmp_path: Path) -> None:
    source, table = tmp_path / "long.fasta", tmp_path / "frames.parquet"
    source.write_bytes(b">long\n" + b"ACGTCCGA" * 100_000 + b"\n")
    assert virnuc("frames", source, "--out", table).exit_code == 0
    shell = 'set -o pipefail; "$0" fasta "$1" --column protein | head -n 1'
    done = subprocess.run(["bash", "-c", shell, SCRIPT, table], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, ">long_chunk_1F1\n", "")


def test_a_project_that_is_read_only_predicts_and_is_examined(
    finished: Finished, copied: Project, tmp_path: Path
) -> None:
    if os.geteuid():
        command: list[str | Path] = [SCRIPT]
    elif not shutil.which("setpriv"):
        pytest.skip("no setpriv(1) here to drop root's right to write everywhere")
    else:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", SCRIPT]
    shutil.rmtree(copied.workspace.layout.locks, ignore_errors=True)
    for path in (copied.root, *copied.root.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        source = finished.settings.incoming / f"{SAMPLE}.fasta"
        for words, status in ((("predict", source, "--out", tmp_path / "out"), 0), (("doctor",), 1)):
            done = subprocess.run([*command, *words], cwd=copied.root, capture_output=True, text=True, check=False)
            assert done.returncode == status, done.stderr
            assert f"{copied.settings.var} is read-only for user {os.geteuid()}" in " ".join(done.stderr.split())
        done = subprocess.run(
            [*command, "frames", source, "--out", copied.root / "out"], cwd=copied.root, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert f"{copied.root} is read-only" in done.stderr
    finally:
        for path in (copied.root, *copied.root.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
    report = copied.workspace.layout.sample_report(SAMPLE)
    for name in ("prediction_results.txt", "virus.fna", "chunks.gff3"):
        assert (tmp_path / "out" / name).read_bytes() == (report / name).read_bytes()

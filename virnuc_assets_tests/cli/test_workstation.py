"""Commands of a project on this machine, and what all commands share."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from virnuc_assets.cli.main import app
from virnuc_assets_tests.assets.project import GENOMES, Finished, Project, new_project
from virnuc_assets_tests.cli.commands import console, message, virnuc
from virnuc_assets_tests.running import until

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def test_help_lists_every_command_and_each_explains_itself() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert {"frames", "predict", "catalogue", "import", "decide", "up"} < set(names)
    shown = virnuc("--help").output
    for name in names:
        result = virnuc(name, "--help")
        assert (result.exit_code, name in shown, "Usage" in result.output) == (0, True, True)


def test_doctor_shows_the_machine_and_the_project(finished: Finished) -> None:
    result = virnuc("doctor", "--project", finished.root)
    assert result.exit_code == 0, result.output
    for word in ("torch", "device", "attention backends", "memory", "fastesm2_650_miniature", "serving classifier"):
        assert word in result.stdout


def test_doctor_fails_where_a_checkpoint_is_missing_or_incomplete(untrained: Project) -> None:
    checkpoints = untrained.workspace.layout.checkpoints
    shutil.rmtree(checkpoints / "fastesm2_650_miniature")
    (checkpoints / "esm2_3b_miniature/model.safetensors").write_bytes(b"")
    (checkpoints / "dnabert_s_miniature/tokenizer.json").unlink()
    result = virnuc("doctor", "--project", untrained.root)
    text = message(result)
    assert "fastesm2_650_miniature: no checkpoint" in text
    assert "esm2_3b_miniature: " in text and "missing or empty: model.safetensors" in text
    assert "dnabert_s_miniature: " in text and "no vocab.txt or tokenizer.json" in text
    assert text.count("run `virnuc setup --encoder") == 3
    assert (result.stdout.count(": incomplete"), result.stdout.count(": missing")) == (2, 1)
    assert "not trained yet" in result.stdout


@pytest.mark.slow
def test_a_demo_that_a_signal_ends_has_its_status_and_goes_on_when_started_again(blank: Path, tmp_path: Path) -> None:
    project = new_project(tmp_path / "project", blank, GENOMES, in_memory=False)
    embeddings = project.workspace.layout.results / "reference/dnabert_s_embeddings"
    command = [Path(sys.executable).with_name("virnuc"), "demo"]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) as demo:
        until(lambda: any(embeddings.glob("*.parquet")), "a first table", every=0.01)
        demo.terminate()
        _, printed = demo.communicate()
    assert (demo.returncode, printed) == (128 + signal.SIGTERM, "")
    assert list(project.root.rglob("*.partial")) == []
    before = {path: path.stat().st_mtime_ns for path in project.workspace.layout.results.rglob("*.parquet")}
    again = console("demo", cwd=project.root)
    assert again.returncode == 0, again.stderr
    assert "NO DECISION" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_port_that_is_taken_is_named(untrained: Project) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for there in (taken, free):
            there.bind(("127.0.0.1", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        untrained.configure(servers={"dagster_port": other, "mlflow_port": port})
        assert f"port {port} is taken" in message(virnuc("up", "--project", untrained.root))

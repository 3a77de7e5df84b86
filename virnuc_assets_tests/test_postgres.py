"""Dagster's and MLflow's records in a real Postgres: the whole pipeline, several processes at once, its restart."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, range_tags, register
from virnuc_assets.defs.tracking import EXPERIMENT
from virnuc_assets.workstation.setup import dagster_home, set_up
from virnuc_assets_tests.assets.project import GENOMES, SAMPLE, SAMPLE_RECORDS, Project, failures, new_project, quiet
from virnuc_assets_tests.postgres_server import PASSWORD, PostgresServer, postgres_server
from virnuc_assets_tests.running import CHECKOUT, free_ports, running, until

pytestmark = pytest.mark.postgres
pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def project(blank: Path, server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Set up in empty databases; nothing has run."""
    root = tmp_path_factory.mktemp("postgres") / "project"
    project = new_project(root, blank, GENOMES, {SAMPLE: SAMPLE_RECORDS}, in_memory=False)
    shutil.rmtree(root / "var/mlflow")
    project.configure(tracking={"uri": server.url("mlflow")})
    home = dagster_home(project.settings)
    described = yaml.safe_load((home / "dagster.yaml").read_text())
    shutil.rmtree(home)
    home.mkdir()
    storage = {"postgres": {"postgres_url": server.url("dagster")}}
    (home / "dagster.yaml").write_text(yaml.safe_dump({**described, "storage": storage}))
    with quiet():
        set_up(project.settings, lambda _: None)
        set_up(project.settings, lambda _: None)  # a second time changes nothing
    return project


def test_from_fasta_to_the_decision_and_a_report(project: Project, server: PostgresServer) -> None:
    assert failures(*project.run_everything()) == []
    assert project.workspace.layout.whole("migration_decision", ".html").is_file()
    assert int(server.ask("dagster", "SELECT count(*) FROM runs WHERE status = 'SUCCESS'")) == len(
        project.instance.get_runs()
    )
    assert list(dagster_home(project.settings).rglob("*.db")) == []
    trained = "SELECT count(*) FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name = "
    assert int(server.ask("mlflow", f"{trained}'{EXPERIMENT}' AND r.status = 'FINISHED'")) > 0
    assert not (project.root / "var/mlflow/mlflow.db").exists()
    assert (project.root / "var/mlflow/artifacts").is_dir()


def test_no_file_of_the_project_holds_the_password(project: Project) -> None:
    for path in project.root.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


@pytest.fixture
def mlflow_server(server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """URL of a server of MLflow as deploy/k8s has it, with a database of its own; it keeps the artifacts."""
    server.ask("postgres", "CREATE DATABASE mlflow_server")
    (deployed, _) = yaml.safe_load_all((CHECKOUT / "deploy/k8s/mlflow.yaml").read_text())
    (container,) = deployed["spec"]["template"]["spec"]["containers"]
    port, _ = free_ports()
    own = {"--host": "127.0.0.1", "--port": str(port), "--artifacts-destination": str(tmp_path / "artifacts")}
    own["--allowed-hosts"] = f"127.0.0.1:{port}"
    parts = [word.partition("=") for word in container["command"]]
    command = [f"{name}={own.get(name, value)}" if value else name for name, _, value in parts]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": server.url("mlflow_server")}
    started = [sys.executable, "-m", *command]
    with (tmp_path / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(started, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: urllib.request.urlopen(f"{url}/health", timeout=5).status == 200, "MLflow's server")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_trainings_go_to_a_server_of_mlflow(
    project: Project, server: PostgresServer, mlflow_server: str, tmp_path: Path
) -> None:
    project.configure(tracking={"uri": mlflow_server})
    with quiet():
        set_up(project.settings, lambda _: None)
        set_up(project.settings, lambda _: None)
    shutil.rmtree(project.workspace.layout.classifier("kmer"))
    assert failures(project.materialize("kmer_classifier")) == []
    assert server.ask("mlflow_server", "SELECT status FROM runs") == "FINISHED"
    assert server.ask("mlflow_server", "SELECT count(*) FROM model_versions") == "1"
    assert len(list((tmp_path / "artifacts").rglob("MLmodel"))) == 1
    project.configure(tracking={"uri": server.url("mlflow")})


def add_partitions(home: str, number: int) -> None:
    with dg.DagsterInstance.from_config(home) as instance:
        for shard in range(20):
            register(instance, SAMPLES, [f"both-{shard:06}", f"of{number}-{shard:06}"])


def test_processes_that_register_partitions_at_once_lose_none(project: Project) -> None:
    before = set(project.keys(SAMPLES))
    home, spawn = str(dagster_home(project.settings)), multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=add_partitions, args=(home, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    names = ("both", "of0", "of1", "of2")
    assert set(project.keys(SAMPLES)) - before == {f"{name}-{shard:06}" for name in names for shard in range(20)}
    for key in set(project.keys(SAMPLES)) - before:
        project.instance.delete_dynamic_partition(str(SAMPLES.partitions.name), key)


def test_cut_connections_and_a_restart_of_the_database_cost_no_shard(project: Project, server: PostgresServer) -> None:
    """A step that lost the database fails; what it had to make is requested again by itself."""
    folders = sorted((project.workspace.layout.results / "reference").glob("*_embeddings"))
    keys = project.keys(REFERENCE)

    def tables() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.parquet")}

    with running(project, tracking={"uri": server.url("mlflow")}) as platform:
        for folder in folders:
            shutil.rmtree(folder)
        platform.launch(jobs.REFERENCE_JOB, **range_tags(keys))
        until(lambda: bool(tables()), "a first table")
        for _ in range(20):
            server.cut_off("dagster")
            time.sleep(0.05)
        server.stop("fast")
        server.start()
        first = tables()
        until(lambda: len(tables()) == len(keys) * len(folders), "all tables")
        now = tables()
    assert {path: now[path] for path in first} == first

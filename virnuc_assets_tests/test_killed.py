"""`virnuc up` and all that it starts, killed in every part: what was begun is finished, once, and nothing stays."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, range_tags
from virnuc_assets.workstation.cleanup import Kind
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project
from virnuc_assets_tests.running import UP, Running, running, until

pytestmark = pytest.mark.slow
pytest_plugins = ["virnuc_assets_tests.assets.finished"]

GENOMES = ("phiX174", "dengue1", "plasmid_pPCP1")


@pytest.fixture(scope="module")
def embedded(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a project that is only copied: nothing is missing, so nothing is requested by itself."""
    project = new_project(tmp_path_factory.mktemp("embedded") / "project", blank, GENOMES, in_memory=False)
    assert failures(*project.run_reference()) == []
    project.instance.dispose()
    return project.root


@pytest.fixture
def platform(embedded: Path, tmp_path: Path) -> Iterator[Running]:
    project = Project(shutil.copytree(embedded, tmp_path / "project"))
    with running(project) as platform:
        yield platform
    project.instance.dispose()


def tables(project: Project) -> dict[str, int]:
    """When each table of vectors was written."""
    folder = project.workspace.layout.results / "reference"
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("*_embeddings/*.parquet")}


def embed(platform: Running) -> str:
    """Ask for all reference shards to be embedded anew."""
    for folder in (platform.project.workspace.layout.results / "reference").glob("*_embeddings"):
        shutil.rmtree(folder)
    return platform.launch(jobs.REFERENCE_JOB, **range_tags(platform.project.keys(REFERENCE)))


def in_the_middle(platform: Running) -> dict[str, int]:
    """Wait until some shards of the first language model are embedded and others are not; returns the tables."""
    shards = len(platform.project.keys(REFERENCE))
    until(lambda: len(tables(platform.project)) % shards in range(1, shards), "a first table", every=0.01)
    return tables(platform.project)


def assert_whole(platform: Running, before: dict[str, int]) -> None:
    """All is embedded, what was finished was not touched, no slot is taken, and nothing unfinished lies about."""
    project = platform.project
    now = tables(project)
    assert len(now) == len(project.keys(REFERENCE)) * len(project.workspace.encoder_names())
    assert {path: now[path] for path in before} == before
    until(lambda: platform.taken_slots() == 0, "slots", patience=30)
    assert [path for path in project.root.rglob("*") if ".partial" in path.name] == []
    assert len(platform.processes("up", "daemon", "webserver")) == 3


@pytest.mark.parametrize("kind", ["worker", "code_server", "daemon", "webserver", "mlflow"])
def test_a_part_is_killed_while_a_run_embeds(platform: Running, kind: Kind) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    platform.kill(kind)
    states = platform.succeeds(run)
    assert states == (["FAILURE", "SUCCESS"] if kind == "worker" else ["SUCCESS"])
    if kind != "worker":
        until(lambda: f"The {kind} ended" in platform.said, "a word about it")
    assert platform.succeeds(embed(platform)) == ["SUCCESS"]  # and what comes next is launched as ever
    assert_whole(platform, {})
    assert before.keys() <= tables(platform.project).keys()


def test_worker_and_code_server_are_killed_together(platform: Running) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    platform.kill("worker", "code_server")
    assert platform.succeeds(run) == ["FAILURE", "SUCCESS"]
    assert_whole(platform, before)


def test_up_is_killed_and_started_again(platform: Running) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    strays = platform.processes()
    platform.kill("up")
    assert len(platform.processes()) >= len(strays) - 2  # they go on without it
    platform.start()
    assert "processes of a `virnuc up` that was killed" in platform.said
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in strays)
    platform.succeeds(run)
    assert_whole(platform, before)


def test_the_machine_fails_while_a_run_embeds_and_others_wait(platform: Running) -> None:
    """Everything is killed at once, one run being in the middle, one waiting for its slot, one just starting."""
    run, waiting = embed(platform), platform.launch(jobs.REFERENCE_JOB, **range_tags(platform.project.keys(REFERENCE)))
    before = in_the_middle(platform)
    starting = platform.launch(PLAN_REFERENCE_JOB)
    until(lambda: platform.status(starting) == "STARTING", "a starting run", every=0.01)
    platform.kill()
    assert [platform.status(each) for each in (run, waiting, starting)] == ["STARTED", "QUEUED", "STARTING"]
    platform.start()
    assert "Marked 2 runs whose process is gone." in platform.said
    for each in (run, waiting, starting):
        platform.succeeds(each)
    assert_whole(platform, before)


def test_ended_by_a_signal_it_goes_on_at_the_next_start(platform: Running) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    assert platform.stop() == 0
    assert platform.processes() == []
    assert platform.status(run) == "FAILURE"
    platform.start()
    assert platform.succeeds(run) == ["FAILURE", "SUCCESS"]
    assert_whole(platform, before)


def test_a_second_up_is_refused(platform: Running) -> None:
    (first,) = platform.processes("up")
    second = subprocess.run(UP, cwd=platform.project.root, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"another `virnuc up` (process {first.pid}) serves this project" in second.stderr
    assert len(platform.processes("daemon", "webserver")) == 2

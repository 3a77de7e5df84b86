"""`virnuc up` as real servers on loopback: nobody clicks, parts are killed; all is done, once, and nothing stays."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, range_tags
from virnuc_assets.workstation.up import Kind
from virnuc_assets_tests.assets.project import (
    PLAN_REFERENCE_JOB,
    Finished,
    Project,
    failures,
    new_project,
    write_sample,
)
from virnuc_assets_tests.running import UP, Running, running, until

pytestmark = pytest.mark.slow
pytest_plugins = ["virnuc_assets_tests.assets.finished"]

GENOMES = ("phiX174", "dengue1", "plasmid_pPCP1")


EVERY_MINUTE = {"reembed_cron": "* * * * *", "retrain_cron": "* * * * *"}
TURN_ON = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message } } }"""


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
    """Ask for all reference shards to be re-embedded."""
    for folder in (platform.project.workspace.layout.results / "reference").glob("*_embeddings"):
        shutil.rmtree(folder)
    return platform.launch(jobs.REFERENCE_JOB, **range_tags(platform.project.keys(REFERENCE)))


def in_the_middle(platform: Running) -> dict[str, int]:
    """Wait until some shards of the first language model are embedded and others are not; returns the tables."""
    shards = len(platform.project.keys(REFERENCE))
    until(lambda: len(tables(platform.project)) % shards in range(1, shards), "a first table", every=0.01)
    return tables(platform.project)


def assert_whole(platform: Running, before: dict[str, int]) -> None:
    """All is embedded, what was finished was not touched, no slot is taken, and nothing unfinished is left."""
    project = platform.project
    now = tables(project)
    assert len(now) == len(project.keys(REFERENCE)) * len(project.workspace.encoder_names())
    assert {path: now[path] for path in before} == before
    until(lambda: platform.taken_slots() == 0, "slots")
    assert [path for path in project.root.rglob("*") if ".partial" in path.name] == []
    until(lambda: len(platform.processes("up", "daemon", "webserver")) == 3, "servers")


@pytest.mark.parametrize(
    "kinds", [("worker",), ("code_server",), ("daemon",), ("webserver", "mlflow"), ("worker", "code_server")], ids=str
)
def test_parts_are_killed_while_a_run_embeds(platform: Running, kinds: tuple[Kind, ...]) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    platform.kill(*kinds)
    assert platform.succeeds(run) == (["FAILURE", "SUCCESS"] if "worker" in kinds else ["SUCCESS"])
    assert_whole(platform, before)
    for kind in set(kinds) - {"worker"}:
        until(lambda kind=kind: f"The {kind} ended" in platform.printed, "a word about it")
    assert platform.succeeds(embed(platform)) == ["SUCCESS"]  # and what comes next is launched as ever
    assert_whole(platform, {})


def test_up_is_killed_and_started_again(platform: Running) -> None:
    run = embed(platform)
    before = in_the_middle(platform)
    strays = platform.processes()
    platform.kill("up")
    assert len(platform.processes()) >= len(strays) - 2  # they continue without it
    platform.start()
    assert "processes of a `virnuc up` that was killed" in platform.printed
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
    assert "Marked 2 runs whose process is gone." in platform.printed
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


@pytest.fixture
def done(finished: Finished, tmp_path: Path) -> Project:
    """A copy with a Dagster home of its own."""
    project = finished.copy(tmp_path / "project", in_memory=False, with_history=True)
    for job in (jobs.PLAN_REFERENCE_JOB, jobs.PLAN_SAMPLES_JOB):
        assert project.job(job).success  # the copy's own files
    return project


def turn_on(platform: Running, sensor: str) -> None:
    """Turn a sensor on, and wait for its first tick: what changed before is no news for it."""
    where = {"repositoryName": "__repository__", "repositoryLocationName": "virnuc_assets", "sensorName": sensor}
    until(lambda: bool(platform.ask("{ version }")), "the web server")
    answer = platform.ask(TURN_ON, selector=where)
    assert answer["startSensor"]["__typename"] == "Sensor", answer
    asked = "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor { %s } } }"
    ticks = asked % "sensorState { ticks(statuses: [SKIPPED, SUCCESS]) { id } }"
    until(lambda: bool(platform.ask(ticks, selector=where)["sensorOrError"]["sensorState"]["ticks"]), "a tick")


def test_a_new_record_of_the_reference_is_embedded_and_trained_on(done: Project) -> None:
    before, shards = tables(done), done.keys(REFERENCE)
    source = next(source for source in done.workspace.catalogue() if not source.genbank)
    bases = "".join(random.Random(1).choices("ACGT", k=3_000))
    described = done.workspace.layout.classifier("fastesm2") / "classifier.json"
    trained = described.stat().st_mtime_ns
    with running(done, automation=EVERY_MINUTE) as platform:
        turn_on(platform, "retraining")
        source.fasta.write_text(source.fasta.read_text() + f">one_more\n{bases}\n")
        until(lambda: len(done.keys(REFERENCE)) == len(shards) + 1, "a shard of the new record")
        (new,) = set(done.keys(REFERENCE)) - set(shards)
        features = [REFERENCE.key(f"{variant.name}_features") for variant in done.workspace.variants()]
        made = done.instance.get_materialized_partitions
        until(lambda: all(new in made(key) for key in features), "features of the new shard")
        after = tables(done)
        assert {path: after[path] for path in before} == before
        until(lambda: described.stat().st_mtime_ns > trained, "a new classifier")


def test_a_dropped_file_is_a_report_without_a_click_next_to_a_broken_one(done: Project) -> None:
    with running(done):
        (done.settings.incoming / "broken.fasta").write_text(">a\nMKVLEEFIPQLL\n")
        write_sample(done.settings.incoming / "dropped later.fasta", ["rabies_N"])
        report = done.workspace.layout.sample_report("dropped_later") / "summary.tsv"
        until(report.is_file, "a report")
        made = done.instance.get_materialized_partitions
        until(lambda: "dropped_later" in made(SAMPLES.key("report")), "the report's materialization")
        assert "dropped_later" in made(SAMPLES.key("predictions"))
        assert "broken" not in done.keys(SAMPLES)

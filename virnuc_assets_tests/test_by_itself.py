"""Real servers on loopback, and nobody who clicks: what is dropped is called, what changed is embedded and trained."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets_tests.assets.project import Finished, Project, write_sample
from virnuc_assets_tests.running import Running, running, until

pytestmark = pytest.mark.slow
pytest_plugins = ["virnuc_assets_tests.assets.finished"]

EVERY_MINUTE = {"reembed_cron": "* * * * *", "retrain_cron": "* * * * *"}
TURN_ON = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message } } }"""


@pytest.fixture
def project(finished: Finished, tmp_path: Path) -> Iterator[Project]:
    """A copy with a Dagster home of its own."""
    project = finished.copy(tmp_path / "project", in_memory=False, with_history=True)
    for job in (jobs.PLAN_REFERENCE_JOB, jobs.PLAN_SAMPLES_JOB):
        assert project.job(job).success  # the copy's own files
    yield project
    project.instance.dispose()


def embeddings(project: Project) -> dict[Path, int]:
    """When each table of vectors of the reference was written."""
    folder = project.workspace.layout.results / "reference"
    return {path: path.stat().st_mtime_ns for path in folder.glob("*_embeddings/*.parquet")}


def turn_on(platform: Running, sensor: str) -> None:
    """Turn a sensor on, and wait for its first tick: what changed before is no news for it."""
    where = {"repositoryName": "__repository__", "repositoryLocationName": "virnuc_assets", "sensorName": sensor}
    until(lambda: bool(platform.ask("{ version }")), "the web server")
    answer = platform.ask(TURN_ON, selector=where)
    assert answer["startSensor"]["__typename"] == "Sensor", answer
    asked = "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor { %s } } }"
    ticks = asked % "sensorState { ticks(statuses: [SKIPPED, SUCCESS]) { id } }"
    until(lambda: bool(platform.ask(ticks, selector=where)["sensorOrError"]["sensorState"]["ticks"]), "a tick")


def test_a_new_record_of_the_reference_is_embedded_and_trained_on(project: Project) -> None:
    before, shards = embeddings(project), project.keys(REFERENCE)
    source = next(source for source in project.workspace.catalogue() if not source.genbank)
    letters = "".join(random.Random(1).choices("ACGT", k=3_000))
    described = project.workspace.layout.classifier("fastesm2") / "classifier.json"
    trained = described.stat().st_mtime_ns
    with running(project, automation=EVERY_MINUTE) as platform:
        turn_on(platform, "retraining")
        source.fasta.write_text(source.fasta.read_text() + f">one_more\n{letters}\n")
        until(lambda: len(project.keys(REFERENCE)) == len(shards) + 1, "a shard of the new record")
        (new,) = set(project.keys(REFERENCE)) - set(shards)
        features = [REFERENCE.key(f"{variant.name}_features") for variant in project.workspace.variants()]
        made = project.instance.get_materialized_partitions
        until(lambda: all(new in made(key) for key in features), "features of the new shard")
        after = embeddings(project)
        assert {path: after[path] for path in before} == before
        until(lambda: described.stat().st_mtime_ns > trained, "a new classifier")


def test_a_dropped_file_is_a_report_without_a_click_beside_a_broken_one(project: Project) -> None:
    with running(project):
        (project.settings.incoming / "broken.fasta").write_text(">a\nMKVLEEFIPQLL\n")
        write_sample(project.settings.incoming / "dropped later.fasta", ["rabies_N"])
        report = project.workspace.layout.sample_report("dropped_later") / "records.tsv"
        until(report.is_file, "a report")
        made = project.instance.get_materialized_partitions
        until(lambda: "dropped_later" in made(SAMPLES.key("report")), "the report's materialization")
        assert "dropped_later" in made(SAMPLES.key("predictions"))
        assert "broken" not in project.keys(SAMPLES)

"""A new release of a source costs what changed in it; what changed in the catalogue alone is seen, too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.assets.shards import PlanReference
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
STAGES = ("chunked_fasta", "translated_proteins")


def letters(seed: int) -> str:
    """Two thousand letters without T: whatever is read, few frames are stopped."""
    return "".join(random.Random(seed).choices("ACG", k=2000))


def write(project: Project, seeds: dict[str, int]) -> None:
    text = "".join(f">{name}\n{letters(seed)}\n" for name, seed in seeds.items())
    (project.settings.incoming / "release.fasta").write_text(text)


def states(project: Project) -> dict[tuple[str, str], int]:
    folder = project.workspace.layout.results / "samples"
    return {(stage, path.stem): path.stat().st_mtime_ns for stage in STAGES for path in (folder / stage).glob("*")}


def written(project: Project) -> set[str]:
    """Numbers of the shards whose tables a run over the whole sample wrote, those of both stages."""
    before = states(project)
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert failures(project.materialize(*map(SAMPLES.key, STAGES), partition="release")) == []
    changed = [key for key, state in states(project).items() if state != before.get(key)]
    chunked, framed = ({shard for stage, shard in changed if stage == name} for name in STAGES)
    assert chunked == framed
    return {shard.removeprefix("release-") for shard in chunked}


@pytest.fixture
def release(blank: Path, tmp_path: Path) -> Iterator[Project]:
    """Thirty records of four chunks each, in shards of twelve chunks."""
    project = new_project(tmp_path / "project", blank, samples={})
    project.configure(sequences={"shard_chunks": 12})
    write(project, {f"r{number}": number for number in range(30)})
    assert written(project) == {f"{number:06}" for number in range(1, 11)}
    yield project
    project.instance.dispose()


def test_one_changed_record_makes_its_own_new_shard_and_the_one_that_lost_it(release: Project) -> None:
    write(release, {f"r{number}": number + 1000 * (number == 13) for number in range(30)})
    assert written(release) == {"000005", "000011"}
    chunks = read_table(release.workspace.layout.table("samples", "chunked_fasta", "release-000011"))
    assert chunks.column("record_id").unique().to_pylist() == ["r13"]


def catalogue(project: Project, **labels: str) -> None:
    rows = [
        {"name": name, "label": label, "group": "bacteria", "fasta": f"{name}.fna"} for name, label in labels.items()
    ]
    write_manifest(project.settings.genomes, rows)


@pytest.fixture
def reference(blank: Path, tmp_path: Path) -> Iterator[Project]:
    """Two viral records in one file, one of a host in another."""
    project = new_project(tmp_path / "project", blank, samples={})
    folder = project.settings.genomes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.fna").write_text(f">r1\n{letters(1)}\n>r2\n{letters(2)}\n")
    (folder / "b.fna").write_text(f">r3\n{letters(3)}\n")
    catalogue(project, a="viral", b="host")
    assert planned(project)[0] == ["host-0001", "viral-0001"]
    yield project
    project.instance.dispose()


def planned(project: Project, **config: list[str]) -> tuple[list[str], str]:
    """Partitions whose records changed, as a plan records them, and the version of the plan."""
    run_config = dg.RunConfig(ops={"reference__shard_plan": PlanReference(**config)})
    result = project.job(PLAN_REFERENCE_JOB, run_config=run_config)
    assert failures(result) == []
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    *changed, plan = events
    assert {event.asset_key for event in changed} <= {REFERENCE.key("shards")}
    return [str(event.partition) for event in changed], str((plan.tags or {})["dagster/data_version"])


def test_only_partitions_whose_records_changed_are_recorded(reference: Project) -> None:
    assert planned(reference)[0] == []
    (reference.settings.genomes / "a.fna").write_text(f">r1\n{letters(1)}\n>r2\n{letters(4)}\n")
    assert planned(reference)[0] == ["viral-0001", "viral-0002"]
    assert planned(reference, repack=["viral"])[0] == ["viral-0003"]
    assert reference.keys(REFERENCE) == ["host-0001", "viral-0003"]
    config = dg.RunConfig(ops={"reference__shard_plan": PlanReference(repack=["phage"])})
    (told,) = failures(reference.job(PLAN_REFERENCE_JOB, run_config=config))
    assert "repack: 'phage' is no label; expected some of host, viral" in told

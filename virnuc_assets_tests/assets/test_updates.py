"""A new release of a source costs what changed in it; what changed in the catalogue alone is seen, too."""

from __future__ import annotations

import random
from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.defs.assets.shards import PlanReference
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def bases(seed: int) -> str:
    """Two thousand bases without T: whatever is read, few frames are stopped."""
    return "".join(random.Random(seed).choices("ACG", k=2000))


def catalogue(project: Project, **labels: str) -> None:
    rows = [
        {"name": name, "label": label, "group": "bacteria", "fasta": f"{name}.fna"} for name, label in labels.items()
    ]
    write_manifest(project.settings.genomes, rows)


@pytest.fixture
def reference(blank: Path, tmp_path: Path) -> Project:
    """Two viral records in one file, one of a host in another."""
    project = new_project(tmp_path / "project", blank, samples={})
    folder = project.settings.genomes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.fna").write_text(f">r1\n{bases(1)}\n>r2\n{bases(2)}\n")
    (folder / "b.fna").write_text(f">r3\n{bases(3)}\n")
    catalogue(project, a="viral", b="host")
    assert planned(project)[0] == ["host-0001", "viral-0001"]
    return project


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
    (reference.settings.genomes / "a.fna").write_text(f">r1\n{bases(1)}\n>r2\n{bases(4)}\n")
    assert planned(reference)[0] == ["viral-0001", "viral-0002"]
    assert planned(reference, repack=["viral"])[0] == ["viral-0003"]
    assert reference.keys(REFERENCE) == ["host-0001", "viral-0003"]
    config = dg.RunConfig(ops={"reference__shard_plan": PlanReference(repack=["phage"])})
    (text,) = failures(reference.job(PLAN_REFERENCE_JOB, run_config=config))
    assert "repack: 'phage' is no label; expected some of host, viral" in text


def test_a_label_that_is_corrected_moves_the_records_and_makes_the_plan_another(reference: Project) -> None:
    before = planned(reference)[1]
    catalogue(reference, a="viral", b="viral")
    changed, version = planned(reference)
    assert (changed, reference.keys(REFERENCE)) == (["viral-0002"], ["viral-0001", "viral-0002"])
    assert version != before

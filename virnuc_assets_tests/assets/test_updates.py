"""A new release of a source costs what changed in it; what changed in the catalogue alone is seen, too."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.requests import contiguous_ranges
from virnuc_assets.sequences.cataloguing import write_manifest
from virnuc_assets.storage.tables import content_digest, read_table
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
STAGES = ("chunked_fasta", "translated_proteins")


def letters(seed: int) -> str:
    """Two thousand letters without T: whatever is read, few frames are stopped."""
    return "".join(random.Random(seed).choices("ACG", k=2000))


def write(project: Project, seeds: dict[str, int]) -> None:
    text = "".join(f">{name}\n{letters(seed)}\n" for name, seed in seeds.items())
    (project.settings.incoming / "release.fasta").write_text(text)


def made(project: Project) -> dict[str, dict[str, int]]:
    """For each stage, rows that were made for every shard by a run over all of them."""
    assert failures(project.job(jobs.PLAN_SAMPLES_JOB)) == []
    keys = project.keys(SAMPLES)
    found: dict[str, dict[str, int]] = {}
    for chosen in contiguous_ranges(keys, keys):
        partition = (chosen[0], chosen[-1]) if len(chosen) > 1 else chosen[0]
        result = project.materialize(*map(SAMPLES.key, STAGES), partition=partition)
        assert failures(result) == []
        for event in result.get_asset_materialization_events():
            record = event.step_materialization_data.materialization
            if shard := event.partition:
                rows = record.metadata.get("rows_made")
                found.setdefault(record.asset_key.path[-1], {})[shard] = rows.value if rows else 0
    return found


def digests(project: Project) -> dict[str, tuple[str, int]]:
    path = project.workspace.layout.table
    return {
        f"{stage} {shard}": (content_digest(table), table.stat().st_mtime_ns)
        for stage in STAGES
        for shard in project.keys(SAMPLES)
        if (table := path("samples", stage, shard)).is_file()
    }


@pytest.fixture
def release(blank: Path, tmp_path: Path) -> Project:
    """Thirty records of four chunks each, in shards of twelve chunks."""
    project = new_project(tmp_path / "project", blank, samples={})
    project.configure(sequences={"shard_chunks": 12})
    write(project, {f"r{number}": number for number in range(30)})
    return project


def test_one_changed_record_makes_its_own_new_shard_and_the_one_that_lost_it(release: Project) -> None:
    first = made(release)
    assert len(release.keys(SAMPLES)) == 10
    assert all(rows > 0 for shards in first.values() for rows in shards.values())
    before = digests(release)

    write(release, {f"r{number}": number + 1000 * (number == 13) for number in range(30)})
    second = made(release)
    for stage in STAGES:
        assert {shard for shard, rows in second[stage].items() if rows} == {"release-000005", "release-000011"}
    after = digests(release)
    assert {table for table in before if after[table] != before[table]} == {
        f"{stage} release-000005" for stage in STAGES
    }
    chunks = read_table(release.workspace.layout.table("samples", "chunked_fasta", "release-000011"))
    assert chunks.column("record_id").unique().to_pylist() == ["r13"]


def test_records_that_move_or_are_described_anew_cost_nothing(release: Project) -> None:
    made(release)
    before = digests(release)
    path = release.settings.incoming / "release.fasta"
    path.write_text(">late other\n" + letters(99) + "\n" + path.read_text().replace(">r1\n", ">r1 described\n"))
    again = made(release)
    for stage in STAGES:
        assert {shard for shard, rows in again[stage].items() if rows} == {"release-000011"}
    assert {table: state for table, state in digests(release).items() if table in before} == before


def row(name: str, label: str, group: str) -> dict[str, str]:
    return {"name": name, "label": label, "group": group, "fasta": f"{name}.fna"}


@pytest.fixture
def reference(blank: Path, tmp_path: Path) -> Project:
    """Two sources of one record each."""
    project = new_project(tmp_path / "project", blank, samples={})
    folder = project.settings.genomes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.fna").write_text(f">r1\n{letters(1)}\n>r2\n{letters(2)}\n")
    (folder / "b.fna").write_text(f">r3\n{letters(3)}\n")
    write_manifest(folder, [row("a", "viral", "x"), row("b", "host", "bacteria")])
    return project


def planned_version(project: Project) -> str:
    result = project.job(PLAN_REFERENCE_JOB)
    assert failures(result) == []
    (event,) = result.asset_materializations_for_node("reference__shard_plan")
    return str((event.tags or {})["dagster/data_version"])


def test_a_label_that_is_corrected_makes_the_plan_another(reference: Project) -> None:
    host = planned_version(reference)
    assert planned_version(reference) == host
    write_manifest(reference.settings.genomes, [row("a", "viral", "x"), row("b", "viral", "x")])
    assert planned_version(reference) != host


def test_a_record_that_moves_out_of_a_source_that_cannot_be_read_is_in_two_sources(reference: Project) -> None:
    """The plan of the broken source stays in force, so its records are still its own."""
    planned_version(reference)
    folder, before = reference.settings.genomes, reference.keys(REFERENCE)
    (folder / "a.fna").write_text("MKV")
    (folder / "b.fna").write_text(f">r3\n{letters(3)}\n>r1\n{letters(1)}\n")
    (told,) = failures(reference.job(PLAN_REFERENCE_JOB))
    assert "record 'r1' occurs in sources 'a' and 'b'" in told
    assert reference.keys(REFERENCE) == before

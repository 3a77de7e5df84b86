"""Through real runs: what was embedded once is copied from then on, whatever shard, source or domain it is in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.storage.tables import content_digest, read_table
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
STAGES = ("chunked_fasta", "translated_proteins")
RECORDS = {f"r{number}": number for number in range(5)}


def bases(seed: int) -> str:
    """Letters without T: whatever is read, few frames are stopped."""
    return "".join(random.Random(seed).choices("ACG", k=1000))


def fasta(records: dict[str, int]) -> str:
    return "".join(f">{name}\n{bases(seed)}\n" for name, seed in records.items())


def write_source(project: Project, records: dict[str, int]) -> None:
    folder = project.settings.genomes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.fna").write_text(fasta(records))
    (folder / "b.fna").write_text(fasta({"other": 50}))
    rows = [{"name": n, "label": label, "group": "bacteria", "fasta": f"{n}.fna"} for n, label in SOURCES.items()]
    write_manifest(folder, rows)


SOURCES = {"a": "viral", "b": "host"}


def run(project: Project, shards: ShardSet) -> dict[str, dict[str, dict[str, int]]]:
    """A run over all partitions of a set; for each encoder, what their metadata show."""
    job = PLAN_REFERENCE_JOB if shards is REFERENCE else jobs.PLAN_SAMPLES_JOB
    assert failures(project.job(job)) == []
    names = project.workspace.encoder_names(shards.domain)
    found = {name: dict[str, dict[str, int]]() for name in names}
    assets = [shards.key(asset) for asset in (*STAGES, *(f"{name}_embeddings" for name in names))]
    result = project.materialize(*assets, partition=shards)
    assert failures(result) == []
    for event in result.get_asset_materialization_events():
        record = event.step_materialization_data.materialization
        if (name := record.asset_key.path[-1].removesuffix("_embeddings")) in names:
            found[name][str(event.partition)] = {name: value.value for name, value in record.metadata.items()}
    return found


def embedded(text: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    return {name: sum(shard["embedded"] for shard in shards.values()) for name, shards in text.items()}


def sequences(project: Project, shards: ShardSet, name: str, records: set[str] | None = None) -> list[str]:
    """What the encoder of a name reads of some records, or of all."""
    column = project.workspace.encoder(name).column
    tables = [
        read_table(project.workspace.layout.table(shards.domain, "translated_proteins", shard))
        for shard in project.shards(shards)
    ]
    rows = [row for table in tables for row in table.select(["record_id", column]).to_pylist()]
    return [row[column] for row in rows if records is None or row["record_id"] in records]


def digests(project: Project, domain: str = "reference") -> dict[str, str]:
    return {
        name: content_digest(path)
        for name, path in project.tables().items()
        if name.startswith(domain) and "_embeddings/" in name
    }


@pytest.fixture(scope="module")
def first(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two sources in shards of four chunks, embedded by every name; two records of one of them are equal."""
    project = new_project(tmp_path_factory.mktemp("first") / "project", blank, samples={})
    project.configure(sequences={"shard_chunks": 4})
    write_source(project, {**RECORDS, "twin": 1})
    text = run(project, REFERENCE)
    for name, shards in text.items():
        all_of_them = sequences(project, REFERENCE, name)
        assert embedded(text)[name] == len(set(all_of_them)) < len(all_of_them)
        assert sum(shard["embedded"] + shard["reused"] for shard in shards.values()) == len(all_of_them)
        assert all(shard["embedded"] + shard["reused"] == shard["rows"] for shard in shards.values())
    return project


@pytest.fixture
def project(first: Project, tmp_path: Path) -> Project:
    return first.copy(tmp_path / "project")


def test_one_changed_record_costs_its_frames_and_nothing_else(project: Project) -> None:
    """A damaged table in the way of the search is no failure. The rows are those that would be embedded."""
    names = project.workspace.encoder_names()
    before = {name: set(sequences(project, REFERENCE, name)) for name in names}
    (project.workspace.layout.table("reference", f"{names[0]}_embeddings", "damaged")).write_text("no table")
    write_source(project, {**RECORDS, "twin": 1, "r2": 90})
    text = run(project, REFERENCE)
    changed = {name: set(sequences(project, REFERENCE, name, {"r2"})) - before[name] for name in names}
    assert embedded(text) == {name: len(changed[name]) for name in names}
    assert min(embedded(text).values()) > 0

    reused = digests_without(project, names[0])
    for path in project.tables().values():
        if path.parent.name.endswith("_embeddings"):
            path.unlink()
    run(project, REFERENCE)
    assert digests(project) == reused


def digests_without(project: Project, name: str) -> dict[str, str]:
    project.workspace.layout.table("reference", f"{name}_embeddings", "damaged").unlink()
    planned = set(project.keys(REFERENCE))
    return {name: digest for name, digest in digests(project).items() if Path(name).stem in planned}


def test_a_sample_of_known_sequences_loads_no_encoder(project: Project) -> None:
    (project.settings.incoming / "known.fasta").write_text(fasta({"by_another_name": 3}))
    text = run(project, SAMPLES)
    assert set(embedded(text).values()) == {0}
    assert all("device" not in shard and shard["distinct"] > 0 for shards in text.values() for shard in shards.values())

"""The split as an asset: what stays when records come and go, what is held out, what its check finds on the tables."""

import csv
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import current_split
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.storage.tables import TableMismatch, read_provenance, read_table, write_table
from virnuc_assets_tests.assets.project import GENOMES, PLAN_REFERENCE_JOB, Project, facts, failures, new_project
from virnuc_assets_tests.split.planted import gene, mutated

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
pytestmark = pytest.mark.xdist_group("split")  # one process makes `framed`

SPLIT = "train_test_split"


def table_of(project: Project) -> Path:
    return project.workspace.layout.whole(SPLIT)


def rows_of(project: Project) -> dict[str, dict[str, Any]]:
    return {row["record_id"]: row for row in read_table(table_of(project)).to_pylist()}


def first_record(project: Project, name: str) -> tuple[str, bytes]:
    """Id and sequence."""
    (path,) = (path for path in project.settings.genomes.glob(f"*/{name}.fna*"))
    with open_source(path) as opened:
        header, bases = next(read_records(opened))
        return header.id, b"".join(bases)


def viral_by_split(project: Project) -> dict[str, tuple[str, bytes]]:
    """Id and sequence of a viral record of each split."""
    sequences = dict(first_record(project, name) for name in GENOMES)
    viral = {row["split"]: record for record, row in rows_of(project).items() if row["label"] == "viral"}
    return {split: (record, sequences[record]) for split, record in viral.items()}


def found_by(run: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = run.get_asset_check_evaluations()
    assert check.check_name == "no_relative_in_both_splits"
    return check


def add_source(project: Project, name: str, sequence: bytes, label: str = "viral", group: str = "+ssRNA") -> None:
    """One more source of one record, of the same name, planned and cut into frames."""
    path = project.settings.genomes / label / f"{name}.fna"
    path.write_text(f">{name}\n{sequence.decode()}\n")
    manifest = project.settings.genomes / "MANIFEST.tsv"
    header, *_ = csv.reader(manifest.open(newline=""), delimiter="\t")
    known = {"name": name, "label": label, "group": group, "fasta": f"{label}/{name}.fna"}
    with manifest.open("a") as handle:
        handle.write("\t".join(known.get(column, "") for column in header) + "\n")


@pytest.fixture(scope="module")
def framed(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose reference is cut into frames and split; nothing is embedded."""
    project = new_project(tmp_path_factory.mktemp("framed") / "project", blank, GENOMES)
    frame_all(project)
    assert failures(project.materialize(SPLIT)) == []
    return project


@pytest.fixture
def copied(framed: Project, tmp_path: Path) -> Project:
    """A copy that a test may change."""
    return framed.copy(tmp_path / "project")


def frame_all(project: Project) -> None:
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    stages = [REFERENCE.key("chunked_fasta"), REFERENCE.key("translated_proteins")]
    assert failures(project.materialize(*stages, partition=REFERENCE)) == []


def counts(text: dict[str, Any]) -> list[int]:
    return [text[f"records_{what}"] for what in ("kept", "new", "moved", "left_out", "gone")]


def test_an_unchanged_split_is_the_same_file_and_its_check_passes(copied: Project) -> None:
    before = table_of(copied).read_bytes()
    run = copied.materialize(SPLIT)
    text, records = facts(run, SPLIT), len(rows_of(copied))
    assert table_of(copied).read_bytes() == before
    assert (counts(text), text["rows_made"]) == ([records, 0, 0, 0, 0], 0)
    check = found_by(run)
    assert check.passed
    assert {name: entry.value for name, entry in check.metadata.items()} == {
        "records": records, "left_out": 0, "proteins_in_train_and_test": 0, "faults": 0
    }  # fmt: skip


@pytest.mark.parametrize("changed", ["relatives", "date"])
def test_a_split_made_with_other_relatives_or_dates_is_stale(copied: Project, changed: str) -> None:
    current_split(copied.instance, copied.workspace)
    if changed == "date":
        date_sources(copied, "phiX174")
    else:
        manifest = copied.settings.genomes / "MANIFEST.tsv"
        manifest.write_text(manifest.read_text().replace("\tdengue\t", "\tflavi\t"))
    with pytest.raises(TableMismatch, match="\n  names: expected"):
        current_split(copied.instance, copied.workspace)


def test_a_relative_moved_on_the_table_is_found_though_its_cluster_looks_alone(copied: Project) -> None:
    rows = list(rows_of(copied).values())
    one, other = (
        row for row in rows if row["cluster"] == rows_of(copied)[first_record(copied, "dengue2")[0]]["cluster"]
    )
    one["split"] = next(side for side in ("train", "validation", "test") if side != other["split"])
    one["cluster"], other["cluster"] = one["record_id"], other["record_id"]
    provenance = read_provenance(table_of(copied))
    write_table(table_of(copied), pa.Table.from_pylist(rows, schema=read_table(table_of(copied)).schema), provenance)
    check = found_by(copied.materialize(SPLIT))
    assert not check.passed
    found = [row.data for row in check.metadata["first_faults"].records]  # type: ignore[union-attr]
    fault = f"({one['split']}) is a relative of {other['record_id']} ({other['split']})"
    assert any(row["where"] == one["record_id"] and row["fault"].startswith(fault) for row in found)
    assert any(row["where"] == "relatives dengue" and row["fault"].startswith("has records in") for row in found)


def test_a_source_that_leaves_drops_out_and_other_settings_assign_again(copied: Project) -> None:
    before = rows_of(copied)
    add_source(copied, "extra", gene(5))
    frame_all(copied)
    assert facts(copied.materialize(SPLIT), SPLIT)["records_new"] == 1
    manifest = copied.settings.genomes / "MANIFEST.tsv"
    manifest.write_text("".join(line for line in manifest.open() if not line.startswith("extra")))
    frame_all(copied)
    text = facts(copied.materialize(SPLIT), SPLIT)
    assert (counts(text), text["assigned_again"], rows_of(copied)) == ([len(before), 0, 0, 0, 1], "no", before)
    copied.configure(split={"seed": 3})
    text = facts(copied.materialize(SPLIT), SPLIT)
    assert text["assigned_again"] == "the table on disk was made with other settings of [split]"
    assert (text["records_kept"], text["records_new"]) == (0, len(before))


def date_sources(project: Project, new: str) -> None:
    manifest = project.settings.genomes / "MANIFEST.tsv"
    header, *lines = manifest.read_text().splitlines()
    dated = [f"{line}\t{'2021-06-01' if line.split(chr(9))[0] == new else '2001-01-01'}" for line in lines]
    manifest.write_text("\n".join([f"{header}\tdate", *dated]) + "\n")


def test_by_time_the_test_is_new_and_its_older_relatives_are_left_out(copied: Project) -> None:
    phix, sequence = first_record(copied, "phiX174")
    add_source(copied, "phix_like", mutated(sequence, 0.02), group="ssDNA phage")
    frame_all(copied)
    date_sources(copied, "phix_like")
    copied.configure(split={"by": "time", "test_from": date(2020, 1, 1)})
    run = copied.materialize(SPLIT)
    assert (facts(run, SPLIT)["records_left_out"], found_by(run).passed) == (1, True)
    rows = rows_of(copied)
    assert (rows[phix]["split"], rows[phix]["reason"]) == ("left_out", "left out: relative of records held out")
    tested = {record for record, row in rows.items() if (row["label"], row["split"]) == ("viral", "test")}
    assert tested == {"phix_like"}
    assert rows["phix_like"]["reason"] == "held out: dated 2021-06-01, not before 2020-01-01"
    copied.configure(split={"by": "groups", "test_groups": ["dengues"]})
    (text,) = failures(copied.materialize(SPLIT))
    assert "split.test_groups: unknown to the catalogue: dengues" in text


@pytest.mark.slow
def test_similar_proteins_join_and_the_version_of_their_tool_is_kept(copied: Project) -> None:
    assert read_provenance(table_of(copied))["similarity"] == "none"
    copied.configure(split={"protein_similarity": "mmseqs2", "protein_min_identity": 0.4})
    run = copied.materialize(SPLIT)
    provenance = read_provenance(table_of(copied))
    assert provenance["similarity"].startswith("mmseqs2 ")
    assert provenance["settings"]["protein_min_identity"] == 0.4
    assert "pairs of similar proteins with" in rows_of(copied)[first_record(copied, "dengue2")[0]]["relatives"]
    assert found_by(run).passed

"""A miniature release, served over HTTPS, from the asset to the shards that are planned of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.defs.assets.refseq import RELEASE
from virnuc_assets.defs.jobs import FETCH_JOB
from virnuc_assets.sequences.plan_table import read_plan
from virnuc_assets.sequences.refseq import HOSTS
from virnuc_assets_tests.assets.project import DATA, PLAN_REFERENCE_JOB, Project, facts, failures, new_project
from virnuc_assets_tests.loopback import answering
from virnuc_assets_tests.sequences.release import NUMBER, publish
from virnuc_assets_tests.storage.file_server import Answer, Authority, FileServer

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

GENOMES = {"viral.1": "viral/MERS", "viral.2": "viral/FPV_fragments", "plant.1": "host/Arabidopsis_mito"}
GENOMES |= {"vertebrate_mammalian.4": "host/human_HBB"}
DRAW = {**dict.fromkeys(HOSTS, 0), "plant": 1, "vertebrate_mammalian": 1}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    authority = Authority.made(tmp_path)
    files = {f"{name}.1.genomic.fna.gz": DATA / f"genomes/{path}.fna.gz" for name, path in GENOMES.items()}
    files |= {f"{name}.genomic.gbff.gz": DATA / f"genomes/{path}.gbk.gz" for name, path in GENOMES.items()}
    with answering(FileServer(authority.tls)) as server:
        publish(server, {name: path.read_bytes() for name, path in files.items()})
        yield server


@pytest.fixture
def project(blank: Path, tmp_path: Path, server: FileServer) -> Project:
    project = new_project(tmp_path / "project", blank, ["phiX174"])
    section = {"release": NUMBER, "base_url": server.url, "files_per_directory": DRAW}
    project.configure(refseq={**section, "ca_bundle": str(tmp_path / "authority.pem")})
    return project


def checked(run: dg.ExecuteInProcessResult) -> bool:
    (check,) = run.get_asset_check_evaluations()
    assert check.check_name == "downloaded_files_match_checksums"
    return bool(check.passed)


def test_from_the_release_to_its_shards(project: Project, server: FileServer) -> None:
    (text,) = failures(project.job(PLAN_REFERENCE_JOB))
    assert "RefSeq release 230 is not downloaded, or not all of it: materialize reference/refseq_release" in text
    gbff = "/viral/viral.1.genomic.gbff.gz"
    server.answers[gbff].append(Answer(cut=1000))
    run = project.job(FETCH_JOB)
    first = facts(run, RELEASE)
    assert checked(run)
    size = sum(len(content) for path, content in server.files.items() if path.endswith(".gz"))
    counted = {"release": NUMBER, "seed": 42, "files": 8, "files_fetched": 8, "files_reused": 0}
    assert {name: first[name] for name in counted} == counted
    assert (first["bytes"], first["bytes_received"]) == (size, size)
    drawn = [record.data for record in first["draw"].records]
    assert all(row["genbank"] for row in drawn)
    (mammal,) = (row["fasta"] for row in drawn if row["directory"] == "vertebrate_mammalian")
    assert mammal == "vertebrate_mammalian.4.1.genomic.fna.gz"
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    assert read_plan(project.workspace.layout.plan("reference")).sources.keys() == {
        "phiX174",
        *(f"{name}.1" for name in GENOMES),
    }

    requests = server.gets.total()
    again = facts(project.job(FETCH_JOB), RELEASE)
    assert (again["files_fetched"], again["files_reused"], again["bytes_received"]) == (0, 8, 0)
    assert (again["digest"], server.gets.total()) == (first["digest"], requests)

    fasta = project.root / "data/refseq/plant.1.1.genomic.fna.gz"
    fasta.write_bytes((DATA / "genomes/host/human_HBB.fna.gz").read_bytes())
    (text,) = failures(project.job(PLAN_REFERENCE_JOB))
    assert f"{fasta}: not the file that is catalogued" in text
    fixed = facts(project.job(FETCH_JOB), RELEASE)
    assert (fixed["files_fetched"], fixed["digest"]) == (1, first["digest"])
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []


def test_a_file_that_cannot_be_had_fails_the_asset_by_name(project: Project, server: FileServer) -> None:
    path = "/plant/plant.1.genomic.gbff.gz"
    server.always[path] = Answer(status=404)
    (text,) = failures(project.job(FETCH_JOB))
    assert f"{server.url}{path}: expected the file, found status 404" in text
    (text,) = failures(project.job(PLAN_REFERENCE_JOB))
    assert "materialize reference/refseq_release" in text
    server.always.clear()
    later = facts(project.job(FETCH_JOB), RELEASE)
    assert later["files_fetched"] + later["files_reused"] == 8
    assert later["files_reused"] > 0

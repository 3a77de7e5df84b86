"""An existing VirNucPro is scored from its own files: as its classifier scores, on all test rows, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from virnuc_assets.classifier.checkpoint import load_classifier
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.assets.migration import DECISION, variant_evidence
from virnuc_assets.defs.assets.virnucpro import EVALUATION, imported_variant
from virnuc_assets.defs.jobs import DECISION_JOB
from virnuc_assets.migration.criteria import same_environment
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import read_provenance, read_table
from virnuc_assets.virnucpro.exchange import export_file
from virnuc_assets_tests.assets.project import Finished, Project, facts, failures
from virnuc_assets_tests.virnucpro.files import Model, drawn, merged, save, upstreams_reading, write_models

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


def shards(project: Project) -> list[Path]:
    return sorted(project.workspace.layout.table("reference", "esm2_3b_features", "x").parent.glob("*.parquet"))


@pytest.fixture(scope="module")
def made(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project next to a VirNucPro whose features and classifier are those of its ESM2-3B variant."""
    project = finished.copy(tmp_path_factory.mktemp("theirs") / "project")
    for path in shards(project):
        export_file(path, project.root / "theirs" / f"{path.stem}_merged.pt")
    ours, _ = load_classifier(project.workspace.layout.classifier("esm2_3b"))
    save(ours.state_dict(), project.root / "ours.pt")
    as_ours = Model(ours.dim, ours.hidden, change="model.load_state_dict(torch.load('ours.pt'))")
    write_models(project.root, {"500_model": as_ours, "wide": Model(ours.dim + 1, 4)})
    configure(project)
    return project


@pytest.fixture
def existing(made: Project, tmp_path: Path) -> Project:
    """A copy that a test may change."""
    return made.copy(tmp_path / "project")


def configure(project: Project, **changes: Any) -> None:
    dims = read_provenance(shards(project)[0])["dims"]
    section = {"merged": "theirs", "model": "500_model.pth", "chunk_length": 500, "dna_dim": dims["dna"], **changes}
    project.configure(virnucpro=section)


def evaluate(project: Project) -> dg.ExecuteInProcessResult:
    return project.materialize(EVALUATION)


def table_of(project: Project, variant: str) -> Any:
    return read_table(project.workspace.layout.whole(f"{variant}_evaluation"), evaluation_schema())


def test_it_scores_what_our_variant_scores_and_embeds_nothing(existing: Project) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in existing.tables().items()}
    shown = facts(evaluate(existing), EVALUATION)
    found, expected = table_of(existing, "virnucpro"), table_of(existing, "esm2_3b")
    assert found.drop(["score_other", "score_virus"]) == expected.drop(["score_other", "score_virus"])
    for column in ("score_other", "score_virus"):
        np.testing.assert_allclose(found[column].to_numpy(), expected[column].to_numpy(), atol=1e-6, rtol=0)
    rows = sum(read_table(path).num_rows for path in shards(existing))
    assert (shown["rows"], shown["rows_of_merged_files"]) == (expected.num_rows, rows)
    assert shown["rows_that_are_no_test_rows"] == rows - expected.num_rows > 0
    assert "not known; test rows may be among them, its numbers too good" in shown["trained_on"]
    assert shown["reads"].startswith("dnabert_s and esm2_3b (")
    after = {name: path.stat().st_mtime_ns for name, path in existing.tables().items()}
    assert after.keys() - before.keys() == {f"{EVALUATION}/{EVALUATION}.parquet"}
    assert {name: after[name] for name in before} == before
    again = facts(evaluate(existing), EVALUATION)
    assert (again["rows_made"], again["digest"]) == (0, shown["digest"])


def test_the_decision_shows_it_next_to_the_variants_and_judges_nothing_by_it(existing: Project) -> None:
    assert failures(evaluate(existing), existing.materialize(DECISION)) == []
    page = existing.workspace.layout.whole(DECISION, ".html").read_text()
    stored = json.loads(existing.workspace.layout.whole(DECISION, ".json").read_text())
    assert list(stored["variants"]) == ["baseline", "candidate", "kmer_baseline", "virnucpro"]
    theirs, ours = (stored["variants"][role]["performance"]["levels"]["frame"] for role in ("virnucpro", "baseline"))
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert stored["variants"]["virnucpro"]["description"]["origin"]["file"] == "500_model.pth"
    assert not any("virnucpro" in reason for reason in stored["reasons"])
    assert "virnucpro" in page and "500_model.pth" in page


def test_as_a_baseline_it_would_be_no_evidence(existing: Project) -> None:
    """What it was trained on, and with, is not shown: nobody can say that the comparison is fair."""
    workspace = existing.workspace
    absent = variant_evidence(existing.instance, workspace, imported_variant(workspace))
    assert absent.predictions is None and "virnucpro_evaluation.parquet: the table does not exist" in absent.gaps[0]
    assert failures(evaluate(existing)) == []
    imported = variant_evidence(existing.instance, workspace, imported_variant(workspace))
    assert (imported.variant, imported.dna_name, imported.protein_name) == ("virnucpro", "dnabert_s", "esm2_3b")
    assert imported.problems == () and imported.description is not None
    _, ours = load_classifier(workspace.layout.classifier("fastesm2"))
    candidate = VariantEvidence("fastesm2", "dnabert_s", "fastesm2_650", None, ours.model_dump(mode="json"))
    compared = same_environment(Evidence(candidate, imported, candidate))
    assert compared.outcome == "missing"
    gaps = " ".join(compared.missing)
    for what in ("seed", "training", "split_digest", "dna encoder's precision", "protein encoder's precision"):
        assert f"{what} is " in gaps
    assert "not recorded for virnucpro" in gaps and "chunk_length" not in gaps


def test_test_rows_that_are_missing_or_in_two_files_are_counted(existing: Project) -> None:
    tested = table_of(existing, "esm2_3b").column("frame_id").to_pylist()
    path = next(p for p in (existing.root / "theirs").iterdir() if tested[0] in upstreams_reading(p)["ids"])
    held = upstreams_reading(path)
    ids, rows, label = held["ids"], held["data"].numpy(), held["labels"][0]
    chosen = [n for n, frame_id in enumerate(ids) if frame_id not in tested[:2]]
    merged(path, [ids[n] for n in chosen], rows[chosen], label)
    (shown,) = failures(evaluate(existing))
    assert f"{len(tested)} frames, {len(tested) - 2} embeddings; 2 frames without one (e.g. {tested[:2]})" in shown
    assert not existing.workspace.layout.whole(EVALUATION).exists()
    assert not existing.workspace.layout.classifier("virnucpro").exists()
    merged(path, ids, rows, label)
    row = ids.index(tested[0])
    merged(existing.root / "theirs/zz_merged.pt", tested[:1], rows[row : row + 1], label)
    (shown,) = failures(evaluate(existing))
    assert "0 frames without one" in shown and ", 1 twice. A fair comparison needs all test rows, once" in shown


def test_files_and_model_of_other_widths_are_refused_by_both(existing: Project) -> None:
    theirs = sorted((existing.root / "theirs").iterdir())
    width = upstreams_reading(theirs[0])["data"].size(1)
    configure(existing, model="wide.pth")
    (shown,) = failures(evaluate(existing))
    dna = read_provenance(shards(existing)[0])["dims"]["dna"]
    assert (
        f"wide.pth: reads {width + 1} columns, the features are of dnabert_s and esm2_3b ({dna} + {width - dna} = "
        in shown
    )
    configure(existing)
    merged(existing.root / "theirs/zz_merged.pt", ["x_chunk_1F1"], drawn(1, width + 1))
    (shown,) = failures(evaluate(existing))
    assert f"zz_merged.pt: {width + 1} columns; the classifier reads dnabert_s and esm2_3b ({dna} + " in shown
    configure(existing, dna_dim=width)
    (shown,) = failures(evaluate(existing))
    assert f"{width} columns, of which {width} cannot be the nucleotides'" in shown


def test_other_chunks_labels_and_absent_files_are_refused(existing: Project) -> None:
    configure(existing, chunk_length=300)
    (shown,) = failures(evaluate(existing))
    assert "virnucpro.chunk_length is 300, sequences.chunk_length 500" in shown
    section = {**dict(existing.settings.virnucpro or ()), "chunk_length": 500}
    existing.configure(virnucpro=section, sequences={"frame_rule": "longest_orf"})
    assert "sequences.frame_rule is longest_orf: VirNucPro's model" in failures(evaluate(existing))[0]
    configure(existing, model="absent.pth")
    assert "absent.pth: no such file; it is named in section [virnucpro]" in failures(evaluate(existing))[0]
    configure(existing, merged="absent")
    assert "absent: no *.pt found; virnucpro.merged names the folder" in failures(evaluate(existing))[0]
    configure(existing)
    path = sorted((existing.root / "theirs").iterdir())[0]
    held = upstreams_reading(path)
    merged(path, held["ids"], held["data"].numpy(), 1 - held["labels"][0])
    assert f"{path}: its rows are labelled " in failures(evaluate(existing))[0]
    torch.save({"proteins": held["ids"], "data": list(held["data"].clone())}, path)
    assert f"{path}: expected a merged file, found ESM vectors" in failures(evaluate(existing))[0]


def test_only_the_section_adds_to_the_graph(existing: Project) -> None:
    without = existing.settings.model_copy(update={"virnucpro": None})
    keys = [
        {spec.key.to_user_string() for spec in build_defs(settings).resolve_all_asset_specs()}
        for settings in (without, existing.settings)
    ]
    assert keys[1] - keys[0] == {EVALUATION, "virnucpro/merged_features", "virnucpro/classifier"}
    assert keys[0] <= keys[1]
    job = existing.defs.resolve_job_def(DECISION_JOB)
    assert EVALUATION in {node.name for node in job.nodes}
    node = existing.defs.resolve_asset_graph().get(dg.AssetKey(EVALUATION))
    assert {key.to_user_string() for key in node.parent_keys} == {
        *("reference/translated_proteins", "train_test_split", "virnucpro/classifier", "virnucpro/merged_features")
    }
    assert (node.group_name, {check.name for check in node.check_keys}) == ("classifiers", {"every_test_row_is_scored"})

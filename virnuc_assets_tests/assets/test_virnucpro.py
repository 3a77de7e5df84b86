"""An existing VirNucPro is scored from its own files: as its classifier scores, on all test rows, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
from torch import nn

import __main__
from virnuc_assets.assets.migration import DECISION
from virnuc_assets.assets.virnucpro import EVALUATION, imported_evidence
from virnuc_assets.classifier.checkpoint import load_classifier
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.jobs import DECISION_JOB
from virnuc_assets.exchange import export_file
from virnuc_assets.migration.criteria import dims_match_encoders, same_environment
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import read_recipe, read_table
from virnuc_assets_tests.assets.project import Finished, Project, failures
from virnuc_assets_tests.virnucpro_files import drawn, merged, save, upstreams_reading

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


class MLPClassifier(nn.Module):  # type: ignore[misc]
    """Upstream's class, which stands in a script."""

    __module__ = "__main__"

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.output_layer = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(0.5)


__main__.MLPClassifier = MLPClassifier  # type: ignore[attr-defined]  # where pickle looks for it


def shards(project: Project) -> list[Path]:
    return sorted(project.workspace.layout.table("reference", "esm2_3b_features", "x").parent.glob("*.parquet"))


@pytest.fixture
def existing(finished: Finished, copied: Project) -> Iterator[Project]:
    """A project beside a VirNucPro whose features and classifier are those of its ESM2-3B variant."""
    folder = copied.root / "theirs"
    for path in shards(copied):
        export_file(path, folder / f"{path.stem}_merged.pt")
    ours, _ = load_classifier(copied.workspace.layout.classifier("esm2_3b"))
    theirs = MLPClassifier(ours.dim, ours.hidden)
    theirs.load_state_dict(ours.state_dict())
    save(theirs, copied.root / "500_model.pth")
    configure(copied)
    yield copied


def configure(project: Project, **changes: Any) -> None:
    dims = read_recipe(shards(project)[0])["dims"]
    section = {"merged": "theirs", "model": "500_model.pth", "chunk_length": 500, "dna_dim": dims["dna"], **changes}
    project.configure(virnucpro=section)


def evaluate(project: Project) -> dg.ExecuteInProcessResult:
    return project.materialize(EVALUATION)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(EVALUATION)
    return {name: value.value for name, value in event.metadata.items()}


def table_of(project: Project, variant: str) -> Any:
    return read_table(project.workspace.layout.whole(f"{variant}_evaluation"), evaluation_schema())


def test_it_scores_what_our_variant_scores_and_embeds_nothing(existing: Project) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in existing.tables().items()}
    result = evaluate(existing)
    assert failures(result) == []
    found, expected = table_of(existing, "virnucpro"), table_of(existing, "esm2_3b")
    assert found.drop(["score_other", "score_virus"]) == expected.drop(["score_other", "score_virus"])
    for column in ("score_other", "score_virus"):
        np.testing.assert_allclose(found[column].to_numpy(), expected[column].to_numpy(), atol=1e-6, rtol=0)
    told = metadata(result)
    rows = sum(read_table(path).num_rows for path in shards(existing))
    assert (told["rows"], told["rows_of_merged_files"]) == (expected.num_rows, rows)
    assert told["rows_that_are_no_test_rows"] == rows - expected.num_rows > 0
    assert "not known; test rows may be among them, its numbers too good" in told["trained_on"]
    assert told["reads"].startswith("dnabert_s and esm2_3b (")
    after = {name: path.stat().st_mtime_ns for name, path in existing.tables().items()}
    assert after.keys() - before.keys() == {f"{EVALUATION}/{EVALUATION}.parquet"}
    assert {name: after[name] for name in before} == before
    again = metadata(evaluate(existing))
    assert (again["rows_made"], again["digest"]) == (0, told["digest"])


def test_the_decision_shows_it_beside_the_variants_and_judges_nothing_by_it(existing: Project) -> None:
    assert failures(evaluate(existing), existing.materialize(DECISION)) == []
    page = existing.workspace.layout.whole(DECISION, ".html").read_text()
    stored = json.loads(existing.workspace.layout.whole(DECISION, ".json").read_text())
    assert list(stored["variants"]) == ["baseline", "candidate", "floor", "virnucpro"]
    theirs, ours = (stored["variants"][role]["performance"]["levels"]["frame"] for role in ("virnucpro", "baseline"))
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert stored["variants"]["virnucpro"]["description"]["origin"]["file"] == "500_model.pth"
    assert not any("virnucpro" in reason for reason in stored["reasons"])
    assert "virnucpro" in page and "500_model.pth" in page


def test_without_its_evaluation_the_decision_says_so_beside(existing: Project) -> None:
    evidence = imported_evidence(existing.instance, existing.workspace)
    assert evidence.predictions is None and "virnucpro_evaluation.parquet: the table does not exist" in evidence.gaps[0]


def test_as_a_baseline_it_would_be_no_evidence(existing: Project) -> None:
    """What it was trained on, and with, is not told: nobody can say that the comparison is fair."""
    assert failures(evaluate(existing)) == []
    workspace = existing.workspace
    imported = imported_evidence(existing.instance, workspace)
    assert (imported.variant, imported.dna_name, imported.protein_name) == ("virnucpro", "dnabert_s", "esm2_3b")
    assert imported.problems == () and imported.description is not None
    _, ours = load_classifier(workspace.layout.classifier("fastesm2"))
    candidate = VariantEvidence("fastesm2", "dnabert_s", "fastesm2_650", None, ours.model_dump(mode="json"))
    dims = {"dnabert_s": ours.dna_dim, "fastesm2_650": ours.protein_dim, "esm2_3b": imported.description["protein_dim"]}
    measured = {name: {"dim": dim} for name, dim in dims.items()}
    evidence = Evidence(candidate, imported, candidate, benchmark=measured)
    assert dims_match_encoders(evidence).outcome == "met"
    compared = same_environment(evidence)
    assert compared.outcome == "missing"
    gaps = " ".join(compared.missing)
    for what in ("seed", "training", "split_digest", "dna encoder's precision", "protein encoder's precision"):
        assert f"{what} is " in gaps
    assert "not told for virnucpro" in gaps
    assert "chunk_length" not in gaps


def test_missing_test_rows_are_refused_with_their_count(existing: Project) -> None:
    tested = table_of(existing, "esm2_3b").column("frame_id").to_pylist()
    for path in (existing.root / "theirs").iterdir():
        held = upstreams_reading(path)
        if tested[0] in held["ids"]:
            keep = [n for n, frame_id in enumerate(held["ids"]) if frame_id not in tested[:2]]
            merged(path, [held["ids"][n] for n in keep], held["data"].numpy()[keep], held["labels"][0])
    (told,) = failures(evaluate(existing))
    assert f"of {len(tested)} test rows 2 are in none of" in told
    assert f"merged files (e.g. '{tested[0]}', '{tested[1]}'), 0 in more than one" in told
    assert not existing.workspace.layout.whole(EVALUATION).exists()
    assert not existing.workspace.layout.classifier("virnucpro").exists()


def test_rows_in_two_files_are_refused(existing: Project) -> None:
    tested = table_of(existing, "esm2_3b").column("frame_id").to_pylist()[:1]
    holder = next(p for p in (existing.root / "theirs").iterdir() if tested[0] in upstreams_reading(p)["ids"])
    held = upstreams_reading(holder)
    row = held["ids"].index(tested[0])
    merged(existing.root / "theirs/zz_merged.pt", tested, held["data"].numpy()[row : row + 1], held["labels"][0])
    (told,) = failures(evaluate(existing))
    assert "0 are in none of" in told
    assert f"1 in more than one (e.g. '{tested[0]}')" in told


def test_files_and_model_of_other_widths_are_refused_by_both(existing: Project) -> None:
    theirs = sorted((existing.root / "theirs").iterdir())
    width = upstreams_reading(theirs[0])["data"].size(1)
    model = MLPClassifier(width + 1, 4)
    save(model, existing.root / "wide.pth")
    configure(existing, model="wide.pth")
    (told,) = failures(evaluate(existing))
    dna = read_recipe(shards(existing)[0])["dims"]["dna"]
    assert (
        f"wide.pth: reads {width + 1} columns, the features are of dnabert_s and esm2_3b ({dna} + {width - dna} = "
        in told
    )
    configure(existing)
    merged(existing.root / "theirs/zz_merged.pt", ["x_chunk_1F1"], drawn(1, width + 1))
    (told,) = failures(evaluate(existing))
    assert f"zz_merged.pt: {width + 1} columns; the classifier reads dnabert_s and esm2_3b ({dna} + " in told
    configure(existing, dna_dim=width)
    (told,) = failures(evaluate(existing))
    assert f"{width} columns, of which {width} cannot be the nucleotides'" in told


def test_other_chunks_labels_and_absent_files_are_refused(existing: Project) -> None:
    configure(existing, chunk_length=300)
    (told,) = failures(evaluate(existing))
    assert "virnucpro.chunk_length is 300, sequences.chunk_length 500" in told
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
    graph = existing.defs.resolve_asset_graph()
    node = graph.get(dg.AssetKey(EVALUATION))
    assert {key.to_user_string() for key in node.parent_keys} == {
        "reference/translated_proteins",
        "train_test_split",
        "virnucpro/classifier",
        "virnucpro/merged_features",
    }
    assert (node.group_name, {check.name for check in node.check_keys}) == ("classifiers", {"every_test_row_is_scored"})
    for name in ("merged_features", "classifier"):
        spec = next(s for s in existing.defs.resolve_all_asset_specs() if s.key == dg.AssetKey(["virnucpro", name]))
        assert (bool(spec.description), spec.group_name, bool(spec.kinds), bool(spec.metadata)) == (
            True,
            "virnucpro",
            True,
            True,
        )

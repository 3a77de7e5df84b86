"""A decision without complete, current evidence is NO DECISION, and names what is missing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virnuc_assets.defs.assets.migration import stored_decision
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.tables import read_provenance, read_table, write_table
from virnuc_assets_tests.assets.judging import judged, named
from virnuc_assets_tests.assets.project import Finished, Project, client_of, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

DECISION = "migration_decision"


def decide(project: Project) -> dict[str, Any]:
    """Materialize the decision alone; the stored JSON, after a test of the check and of all that must agree with it."""
    result = project.materialize(DECISION)
    assert failures(result) == []
    layout = project.workspace.layout
    stored: dict[str, Any] = json.loads(layout.whole(DECISION, ".json").read_text())
    (materialized,) = result.asset_materializations_for_node(DECISION)
    assert materialized.metadata["outcome"].value == stored["outcome"]
    assert stored["outcome"] in layout.whole(DECISION, ".html").read_text()
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    evidence = checks["decision_rests_on_complete_evidence"]
    assert (evidence.passed, evidence.severity.value) == (stored["outcome"] != "NO DECISION", "WARN")
    assert checks["decision_is_reproduced"].passed
    assert checks["serving_variant_is_promoted"].severity == dg.AssetCheckSeverity.WARN
    return stored


def altered(path: Path, column: str, change: Callable[[list[Any]], None]) -> None:
    """Change values of a stored table as somebody would who leaves its metadata as it is."""
    table = pq.read_table(path, partitioning=None)
    values = table.column(column).to_pylist()
    change(values)
    field = table.schema.field(column)
    changed = table.set_column(table.column_names.index(column), field, pa.array(values, field.type))
    kept = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
    pq.write_table(changed.replace_schema_metadata(kept), path, use_compliant_nested_type=False)


def overwritten(path: Path, start: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content) or None] = content
    path.write_bytes(whole)


def measured_faster(project: Project) -> None:
    path = project.workspace.layout.whole("encoder_benchmark", ".json")
    content = json.loads(path.read_text())
    content["measured"]["fastesm2_650"]["sequences_per_s"] *= 10
    path.write_text(json.dumps(content))


def trained(project: Project, *assets: str, **sections: dict[str, Any]) -> None:
    project.configure(**sections)
    assert failures(project.materialize(*assets)) == []


def evaluation_of(project: Project, variant: str = "esm2_3b") -> Path:
    return project.workspace.layout.whole(f"{variant}_evaluation")


def features_of(project: Project) -> Path:
    return project.workspace.layout.table("reference", "esm2_3b_features", "viral-0001")


def benchmark_of(project: Project) -> Path:
    return project.workspace.layout.whole("encoder_benchmark", ".json")


def classifier_of(project: Project) -> Path:
    return project.workspace.layout.classifier("esm2_3b")


def checkpoint_of(project: Project) -> Path:
    return project.workspace.layout.checkpoints / "esm2_3b_miniature"


def plus(amount: float) -> Callable[[list[Any]], None]:
    def change(values: list[Any]) -> None:
        values[0] = values[0] + amount if isinstance(values[0], float) else [values[0][0] + amount, *values[0][1:]]

    return change


CANDIDATE = ("fastesm2_classifier", "fastesm2_evaluation")
# What happens to the evidence, the words of a reason that names it, and what no reason names.
FAULTS: dict[str, tuple[Callable[[Project], object], tuple[str, ...], str]] = {
    "no evaluation": (lambda p: evaluation_of(p).unlink(), ("esm2_3b_evaluation", "does not exist"), "fastesm2"),
    "no classifier": (lambda p: shutil.rmtree(classifier_of(p)), ("esm2_3b", "no classifier"), "fastesm2"),
    "no benchmark": (lambda p: benchmark_of(p).unlink(), ("encoder_benchmark has not been materialized",), "fastesm2"),
    "an altered prediction": (
        lambda p: altered(evaluation_of(p), "score_virus", plus(0.001)),
        ("esm2_3b_evaluation.parquet: rows were altered since the table was written",),
        "fastesm2",
    ),
    "an altered feature": (
        lambda p: altered(features_of(p), "vector", plus(0.5)),
        ("esm2_3b_features/viral-0001.parquet: rows were altered",),
        "fastesm2",
    ),
    "a damaged page": (lambda p: overwritten(evaluation_of(p), 4, bytes(396)), ("esm2_3b_evaluation.parquet",), "kmer"),
    "an altered benchmark": (measured_faster, ("encoder_benchmark.json: altered since it was measured",), "kmer"),
    "a benchmark of nothing": (
        lambda p: benchmark_of(p).write_text("{}"),
        ("encoder_benchmark.json: not an encoder benchmark",),
        "kmer",
    ),
    "an altered classifier": (
        lambda p: overwritten(classifier_of(p) / "classifier.safetensors", -1, b"?"),
        ("classifier.safetensors: expected weights of sha256",),
        "kmer",
    ),
    "an older baseline": (
        lambda p: trained(p, *CANDIDATE, training={"seed": 1}),
        ("esm2_3b_classifier is stale",),
        "fastesm2_classifier",
    ),
    "an evaluation of an older classifier": (
        lambda p: trained(p, "esm2_3b_classifier", training={"seed": 1}),
        ("esm2_3b_evaluation is stale: not of today's classifier",),
        "esm2_3b_classifier is stale",
    ),
    "another split than today's": (
        lambda p: p.configure(split={"seed": 5}),
        ("train_test_split", "settings.seed: expected 5, found 0"),
        "benchmark",
    ),
    "a benchmark of other weights": (
        lambda p: (checkpoint_of(p) / "config.json").open("a").write("\n"),
        ("encoder_benchmark is stale", "esm2_3b"),
        "another fastesm2_650",
    ),
    "no checkpoint": (lambda p: shutil.rmtree(checkpoint_of(p)), ("esm2_3b_miniature",), "kmer"),
    "a benchmark by other settings": (
        lambda p: p.configure(benchmark={"rows": 1000}),
        ("encoder_benchmark is stale", "settings"),
        "fastesm2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_absent_altered_or_stale_is_named(copied: Project, fault: str) -> None:
    happens, words, unnamed = FAULTS[fault]
    happens(copied)
    decision = judged(copied)
    assert named(decision, *words), decision["reasons"]
    assert [reason for reason in decision["reasons"] if unnamed in reason] == []


def test_without_a_current_comparison_of_frame_rules_the_decision_is_the_same(copied: Project) -> None:
    """A chunk too few fails its check; nothing is judged by it, so that it is no gap."""
    before, path = judged(copied), copied.workspace.layout.whole("frame_rules")
    assert before["frame_rules"]["chunks"] == read_table(path).num_rows
    write_table(path, read_table(path).slice(1), {**read_provenance(path), "min_orf_aa": 31})
    assert judged(copied) == {**before, "frame_rules": None}
    (check,) = copied.check("frame_rules").values()
    assert (check.passed, check.metadata["faults"].value) == (False, 2)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_decision_is_one_sentence(copied: Project, content: str) -> None:
    path = copied.workspace.layout.whole(DECISION, ".json")
    path.write_text(content)
    with pytest.raises(VirnucError) as caught:
        stored_decision(copied.workspace)
    assert re.fullmatch(rf"{path}: no stored decision \(.+\); materialize {DECISION} again", str(caught.value))
    check = copied.check(DECISION)[DECISION, "decision_rests_on_complete_evidence"]
    assert not check.passed
    assert str(caught.value) in str(check.metadata)


def test_equal_evidence_gives_an_equal_decision(copied: Project, finished: Finished) -> None:
    path = finished.workspace.layout.whole(DECISION, ".json")
    assert decide(copied) == json.loads(path.read_text())
    assert copied.workspace.layout.whole(DECISION, ".json").read_bytes() == path.read_bytes()


def test_criteria_are_those_of_the_settings_and_without_evidence_nothing_moves(copied: Project) -> None:
    """The baseline's calls as the candidate's, in a cluster for each chunk, so that there are enough of them.

    Judged by criteria that nothing fails, and by one that nothing meets; then weights and an evaluation are gone.
    """
    rows = read_table(evaluation_of(copied))
    rows = rows.set_column(rows.column_names.index("cluster"), rows.schema.field("cluster"), rows["chunk_id"])
    for variant in ("esm2_3b", "fastesm2", "kmer"):
        path = evaluation_of(copied, variant)
        write_table(path, rows, read_provenance(path))
    measurable = {"min_speedup": 1e-6, "max_memory_ratio": 1e6, "min_gain_over_kmer_baseline": -1.0}
    copied.configure(decision=measurable)
    decision = decide(copied)
    assert (decision["outcome"], decision["reasons"]) == ("GO", ["all 12 criteria are met"])
    assert serving(copied) == "fastesm2"
    copied.configure(decision={**measurable, "min_speedup": 1e6})
    decision = judged(copied)
    assert decision["outcome"] == "NO-GO"
    assert [c["name"] for c in decision["criteria"] if c["outcome"] != "met"] == ["speedup_reached"]
    assert decision["settings"]["min_speedup"] == 1e6

    shutil.rmtree(copied.workspace.layout.classifier("fastesm2"))
    shutil.rmtree(checkpoint_of(copied))
    evaluation_of(copied, "kmer").unlink()
    assert decide(copied)["outcome"] == "NO DECISION"
    assert serving(copied) == "fastesm2"


def serving(project: Project) -> str | None:
    """The variant that the registry's alias `serving` names."""
    client = client_of(project)
    (model,) = client.search_registered_models()
    version = model.aliases.get("serving")
    return str(client.get_model_version(model.name, version).tags["variant"]) if version else None


def test_a_training_moves_no_alias(copied: Project) -> None:
    before = serving(copied)
    trained(copied, "fastesm2_classifier", training={"seed": 3})
    assert serving(copied) == before

"""A decision without complete, current evidence is NO DECISION, and names what is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virnuc_assets.storage.tables import read_recipe, read_table, write_table
from virnuc_assets_tests.assets.judging import judged, named
from virnuc_assets_tests.assets.project import Finished, Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

DECISION = "migration_decision"


def decide(project: Project) -> dict[str, Any]:
    """Materialize the decision alone; the stored JSON, after a look at the check and at all that must agree with it."""
    result = project.materialize(DECISION)
    assert failures(result) == []
    layout = project.workspace.layout
    stored: dict[str, Any] = json.loads(layout.whole(DECISION, ".json").read_text())
    (materialized,) = result.asset_materializations_for_node(DECISION)
    assert materialized.metadata["outcome"].value == stored["outcome"]
    assert stored["outcome"] in layout.whole(DECISION, ".html").read_text()
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["decision_rests_on_complete_evidence"].passed == (stored["outcome"] != "NO DECISION")
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


def test_equal_evidence_gives_an_equal_decision(copied: Project, finished: Finished) -> None:
    path = finished.workspace.layout.whole(DECISION, ".json")
    assert decide(copied) == json.loads(path.read_text())
    assert copied.workspace.layout.whole(DECISION, ".json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("variant", ["fastesm2", "esm2_3b", "kmer"])
def test_a_missing_evaluation_is_named(copied: Project, variant: str) -> None:
    layout = copied.workspace.layout
    layout.whole(f"{variant}_evaluation").unlink()
    for suffix in (".json", ".html"):
        layout.whole(DECISION, suffix).unlink()
    decision = decide(copied)
    assert named(decision, f"{variant}_evaluation", "does not exist")
    others = {"fastesm2", "esm2_3b", "kmer"} - {variant}
    assert not any(f"{other}_evaluation" in reason for reason in decision["reasons"] for other in others)


@pytest.mark.parametrize("variant", ["esm2_3b", "fastesm2"])
def test_a_missing_classifier_is_named(copied: Project, variant: str) -> None:
    """Though one of them is to serve: the run tells it and does not fail."""
    shutil.rmtree(copied.workspace.layout.classifier(variant))
    assert named(decide(copied), variant, "no classifier")


def test_a_missing_benchmark_is_named(copied: Project) -> None:
    copied.workspace.layout.whole("encoder_benchmark", ".json").unlink()
    assert named(decide(copied), "encoder_benchmark has not been materialized")


def test_one_altered_prediction_of_the_baseline_is_noticed(copied: Project) -> None:
    def turn(values: list[Any]) -> None:
        values[0] += 0.001

    altered(copied.workspace.layout.whole("esm2_3b_evaluation"), "score_virus", turn)
    assert named(judged(copied), "esm2_3b_evaluation.parquet: rows were altered since the table was written")


def test_one_altered_feature_of_the_baseline_is_noticed(copied: Project) -> None:
    def turn(values: list[Any]) -> None:
        values[0][0] += 0.5

    altered(copied.workspace.layout.table("reference", "esm2_3b_features", "viral-0001"), "vector", turn)
    decision = judged(copied)
    assert named(decision, "esm2_3b_features/viral-0001.parquet: rows were altered")
    assert not any("fastesm2_features" in reason for reason in decision["reasons"])


def test_a_table_with_a_damaged_page_is_named(copied: Project) -> None:
    path = copied.workspace.layout.whole("esm2_3b_evaluation")
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    assert named(judged(copied), "esm2_3b_evaluation.parquet")


def test_an_altered_benchmark_is_named(copied: Project) -> None:
    path = copied.workspace.layout.whole("encoder_benchmark", ".json")
    content = json.loads(path.read_text())
    content["measured"]["fastesm2_650"]["sequences_per_s"] *= 10
    path.write_text(json.dumps(content))
    assert named(judged(copied), "encoder_benchmark.json: altered since it was measured")
    path.write_text("{}")
    assert named(judged(copied), "encoder_benchmark.json: not an encoder benchmark")


def test_an_altered_classifier_is_named(copied: Project) -> None:
    path = copied.workspace.layout.classifier("esm2_3b") / "classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert named(judged(copied), "classifier.safetensors: expected weights of sha256")


def test_a_missing_shard_of_the_baseline_is_named(copied: Project) -> None:
    copied.workspace.layout.table("reference", "esm2_3b_features", "viral-0001").unlink()
    assert named(judged(copied), "reference/esm2_3b_features", "viral-0001")


def test_a_baseline_trained_with_another_seed_is_stale(copied: Project) -> None:
    copied.configure(training={"seed": 1})
    assert failures(copied.materialize("fastesm2_classifier", "fastesm2_evaluation")) == []
    decision = judged(copied)
    assert named(decision, "esm2_3b_classifier is stale")
    assert named(decision, "kmer_classifier is stale")
    assert not any("fastesm2" in reason.split(":")[0] for reason in decision["reasons"])


def test_an_evaluation_of_an_older_baseline_is_stale(copied: Project) -> None:
    copied.configure(training={"seed": 1})
    assert failures(copied.materialize("esm2_3b_classifier")) == []
    assert named(judged(copied), "esm2_3b_evaluation is stale: not of today's classifier")


def test_a_baseline_of_another_split_is_stale(copied: Project) -> None:
    copied.configure(split={"test_fraction": 0.4})
    assert failures(copied.materialize("train_test_split", "fastesm2_classifier", "fastesm2_evaluation")) == []
    decision = judged(copied)
    assert named(decision, "esm2_3b_classifier is stale")
    assert not any(reason.startswith("fastesm2_classifier") for reason in decision["reasons"])


def test_a_benchmark_of_other_weights_is_stale(copied: Project) -> None:
    config = copied.workspace.layout.checkpoints / "esm2_3b_miniature/config.json"
    config.write_text(config.read_text() + "\n")
    decision = judged(copied)
    assert named(decision, "encoder_benchmark is stale", "esm2_3b")
    assert named(decision, "esm2_3b", "checkpoint_digest")
    assert not named(decision, "encoder_benchmark is stale", "another fastesm2_650")


def test_a_checkpoint_that_is_gone_is_named_and_fails_nothing(copied: Project) -> None:
    """The baseline's weights are large; whoever removed them still gets an answer."""
    shutil.rmtree(copied.workspace.layout.checkpoints / "esm2_3b_miniature")
    assert named(decide(copied), "esm2_3b_miniature")


def test_another_split_than_todays_settings_is_stale(copied: Project) -> None:
    copied.configure(split={"seed": 5})
    assert named(judged(copied), "train_test_split", "settings.seed: expected 5, found 0")


def test_an_evaluation_of_other_rows_is_stale(copied: Project) -> None:
    """The classifier is the same one: only the recipe tells that other rows were scored."""
    path = copied.workspace.layout.whole("esm2_3b_evaluation")
    write_table(path, read_table(path).slice(5), {**read_recipe(path), "features": "older"})
    assert named(decide(copied), "esm2_3b_evaluation is stale")


def test_a_benchmark_by_other_settings_is_stale(copied: Project) -> None:
    copied.configure(benchmark={"rows": 1000, "repeats": 9})
    assert named(judged(copied), "encoder_benchmark is stale", "settings")


def test_another_chunk_length_is_named_until_all_is_planned_anew(copied: Project) -> None:
    copied.configure(sequences={"chunk_length": 300})
    decision = judged(copied)
    assert named(decision, "planned in chunks of 500 nt, virnuc.toml says 300")
    (told,) = failures(copied.materialize("fastesm2_classifier"))
    assert "planned in chunks of 500 nt" in told


def test_criteria_are_those_of_the_settings(copied: Project) -> None:
    """The same evidence, judged by criteria that nothing fails, and by one that nothing meets."""
    lenient = {
        **{"max_accuracy_drop": 1.0, "max_f1_drop": 1.0, "max_group_drop": 1.0, "min_speedup": 1e-6},
        **{"max_memory_ratio": 1e6, "min_gain_over_floor": -1.0},
    }
    floor = copied.workspace.layout.whole("kmer_evaluation")
    write_table(floor, read_table(copied.workspace.layout.whole("fastesm2_evaluation")), read_recipe(floor))
    copied.configure(decision=lenient)
    assert decide(copied)["outcome"] == "GO"
    assert serving(copied) == "fastesm2"
    copied.configure(decision={**lenient, "min_speedup": 1e6})
    decision = judged(copied)
    assert decision["outcome"] == "NO-GO"
    assert [criterion["name"] for criterion in decision["criteria"] if criterion["outcome"] != "met"] == [
        "speedup_reached"
    ]
    assert decision["settings"]["min_speedup"] == 1e6


def serving(project: Project) -> str | None:
    """The variant that the registry's alias `serving` names."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{project.settings.var / 'mlflow/mlflow.db'}")
    (model,) = client.search_registered_models()
    version = model.aliases.get("serving")
    return str(client.get_model_version(model.name, version).tags["variant"]) if version else None


def test_no_decision_is_tracked_and_moves_nothing_that_serves(copied: Project) -> None:
    before = serving(copied)
    copied.workspace.layout.whole("kmer_evaluation").unlink()
    assert decide(copied)["outcome"] == "NO DECISION"
    assert serving(copied) == before
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{copied.settings.var / 'mlflow/mlflow.db'}")
    experiment = client.get_experiment_by_name("virnuc")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.outcome = 'NO DECISION'")
    assert [run.info.run_name for run in runs] == ["migration decision"]


def test_a_training_moves_no_alias(copied: Project) -> None:
    before = serving(copied)
    copied.configure(training={"seed": 3})
    assert failures(copied.materialize("fastesm2_classifier")) == []
    assert serving(copied) == before


def test_a_candidate_made_equal_to_the_baseline_is_go(copied: Project) -> None:
    """The baseline's calls under the candidate's name, as if both encoders were one; all else is real."""
    layout = copied.workspace.layout
    path, baseline = layout.whole("fastesm2_evaluation"), layout.whole("esm2_3b_evaluation")
    write_table(path, read_table(baseline), read_recipe(path))
    measurable = {"min_speedup": 1e-6, "max_memory_ratio": 1e6, "min_gain_over_floor": -1.0}
    copied.configure(decision=measurable)
    decision = judged(copied)
    assert (decision["outcome"], decision["reasons"]) == ("GO", ["all 12 criteria are met"])


def test_the_decision_alone_is_reachable_from_the_ui(finished: Finished) -> None:
    """Its job has every asset that a person may want to redo for it."""
    keys = finished.defs.resolve_job_def("train_and_decide").asset_layer.executable_asset_keys
    assert dg.AssetKey(DECISION) in keys

"""What MLflow holds of a training: parameters, a metric an epoch, test metrics, and a model that scores alike."""

import contextlib
import json
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run

from virnuc_assets.classifier.checkpoint import load_classifier, score
from virnuc_assets.classifier.linear import INVERSE_STRENGTHS
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, register
from virnuc_assets.defs.tracking import EXPERIMENT, REGISTERED, Table
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import load_settings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import content_digest, read_provenance, read_table
from virnuc_assets.workstation.setup import follow_move, require_set_up, tracking_uri
from virnuc_assets_tests.assets.project import Finished, Project, client_of, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

MODELS = {"fastesm2": "fastesm2_650_miniature", "esm2_3b": "esm2_3b_miniature", "kmer": "kmer_protein"}
DIMS = {"fastesm2": (48, 32), "esm2_3b": (48, 64), "kmer": (136, 487)}
EPOCHS = 5
ALONE = "attributes.run_name LIKE '% alone'"
EPOCH_METRICS = {"train_loss", "validation_loss", "validation_accuracy", "learning_rate"}


@pytest.fixture
def client(finished: Finished) -> mlflow.MlflowClient:
    return client_of(finished)


def runs(client: mlflow.MlflowClient, where: str = "") -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], where))


def training(client: mlflow.MlflowClient, variant: str) -> Run:
    (found,) = runs(client, f"tags.variant = '{variant}'")
    return found


def described(finished: Finished, variant: str) -> dict[str, Any]:
    path = finished.workspace.layout.classifier(variant) / "classifier.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_there_is_one_run_a_classifier_and_one_for_the_decision(client: mlflow.MlflowClient) -> None:
    names = sorted(run.info.run_name for run in runs(client))
    alone = ["dnabert_s alone", "esm2_3b alone", "fastesm2_650 alone"]
    assert names == sorted([*alone, *(f"{variant} classifier" for variant in MODELS), "migration decision"])
    assert {run.info.status for run in runs(client)} == {"FINISHED"}


@pytest.mark.parametrize("variant", MODELS)
def test_a_training_has_params_epochs_test_metrics_and_a_registered_version(
    client: mlflow.MlflowClient, finished: Finished, variant: str
) -> None:
    layout, run, description = finished.workspace.layout, training(client, variant), described(finished, variant)
    params, (dna, protein), settings = run.data.params, DIMS[variant], finished.settings.training
    expected = {
        **{"dna_dim": dna, "protein_dim": protein, "merged_dim": dna + protein, "protein_encoder": MODELS[variant]},
        **{"chunk_length": 500, "precision": "fp32", "data_digest": description["data_digest"]},
        "dna_encoder": "kmer_dna" if variant == "kmer" else "dnabert_s_miniature",
        "split_digest": content_digest(layout.whole("train_test_split")),
        **{f"training.{name}": value for name, value in settings.model_dump().items()},
    }
    assert {name: params[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    assert int(params["train_rows"]) > int(params["validation_rows"]) > 0

    composed = variant == "kmer"  # a step for each strength of the penalty instead of each epoch
    for name in ("inverse_strength", "validation_loss", "validation_auroc") if composed else EPOCH_METRICS:
        history = client.get_metric_history(run.info.run_id, name)
        assert [entry.step for entry in history] == list(
            range(1, (len(INVERSE_STRENGTHS) if composed else EPOCHS) + 1)
        ), name
    losses = [entry.value for entry in client.get_metric_history(run.info.run_id, "validation_loss")]
    best = int(np.argmin(losses))
    found = (description["best_epoch"], description["inverse_strength"])
    assert found == ((None, INVERSE_STRENGTHS[best]) if composed else (best + 1, None))

    evaluation = read_table(layout.whole(f"{variant}_evaluation")).to_pandas()
    accuracy = ((evaluation["score_virus"] >= evaluation["score_other"]) == (evaluation["label"] == "viral")).mean()
    assert run.data.metrics["test_accuracy"] == pytest.approx(accuracy)
    assert run.data.metrics["test_rows"] == len(evaluation)
    assert {"test_f1", "test_precision", "test_recall", "test_mcc", "test_auroc"} <= run.data.metrics.keys()
    assert run.data.tags["table.evaluation"] == content_digest(layout.whole(f"{variant}_evaluation"))
    assert run.data.tags["table.split"] == content_digest(layout.whole("train_test_split"))

    (version,) = client.search_model_versions(f"name = '{REGISTERED}' and tags.variant = '{variant}'")
    weights = description["weights_sha256"]
    assert (version.run_id, version.tags["protein_encoder"]) == (run.info.run_id, MODELS[variant])
    assert version.tags["virnuc.classifier_digest"] == run.data.tags["virnuc.classifier_digest"] == weights
    assert [model.name for model in client.search_registered_models()] == [REGISTERED]


def test_the_experiment_is_one_of_trained_models(client: mlflow.MlflowClient) -> None:
    """Else MLflow opens it on its page about language-model agents."""
    assert client.get_experiment_by_name(EXPERIMENT).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_of_one_encoder_is_below_that_of_its_variant(client: mlflow.MlflowClient, finished: Finished) -> None:
    """The DNA encoder, which the variants share, below the first of them."""
    parents = {run.data.tags["ablation"]: run.data.tags["mlflow.parentRunId"] for run in runs(client, ALONE)}
    first = finished.workspace.variants("samples")[0].name
    of_variant = {"dnabert_s": first, "fastesm2_650": "fastesm2", "esm2_3b": "esm2_3b"}
    assert parents == {name: training(client, variant).info.run_id for name, variant in of_variant.items()}
    others = {run.info.run_name for run in runs(client) if "mlflow.parentRunId" not in run.data.tags}
    assert others == {*(f"{variant} classifier" for variant in MODELS), "migration decision"}


@pytest.mark.parametrize("variant", MODELS)
def test_tables_that_a_run_read_are_its_datasets(client: mlflow.MlflowClient, finished: Finished, variant: str) -> None:
    """By the digests that are in the tables and their provenance; each is linked to its asset."""
    layout, inputs = finished.workspace.layout, training(client, variant).inputs.dataset_inputs
    found = {one.dataset.name: (one.dataset.digest, one.tags[0].value) for one in inputs}
    evaluation = layout.whole(f"{variant}_evaluation")
    assert found == {
        f"reference/{variant}_features": (read_provenance(evaluation)["features"], "train"),
        "train_test_split": (content_digest(layout.whole("train_test_split")), "train"),
        f"{variant}_evaluation": (content_digest(evaluation), "test"),
    }
    sources = {one.dataset.name: json.loads(one.dataset.source)["url"] for one in inputs}
    assert sources == {name: f"{finished.settings.servers.dagster_url}/assets/{name}" for name in found}
    (decision,) = runs(client, "attributes.run_name = 'migration decision'")
    compared = {one.dataset.name: one.dataset.digest for one in decision.inputs.dataset_inputs}
    names = [f"{name}_evaluation" for name in MODELS]
    assert compared == {name: content_digest(layout.whole(name)) for name in names}


@pytest.mark.parametrize("name", [*(f"{variant} classifier" for variant in MODELS), "dnabert_s alone"])
def test_curves_are_pictures_that_need_nothing_else(client: mlflow.MlflowClient, name: str) -> None:
    (run,) = runs(client, f"attributes.run_name = '{name}'")
    paths = {entry.path for entry in client.list_artifacts(run.info.run_id, "curves")}
    assert paths == {f"curves/{name}.svg" for name in ("roc", "precision_recall", "calibration")}
    for path in paths:
        text = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)).read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
        assert "var(" not in text and name.split()[0] in text


@pytest.mark.parametrize("variant", MODELS)
def test_the_card_is_on_the_page_of_the_run_and_of_the_version(
    client: mlflow.MlflowClient, finished: Finished, variant: str
) -> None:
    run = training(client, variant)
    file = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model_card.md")
    (version,) = client.search_model_versions(f"name = '{REGISTERED}' and tags.variant = '{variant}'")
    summary = version.description
    assert run.data.tags["mlflow.note.content"] == summary
    assert len(summary) < 5000 and Path(file).read_text().startswith(summary)  # what Postgres has room for
    assert f"| Accuracy | {run.data.metrics['test_accuracy']:.4f} |" in summary
    assert f"{finished.settings.servers.dagster_url}/assets/{variant}_classifier" in summary
    assert "`candidate` and `baseline`" in client.get_registered_model(REGISTERED).description


def test_the_decision_named_what_it_compared_and_what_serves(client: mlflow.MlflowClient, finished: Finished) -> None:
    """Nothing but a GO moves `serving` to the candidate, and nothing serves after NO DECISION alone."""
    (model,) = client.search_registered_models()
    decision = json.loads(finished.workspace.layout.whole("migration_decision", ".json").read_text())
    variant_of = {alias: client.get_model_version(REGISTERED, v).tags["variant"] for alias, v in model.aliases.items()}
    served = {"GO": {"serving": "fastesm2"}, "NO-GO": {"serving": "esm2_3b"}, "NO DECISION": {}}
    assert variant_of == {"candidate": "fastesm2", "baseline": "esm2_3b", **served[decision["outcome"]]}


def test_runs_of_classifiers_and_decision_are_linked_to_each_other_and_to_dagster(
    client: mlflow.MlflowClient, finished: Finished
) -> None:
    (decision,) = runs(client, "attributes.run_name = 'migration decision'")
    roles = {"candidate": "fastesm2", "baseline": "esm2_3b", "kmer_baseline": "kmer"}
    dagster_runs = {result.run_id for result in finished.results}
    for role, variant in roles.items():
        run = training(client, variant)
        assert decision.data.tags[f"virnuc.run.{role}"] == run.info.run_id
        assert run.data.tags["virnuc.run.decision"] == decision.info.run_id
        assert run.data.tags["dagster.run_id"] in dagster_runs
        address = f"{finished.settings.servers.dagster_url}/runs/{run.data.tags['dagster.run_id']}"
        assert run.data.tags["dagster.run"] == address
    report = mlflow.artifacts.download_artifacts(run_id=decision.info.run_id, artifact_path="migration_decision.html")
    assert Path(report).read_bytes() == finished.workspace.layout.whole("migration_decision", ".html").read_bytes()
    assert decision.data.tags["dagster.run_id"] in dagster_runs
    page = finished.workspace.layout.whole("migration_decision", ".html").read_text()
    assert decision.info.run_id in page and training(client, "esm2_3b").info.run_id in page
    assert f"/runs/{decision.data.tags['dagster.run_id']}" in page


def model_uri(client: mlflow.MlflowClient, variant: str) -> str:
    (version,) = client.search_model_versions(f"name = '{REGISTERED}' and tags.variant = '{variant}'")
    return f"models:/{REGISTERED}/{version.version}"


@pytest.mark.parametrize("variant", MODELS)
def test_the_registered_model_scores_as_the_saved_classifier(
    client: mlflow.MlflowClient, finished: Finished, variant: str
) -> None:
    """On batches of one, of five, and of two rows, which is what its example had."""
    layout = finished.workspace.layout
    rows = vectors_of(read_table(layout.table("reference", f"{variant}_features", "viral-0001")))[:5]
    assert len(rows) == 5
    signature = mlflow.models.get_model_info(model_uri(client, variant)).signature
    assert [spec.shape for spec in signature.inputs.inputs] == [(-1, sum(DIMS[variant]))]
    assert [spec.shape for spec in signature.outputs.inputs] == [(-1, 2)]
    logged = mlflow.pytorch.load_model(model_uri(client, variant))
    model, _ = load_classifier(layout.classifier(variant))
    for count in (1, 2, 5):
        with torch.inference_mode():
            found = torch.softmax(logged(torch.tensor(rows[:count])), dim=1).numpy()  # (b, 2)
        np.testing.assert_allclose(found, score(model, rows[:count]), atol=1e-6, rtol=0)


def test_no_artifact_needs_pickle(client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is one; MLflow loads the exported archives when set to refuse whatever could run code."""
    folders = [Path(mlflow.artifacts.download_artifacts(model_uri(client, variant))) for variant in MODELS]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    archives = [path for path in files if zipfile.is_zipfile(path)]
    assert len(archives) == len(MODELS)
    names = [str(path) for path in files] + [name for path in archives for name in zipfile.ZipFile(path).namelist()]
    assert [name for name in names if Path(name).suffix in (".pkl", ".pickle", ".pth", ".joblib")] == []
    plain = [path for path in files if path not in archives]
    assert [path for path in plain if path.read_bytes()[:1] == b"\x80"] == []
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for variant in MODELS:
        mlflow.pytorch.load_model(model_uri(client, variant))


def test_a_moved_project_trains_and_loads_where_it_is(finished: Finished, tmp_path: Path) -> None:
    """Nothing is written to the folder it came from, nor read from there."""
    original = shutil.copytree(finished.root, tmp_path / "original")
    follow_move(load_settings(original), lambda _: None)
    moved = Project(original.rename(tmp_path / "moved"), in_memory=True)
    for shards in (REFERENCE, SAMPLES):
        register(moved.instance, shards, finished.keys(shards))
    moved.configure(training={"seed": 1, "max_epochs": 1})
    (text,) = failures(moved.materialize("fastesm2_classifier"))
    assert "the project was moved or copied" in text and "Run `virnuc setup`" in text

    require_set_up(moved.settings, lambda _: None)
    assert failures(moved.materialize("fastesm2_classifier", "fastesm2_evaluation")) == []
    assert not original.exists()
    uri = tracking_uri(moved.settings)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        assert [line for line in connection.iterdump() if f"{original}/" in line] == []
    versions = client_of(moved).search_model_versions(f"name = '{REGISTERED}'")
    assert len(versions) == len(MODELS) + 1
    for version in versions:
        mlflow.pytorch.load_model(f"models:/{REGISTERED}/{version.version}")


def test_a_deleted_run_has_a_reason_instead_of_a_link(copied: Project) -> None:
    """And is no reason to train again, nor to fail."""
    client = client_of(copied)
    deleted = training(client, "fastesm2").info.run_id
    client.delete_run(deleted)
    result = copied.materialize("fastesm2_classifier", "fastesm2_evaluation")
    assert failures(result) == []
    metadata = {
        node: result.asset_materializations_for_node(node)[0].metadata
        for node in ("fastesm2_classifier", "fastesm2_evaluation")
    }
    for found in metadata.values():
        assert str(found["mlflow_run"].value).startswith("no link: run of this training was deleted from")
    assert metadata["fastesm2_classifier"]["trained"].value is False
    tracking = copied.defs.resources["tracking"]
    assert str(tracking.link(deleted).value).startswith(f"no link: run {deleted} was deleted from")
    kept = training(client, "esm2_3b").info.run_id
    assert tracking.link(kept).value == tracking.address(kept)


def test_what_a_store_lacks_is_named_with_its_remedy(copied: Project) -> None:
    client = client_of(copied)
    tracking = copied.defs.resources["tracking"]
    with pytest.raises(VirnucError, match="no run trained classifier 0{64}.*Materialize the classifier again"):
        tracking.log_to_training("0" * 64, {}, {}, {}, Table("a", "b", "test"), "")
    client.rename_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id, "another")
    with pytest.raises(VirnucError, match=f"experiment '{EXPERIMENT}' is missing; run `virnuc setup`"):
        tracking.find_training("0" * 64)

"""The MLflow resource: one run per training, continued by its evaluation, and one registered model with aliases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from virnuc_assets.errors import VirnucError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

EXPERIMENT = "virnuc"
# The pages of trained models, not those of language-model agents, and the columns of the table of runs. MLflow 3.17.2
# does not read the kind: it follows the address, or else the browser's last choice, at first agents. Hence PAGE.
_COLUMNS = (
    "attributes.`Models`",
    *(f"metrics.`test_{name}`" for name in ("accuracy", "f1", "mcc", "auroc", "average_precision")),
)
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.sharedViewState.trainings": json.dumps({"selectedColumns": _COLUMNS}),
}
PAGE = "workflowType=machine_learning"
VIEW = f"{PAGE}&viewStateShareKey=trainings"
REGISTERED = "virnuc_classifier"
_REGISTERED_FOR = (
    "Classifiers of short nucleotide sequences, viral or not; a version per training, with its card. "
    "`candidate` and `baseline` are what the latest decision compared, `serving` is what calls samples."
)
# Names what a run trains, so that a run whose process was killed is found by the next training of the same.
TRAINING_TAG = "virnuc.training"
# Marks the run that trained a classifier, so that its evaluation finds it.
_CLASSIFIER_TAG = "virnuc.classifier_digest"


def misplaced(uri: str, found: str, expected: str) -> str:
    """The message about a store that keeps its models elsewhere than the project does."""
    return (
        f"{uri}: this MLflow store keeps its models in {found}, expected {expected}; the project was moved or copied, "
        "or [tracking] changed. Run `virnuc setup`, which corrects a project that was moved, or undo the change of "
        "[tracking], or start with an empty store."
    )


@dataclass(frozen=True)
class Table:
    """A table that a run read: its asset, the digest of its rows, and what for (train, test)."""

    asset: str
    digest: str
    context: str


class MlflowTracking(dg.ConfigurableResource[Any]):
    """Runs, metrics and registered models in the MLflow store of `uri`, which set-up has made.

    Links go to `server_url`, where MLflow shows them, and to `dagster_url`. The store must keep models in `artifacts`;
    empty where a server of others decides that.
    """

    uri: str
    server_url: str
    dagster_url: str
    artifacts: str = ""

    @contextlib.contextmanager
    def run(self, name: str, dagster_run: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[str]:
        """A new run that is open inside the block; yields its id. An error inside marks the run as failed."""
        mlflow, experiment = self._mlflow(), self._experiment_id()
        of_dagster = {"dagster.run_id": dagster_run, "dagster.run": self.dagster_run(dagster_run)}
        with mlflow.start_run(experiment_id=experiment, run_name=name, tags={**tags, **of_dagster}) as run:
            mlflow.log_params(dict(params))
            yield run.info.run_id

    @contextlib.contextmanager
    def training(
        self, training: str, name: str, dagster_run: str, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> Iterator[str]:
        """As `run`, of a training (profile and what is trained); its runs that never ended are marked as killed first.

        To be called in its `training_place`, where no other of them can be alive.
        """
        where = f"attributes.status = 'RUNNING' and tags.`{TRAINING_TAG}` = '{training}'"
        for killed in self._client().search_runs([self._experiment_id()], where):
            self._client().set_terminated(killed.info.run_id, "KILLED")
        with self.run(name, dagster_run, {**tags, TRAINING_TAG: training}, params) as run_id:
            yield run_id

    def child_of(self, training: str) -> dict[str, str]:
        """The tag that shows a run below the latest finished run of a training; none where that was deleted."""
        parent = self._latest_run(f"attributes.status = 'FINISHED' and tags.`{TRAINING_TAG}` = '{training}'")
        return {"mlflow.parentRunId": parent} if parent else {}

    def log_tables(self, run_id: str, tables: Iterable[Table]) -> None:
        """Note the tables that a run read as its datasets, each with a link to its asset; none of them is read."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(
                Dataset(table.asset, table.digest, "http", json.dumps({"url": self.dagster_asset(table.asset)})),
                [InputTag("mlflow.data.context", table.context)],
            )
            for table in tables
        ]
        self._client().log_inputs(run_id, datasets)

    def log_files(self, run_id: str, files: Mapping[str, str]) -> None:
        """Texts as files of a run, open or ended."""
        for path, text in files.items():
            self._client().log_text(run_id, text, path)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one epoch of the open run."""
        self._mlflow().log_metrics(dict(metrics), step=epoch)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the open run."""
        self._mlflow().log_params(dict(params))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run, open or ended."""
        for name, value in tags.items():
            self._client().set_tag(run_id, name, value)

    def log_model(self, model: nn.Module, example: np.ndarray, classifier_digest: str, tags: Mapping[str, str]) -> None:
        """Log the model without pickle, register a version of it, and mark the open run as its training.

        No alias moves: what is candidate, baseline or serving is for the decision, or a person, to say. The model is in
        eval mode; the example is some feature rows, (b, d) float32, whose width the signature has.
        """
        mlflow = self._mlflow()
        import torch
        from mlflow.models import infer_signature
        from mlflow.pytorch import log_model

        with torch.inference_mode():
            logits = model(torch.tensor(example)).numpy()  # (b, 2)
        info = log_model(
            model,
            name="model",
            registered_model_name=REGISTERED,
            signature=infer_signature(example, logits),
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
        self._client().update_registered_model(REGISTERED, _REGISTERED_FOR)
        for name, value in {**tags, _CLASSIFIER_TAG: classifier_digest}.items():
            self._client().set_model_version_tag(REGISTERED, str(info.registered_model_version), name, value)
        mlflow.set_tag(_CLASSIFIER_TAG, classifier_digest)

    def version_of(self, classifier_digest: str) -> str | None:
        """Latest registered version of a classifier, or None."""
        where = f"name = '{REGISTERED}' and tags.`{_CLASSIFIER_TAG}` = '{classifier_digest}'"
        found = self._client().search_model_versions(where)
        return str(max(int(version.version) for version in found)) if found else None

    def move_alias(self, alias: str, classifier_digest: str) -> None:
        """Point an alias of the registered model at a classifier."""
        version = self.version_of(classifier_digest)
        if version is None:
            raise VirnucError(
                f"MLflow store {self.uri}: classifier {classifier_digest} is not registered, so {alias!r} cannot name "
                "it. Materialize the classifier again."
            )
        self._client().set_registered_model_alias(REGISTERED, alias, version)

    def digest_of_alias(self, alias: str) -> str | None:
        """Digest of the classifier that an alias names, or None where the alias is not set."""
        models = self._client().search_registered_models(f"name = '{REGISTERED}'")
        version = models[0].aliases.get(alias) if models else None
        return str(self._client().get_model_version(REGISTERED, version).tags[_CLASSIFIER_TAG]) if version else None

    def log_to_training(
        self,
        classifier_digest: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, str],
        table: Table,
        summary: str,
    ) -> str | None:
        """Add an evaluation to the run that trained a classifier, which stays ended, and its summary to the version.

        Returns the run's id; None if somebody deleted the run of a registered classifier.
        """
        run_id, version = self.find_training(classifier_digest), self.version_of(classifier_digest)
        if version is not None:
            self._client().update_model_version(REGISTERED, version, summary)
        if run_id is not None:
            self._mlflow().log_metrics(dict(metrics), run_id=run_id)
            self.tag(run_id, {**tags, "mlflow.note.content": summary})
            self.log_tables(run_id, [table])
            self.log_files(run_id, files)
        elif version is None:
            raise VirnucError(
                f"MLflow store {self.uri}: no run trained classifier {classifier_digest}; was the store replaced? "
                "Materialize the classifier again."
            )
        return run_id

    def find_training(self, classifier_digest: str) -> str | None:
        """Id of the latest run that trained a classifier, or None; deleted ones do not count."""
        return self._latest_run(f"tags.`{_CLASSIFIER_TAG}` = '{classifier_digest}'")

    def address(self, run_id: str, file: str = "") -> str:
        """URL of a run on the MLflow server, or of one of its files."""
        run = f"{self.server_url}/#/experiments/{self._experiment_id()}/runs/{run_id}"
        return f"{run}/artifacts/{file}?{PAGE}" if file else f"{run}?{PAGE}"

    def dagster_run(self, run_id: str) -> str:
        """URL of a run of Dagster."""
        return f"{self.dagster_url}/runs/{run_id}"

    def dagster_asset(self, asset: str) -> str:
        """URL of an asset's page."""
        return f"{self.dagster_url}/assets/{asset}"

    def link(self, run_id: str | None, file: str = "") -> dg.UrlMetadataValue | dg.TextMetadataValue:
        """A link to a run on the MLflow server, or one of its files; where there is none, the reason."""
        if run_id is None or self._latest_run(f"attributes.run_id = '{run_id}'") is None:
            return dg.MetadataValue.text(f"no link: run {run_id or 'of this training'} was deleted from {self.uri}")
        return dg.MetadataValue.url(self.address(run_id, file))

    def _latest_run(self, where: str) -> str | None:
        runs = self._client().search_runs([self._experiment_id()], where, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _mlflow(self) -> Any:  # noqa: ANN401
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        return mlflow

    def _client(self) -> Any:  # noqa: ANN401
        return self._mlflow().MlflowClient()

    def _experiment_id(self) -> str:
        experiment = self._client().get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise VirnucError(f"MLflow store {self.uri}: experiment {EXPERIMENT!r} is missing; run `virnuc setup`")
        if self.artifacts not in ("", experiment.artifact_location):
            raise VirnucError(misplaced(self.uri, experiment.artifact_location, self.artifacts))
        return str(experiment.experiment_id)

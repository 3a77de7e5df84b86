"""The sections of `virnuc.toml` that say how the platform runs; they change no result."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Section(BaseModel):
    """A section: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AutomationSettings(Section):
    """What the platform does by itself.

    Attributes:
        reembed_cron: when the reference is planned again and embedded where it changed, in UTC; as cron writes it.
        retrain_cron: when `retraining`, once it is turned on, trains and decides again if the features changed, in UTC.
        partitions_per_run: at most; each run loads its models once. Loading 650 million parameters took 5 s on 2 cores;
            a GPU that embeds 2,000 frames a second needs as long for a shard of 10,000, so one shard a run would spend
            half of its time on loading, and 20 spend a twentieth. A run that is retried keeps finished partitions.
    """

    reembed_cron: str = "0 3 * * 0"
    retrain_cron: str = "0 5 * * 0"
    partitions_per_run: PositiveInt = 20


Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class LaunchSettings(Section):
    """Where the steps of a run run. Where runs run is the run launcher's in `dagster.yaml`.

    Attributes:
        steps: in the process of their run, or each in a Kubernetes pod of its own.
        steps_at_once: pods of one run; several runs go beside each other anyway.
        step_cpu: cores requested for a step's pod, as Kubernetes writes quantities.
        step_memory: memory requested for a step's pod, and its limit.
        gpu_nodes: labels of the nodes for steps with a GPU, where a cluster has more than one kind of it.
    """

    steps: Literal["in_process", "kubernetes"] = "in_process"
    steps_at_once: int = Field(default=1, ge=1)
    step_cpu: Quantity = "1"
    step_memory: Quantity = "4Gi"
    gpu_nodes: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_process_has_one_step(self) -> LaunchSettings:
        if self.steps == "in_process" and self.steps_at_once > 1:
            raise ValueError('steps_at_once above 1 needs steps = "kubernetes"')
        return self


class ServerSettings(Section):
    """Ports of the two servers that `make up` starts on loopback."""

    dagster_port: int = Field(default=3000, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)

    @model_validator(mode="after")
    def _two_different_ports(self) -> ServerSettings:
        if self.dagster_port == self.mlflow_port:
            raise ValueError("dagster_port and mlflow_port must differ")
        return self

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def dagster_url(self) -> str:
        """Address of the Dagster UI."""
        return f"http://127.0.0.1:{self.dagster_port}"


class TrackingSettings(Section):
    """Where MLflow keeps trainings and models.

    Attributes:
        uri: `postgresql://user@host/database`, or `http://host:port` of a server that others run; by default a SQLite
            file below `paths.var`. A password stands in ~/.pgpass, or in the file that PGPASSFILE names.
        artifacts: of a database: a folder that all hosts share, or `s3://bucket/prefix`; by default below `paths.var`.
    """

    uri: str | None = Field(default=None, pattern="^(postgresql|https?)://[^/]+")
    artifacts: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _no_secret_and_no_contradiction(self) -> TrackingSettings:
        if self.uri and re.match(r"\w+://[^/@]*:[^/@]*@", self.uri):
            raise ValueError("uri holds a password; write postgresql://user@host/database, and it into ~/.pgpass")
        if self.of_others and self.artifacts:
            raise ValueError("artifacts of an MLflow server that others run are where it says; remove artifacts")
        return self

    @property
    def of_others(self) -> bool:
        """Whether it is a server that `virnuc up` does not start."""
        return self.uri is not None and self.uri.startswith("http")


class PathSettings(Section):
    """Folders, relative to the folder of `virnuc.toml` unless absolute.

    Attributes:
        genomes: the reference, with its MANIFEST.tsv.
        catalogues: more of such folders.
        incoming: the watched folder.
        var: all that the platform writes.
        results: of an object store, in place of `var`: tables, classifiers, decision and reports of all profiles.
    """

    genomes: str = Field(default="data/genomes", min_length=1)
    catalogues: list[Annotated[str, Field(min_length=1)]] = []
    incoming: str = Field(default="data/incoming", min_length=1)
    var: str = Field(default="var", min_length=1)
    results: str | None = Field(default=None, pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[\w.=-]+)*$")

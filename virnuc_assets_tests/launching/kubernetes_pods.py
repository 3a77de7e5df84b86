"""Pods as processes of this machine: what environment one gets, how it starts and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

GPU = "nvidia.com/gpu"
Object = dict[str, Any]
# Objects that were given to the cluster, by kind and name.
Given = Mapping[tuple[str, str], Object]
_VOLUMES = {
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
}
_GRACE_SECONDS = 30.0  # as Kubernetes has it where a pod says nothing


@dataclass(frozen=True)
class Image:
    """What an image brings: the working folder, and variables that a pod may override."""

    folder: Path
    environment: Mapping[str, str]


class Pod:
    """A pod and its process. `object` is what the API shows of it."""

    def __init__(self, manifest: Object, folder: Path) -> None:
        self.object, self.log = manifest, folder / f"{manifest['metadata']['name']}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._kill_at = float("inf")
        self._set_status("Pending")

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def container(self) -> Object:
        (container,) = self.object["spec"]["containers"]
        return dict(container)

    @property
    def gpus(self) -> int:
        return int(self.container.get("resources", {}).get("limits", {}).get(GPU, 0))

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.object["metadata"]["labels"])

    @property
    def phase(self) -> str:
        return str(self.object["status"]["phase"])

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def deleted(self) -> bool:
        return "deletionTimestamp" in self.object["metadata"]

    @property
    def lives(self) -> bool:
        """Whether anything of its processes is left."""
        return self.process is not None and any(
            os.getpgid(process.pid) == self.process.pid
            for process in psutil.process_iter(["status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE and process.is_running()
        )

    def start(self, images: Mapping[str, Image], given: Given) -> None:
        """Start the process; what the pod refers to and is not there is a KeyError."""
        container, image = self.container, images[self.container["image"]]
        for volume in self.object["spec"].get("volumes", []):
            for key, (kind, name) in _VOLUMES.items():
                if key in volume:
                    given[kind, volume[key][name]]
        environment = {**image.environment, **dict(_variables(container, given)), "HOSTNAME": self.name}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*container.get("command", []), *container.get("args", [])],
                **{"cwd": image.folder, "env": environment, "start_new_session": True},
                **{"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL},
            )
        self._set_status("Running", {"running": {"startedAt": now()}})

    def poll(self) -> None:
        """Learn whether the process ended; end one whose grace is over."""
        if self.process is None or self.ended:
            return
        if time.monotonic() > self._kill_at:
            self.kill()
        status = self.process.poll()
        if status is None:
            return
        self.kill()  # what it left behind
        code = 128 - status if status < 0 else status
        terminated = {"exitCode": code, "finishedAt": now(), "reason": "Error" if code else "Completed"}
        self._set_status("Failed" if code else "Succeeded", {"terminated": terminated})

    def delete(self) -> None:
        """Ask the process to end, and later make it."""
        if self.deleted:
            return
        self.object["metadata"]["deletionTimestamp"] = now()
        self._kill_at = time.monotonic() + float(
            self.object["spec"].get("terminationGracePeriodSeconds", _GRACE_SECONDS)
        )
        if self.process is None:
            self._set_status("Failed")
        elif not self.ended:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _set_status(self, phase: str, state: Object | None = None) -> None:
        container = self.container
        status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        statuses = [{**status, "ready": phase == "Running", "state": state}] if state else []
        self.object["status"] = {"phase": phase, "containerStatuses": statuses}


def _variables(container: Object, given: Given) -> Iterator[tuple[str, str]]:
    """Name and value of each variable, later ones over earlier; what is referred to must be there."""
    for source in container.get("envFrom", []):
        for kind, reference in (("ConfigMap", source.get("configMapRef")), ("Secret", source.get("secretRef"))):
            if reference:
                yield from _data(given[kind, reference["name"]]).items()
    for variable in container.get("env", []):
        origin = variable.get("valueFrom", {})
        if not origin:
            yield variable["name"], variable.get("value", "")
        for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if key in origin:
                yield variable["name"], _data(given[kind, origin[key]["name"]])[origin[key]["key"]]


def _data(found: Object) -> dict[str, str]:
    return {**found.get("data", {}), **found.get("stringData", {})}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

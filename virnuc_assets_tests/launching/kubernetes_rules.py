"""What Kubernetes takes: its schemas, strictly, and some rules that no schema tells."""

from __future__ import annotations

import re
from collections.abc import Iterator

import kubernetes_validate

from virnuc_assets_tests.launching.kubernetes_pods import Object

VERSION = "1.36"  # that of the client which dagster-k8s brings
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?")


class Refused(Exception):
    """What the API answers in place of an object; `code` is that of HTTP."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


def validate(manifest: Object) -> None:
    """Raise `Refused` unless Kubernetes would take an object."""
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        raise Refused(422, "Invalid", f"{manifest.get('kind')} is invalid: {where}: {error.message}") from error
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    if wrong := next(_wrong(manifest, pod), None):
        raise Refused(422, "Invalid", f"{manifest.get('kind')} is invalid: {wrong}")


def _wrong(manifest: Object, pod: Object) -> Iterator[str]:
    """What the schemas let pass and the API does not, as far as it matters here."""
    if manifest.get("kind") == "Job" and pod["restartPolicy"] not in ("Never", "OnFailure"):
        yield f"restartPolicy: {pod['restartPolicy']!r} is neither Never nor OnFailure"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod.get("containers", []):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"volumeMounts: {mount['name']!r} is no volume of the pod"
        for quantities in container.get("resources", {}).values():
            yield from (f"resources: {q!r} is no quantity" for q in quantities.values() if not _QUANTITY.fullmatch(q))

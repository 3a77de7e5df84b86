"""A stand-in for the API server of Kubernetes, for as much of it as dagster-k8s uses; what it accepts is executed.

Every object that arrives is validated strictly against the schemas of Kubernetes, and refused if it is invalid. The pod
of a job is a local process. Nothing of it outlives the block.
"""

from __future__ import annotations

import copy
import json
import random
import re
import string
import threading
import uuid
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

from virnuc_assets_tests.launching.kubernetes_pods import Image, Object, Pod, now

VERSION = "1.36"  # that of the client which dagster-k8s brings
NAMESPACE = "virnuc"
_JOBS = re.compile(rf"/apis/batch/v1/namespaces/{NAMESPACE}/jobs(?:/([^/]+)(/status)?)?")
_CORE = re.compile(rf"/api/v1/namespaces/{NAMESPACE}/(pods|events)(?:/([^/]+)(/log)?)?")
_POLL_SECONDS = 0.05


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
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})  # what the schemas let pass and the API does not
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for mount in (mount for container in pod.get("containers", []) for mount in container.get("volumeMounts", [])):
        if mount["name"] not in volumes:
            raise Refused(422, "Invalid", f"{manifest['kind']} is invalid: {mount['name']!r} is no volume of the pod")


class Cluster:
    """Jobs with their pods, each on a node that has all it asks for, and the API at `kubeconfig`.

    Attributes:
        refused: messages about invalid objects, and about pods that refer to what is not there.
        unknown: requests for what a stand-in does not have; none should arrive.
        pods_seen: all that there ever were, in order.
    """

    def __init__(self, folder: Path, images: Mapping[str, Image]) -> None:
        folder.mkdir()
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self.pods_seen: list[Pod] = []
        self._folder, self._images = folder, images
        self._given: dict[tuple[str, str], Object] = {}
        self._jobs: dict[str, Object] = {}
        self._pods: dict[str, Pod] = {}
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._threads = [threading.Thread(target=self._server.serve_forever), threading.Thread(target=self._control)]
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self._server.server_port)))
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all pods, and stop."""
        self._closed.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        for pod in self._pods.values():
            pod.kill()
            if pod.process is not None:
                pod.process.wait()

    def give(self, *manifests: Object) -> None:
        """Objects that an administrator makes: secrets, config maps, claims of volumes."""
        for manifest in manifests:
            validate(manifest)
            self._given[manifest["kind"], manifest["metadata"]["name"]] = manifest

    def pods(self) -> list[Pod]:
        """Those that are there now."""
        with self._lock:
            return list(self._pods.values())

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Object) -> Object | str:
        """What the API answers, as an object or, for a log, as text."""
        with self._lock:
            if found := _JOBS.fullmatch(path):
                return self._answer_jobs(method, found[1], query, body)
            if found := _CORE.fullmatch(path):
                kind, name, log = found.groups()
                if kind == "events" and method == "GET":
                    return _listed("Event", [], query)
                if method == "GET" and name is None:
                    return _listed("Pod", [pod.object for pod in self._pods.values()], query)
                if method == "GET":
                    pod = _there(self._pods, name)
                    return _tail(pod.log, int(query.get("tailLines", 10_000))) if log else pod.object
                if method == "DELETE" and name is not None:
                    _there(self._pods, name).delete()
                    return copy.deepcopy(self._pods[name].object)
        self.unknown.append(f"{method} {path}")
        raise Refused(404, "NotFound", f"the stand-in has no {method} {path}")

    def _answer_jobs(self, method: str, name: str | None, query: Mapping[str, str], body: Object) -> Object:
        if method == "POST" and name is None:
            return self._create_job(body)
        if method == "GET":
            return _listed("Job", list(self._jobs.values()), query) if name is None else _there(self._jobs, name)
        if method == "DELETE" and name is not None:  # left to itself, batch/v1 deletes a job and lets its pods continue
            policy = body.get("propagationPolicy", query.get("propagationPolicy", "Orphan"))
            self._delete_job(_there(self._jobs, name), with_pods=policy != "Orphan")
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Refused(405, "MethodNotAllowed", f"the stand-in cannot {method} jobs")

    def _create_job(self, job: Object) -> Object:
        try:
            validate(job)
        except Refused as why:
            self.refused.append(str(why))
            raise
        name = job["metadata"]["name"]
        if name in self._jobs:
            raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        job = copy.deepcopy(job)
        job["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE, "creationTimestamp": now()}
        job["status"] = {"startTime": now(), "active": 0, "succeeded": 0, "failed": 0}
        self._jobs[name] = job
        return job

    def _delete_job(self, job: Object, with_pods: bool) -> None:
        del self._jobs[job["metadata"]["name"]]
        for pod in self._pods_of(job) if with_pods else ():
            pod.delete()

    def _pods_of(self, owner: Object) -> list[Pod]:
        return [pod for pod in self._pods.values() if _owned(pod.object, owner)]

    def _control(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            with self._lock:
                for job in list(self._jobs.values()):
                    self._reconcile(job)
                for pod in list(self._pods.values()):
                    self._carry_on(pod)

    def _reconcile(self, job: Object) -> None:
        """Keep a job's status true, and give it the pod that it lacks."""
        status, pods = job["status"], self._pods_of(job)
        assert job["spec"]["backoffLimit"] == 0  # as dagster-k8s has it: a pod that fails is not followed by another
        if not pods and "conditions" not in status:
            self._create_pod(job)
        status["active"] = sum(not pod.ended for pod in pods) if pods else 1
        for pod in pods:
            if pod.ended:
                done = pod.phase == "Succeeded"
                status |= {"succeeded": int(done), "failed": int(not done)}
                status["conditions"] = [{"type": "Complete" if done else "Failed", "status": "True"}]

    def _create_pod(self, job: Object) -> None:
        template, owner = job["spec"]["template"], job["metadata"]
        name = f"{owner['name']}-{''.join(random.choices(string.ascii_lowercase, k=5))}"
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}
        labels = {**template["metadata"].get("labels", {}), "job-name": owner["name"]}
        metadata = {"name": name, "uid": str(uuid.uuid4()), "labels": labels, "ownerReferences": [reference]}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
        validate(manifest)
        self._pods[name] = Pod(manifest, self._folder)
        self.pods_seen.append(self._pods[name])

    def _carry_on(self, pod: Pod) -> None:
        pod.poll()
        if pod.deleted and pod.ended:
            del self._pods[pod.name]
            for job in [job for job in self._jobs.values() if _owned(job, pod.object)]:
                self._delete_job(job, with_pods=True)
        elif pod.process is None and not pod.ended:
            try:
                pod.start(self._images, self._given)
            except KeyError as absent:
                self.refused.append(f"pod {pod.name} refers to {absent}, which is not there")
                pod.delete()


def _owned(child: Object, owner: Object) -> bool:
    references = child["metadata"].get("ownerReferences", [])
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in references)


def _there(objects: Mapping[str, Any], name: str) -> Any:
    if name not in objects:
        raise Refused(404, "NotFound", f'"{name}" not found')
    return objects[name]


def _listed(kind: str, objects: Sequence[Object], query: Mapping[str, str]) -> Object:
    """A list of those that the selectors of the query leave."""
    labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    found = [item for item in objects if labels.items() <= item["metadata"].get("labels", {}).items()]
    items = [item for item in found if name in ("", item["metadata"]["name"])]
    return {"kind": f"{kind}List", "apiVersion": "batch/v1" if kind == "Job" else "v1", "metadata": {}, "items": items}


def _tail(log: Path, lines: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def _kubeconfig(port: int) -> Object:
    context = {"cluster": "stand-in", "user": "tests", "namespace": NAMESPACE}
    return {
        **{"apiVersion": "v1", "kind": "Config", "current-context": "tests"},
        "clusters": [{"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "tests", "context": context}],
        "users": [{"name": "tests", "user": {}}],
    }


def _handler_of(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            code, answer = 200, None
            try:
                answer = cluster.answer(self.command, url.path, query, json.loads(content or "{}"))
            except Refused as why:
                code, status = why.code, {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
                answer = {**status, "reason": why.reason, "message": str(why), "code": code}
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler

"""Three shards by each launcher: the default one, Slurm's and, executed by the stand-in, that of Kubernetes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from virnuc_assets.defs.launchers.slurm import JOB_TAG
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching.kubernetes_deployment import STAGES, Deployment
from virnuc_assets_tests.launching.platform import launch, platform
from virnuc_assets_tests.launching.slurm_cluster import Cluster
from virnuc_assets_tests.launching.slurm_platform import becomes, on_slurm, tags_of

pytestmark = pytest.mark.slurm
pytest_plugins = [
    "virnuc_assets_tests.assets.finished",
    "virnuc_assets_tests.launching.kubernetes_fixtures",
    "virnuc_assets_tests.launching.slurm_cluster",
]


def test_three_shards_are_the_same_byte_for_byte_whichever_launcher_makes_them(
    framed: Project, deployment: Deployment, cluster: Cluster, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    keys = framed.keys(REFERENCE)[:3]
    default, by_slurm = (framed.copy(tmp_path / name, in_memory=False) for name in ("default", "slurm"))
    projects = {"default": default, "slurm": by_slurm, "kubernetes": deployment.project}
    for project in projects.values():
        for path in tables(project, keys):
            path.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        servers = {"default": stack.enter_context(platform(default)), "kubernetes": deployment.platform}
        servers["slurm"] = stack.enter_context(on_slurm(by_slurm, cluster))
        runs = {launcher: launch(servers[launcher], STAGES, keys) for launcher in projects}
        for launcher, run in runs.items():
            becomes(servers[launcher], run, "SUCCESS")
        assert [launcher for launcher, run in runs.items() if JOB_TAG in tags_of(servers[launcher], run)] == ["slurm"]
    assert len(deployment.pods_of(runs["kubernetes"])) == 1 + len(STAGES)

    found = {launcher: digests(project, keys) for launcher, project in projects.items()}
    tell(f"{'table':61} | " + " | ".join(f"{launcher:16}" for launcher in found))
    for name in found["default"]:
        tell(f"{name:61} | " + " | ".join(by.get(name, "")[:16] for by in found.values()))
    assert len(found["default"]) == len(STAGES) * len(keys)
    assert found["slurm"] == found["default"]
    assert found["kubernetes"] == found["default"]


def tables(project: Project, keys: list[str]) -> list[Path]:
    layout = project.workspace.layout
    return [layout.table("reference", stage, key) for stage in STAGES for key in keys]


def digests(project: Project, keys: list[str]) -> dict[str, str]:
    """Digest of each file's bytes, by its path below the results."""
    root = project.workspace.layout.results
    paths = tables(project, keys)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

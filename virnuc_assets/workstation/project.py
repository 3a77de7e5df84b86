"""A new project's folder: settings, Dagster's workspace, and where genomes and samples go."""

from __future__ import annotations

import shutil
from pathlib import Path

from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.settings import SETTINGS_FILE
from virnuc_assets.storage.atomic import atomic_folder, atomic_write
from virnuc_assets.storage.outputs import OutputRefused, require_writable

# Links to the checkout's own project, which the wheel holds as files.
_TEMPLATE = Path(__file__).parents[1] / "template"
DEMO_SAMPLE = _TEMPLATE / "samples/demo_sample.fasta"
WORKSPACE_FILE = "workspace.yaml"


def make_project(folder: Path, bundled: bool) -> None:
    """Make a project in a folder, which is made if absent; with the bundled genomes and sample, or without sequence.

    Raises:
        OutputRefused: something of a project is there, or the folder cannot be written. As after any other error,
            nothing was written, so that the call can be repeated.
    """
    data = folder / "data"
    require_writable(folder)
    if found := [path.name for path in (folder / SETTINGS_FILE, folder / WORKSPACE_FILE, data) if path.exists()]:
        raise OutputRefused(f"{folder.resolve()}: {', '.join(found)} there already; name a folder for a new project")
    with (  # the last one gets its name first; settings last: with them it is a project
        atomic_write(folder / SETTINGS_FILE) as settings,
        atomic_write(folder / WORKSPACE_FILE) as workspace,
        atomic_folder(data) as temporary,
    ):
        for name in ("genomes", "samples"):
            if bundled:
                shutil.copytree(_TEMPLATE / name, temporary / name)
            else:
                (temporary / name).mkdir()
        if not bundled:
            write_manifest(temporary / "genomes", [])
        (temporary / "incoming").mkdir()
        shutil.copyfile(_TEMPLATE / WORKSPACE_FILE, workspace)
        shutil.copyfile(_TEMPLATE / SETTINGS_FILE, settings)

"""Fixtures: the project that ran from FASTA to the decision, once a session, and copies of it.

A pytest plugin, because it serves two folders: modules that read the finished project name it in `pytest_plugins`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from virnuc_assets.workstation.setup import set_up
from virnuc_assets_tests.assets.project import (
    GENOMES,
    SAMPLE,
    SAMPLE_RECORDS,
    Finished,
    Project,
    failures,
    new_project,
    quiet,
)
from virnuc_assets_tests.made_once import made_once


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a project that is set up and has no data; never run, only copied."""

    def make(folder: Path) -> None:
        project = Project(folder)
        project.configure()
        with quiet():
            set_up(project.settings, lambda _: None)

    return made_once(tmp_path_factory, "blank", make)


@pytest.fixture
def untrained(blank: Path, tmp_path: Path) -> Project:
    """A project that is set up and has neither genomes nor a classifier."""
    return new_project(tmp_path / "untrained", blank)


@pytest.fixture(scope="session")
def finished(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A project after all jobs, as the demo runs them."""
    root = tmp_path_factory.mktemp("finished") / "project"
    project = Finished(new_project(root, blank, GENOMES, {SAMPLE: SAMPLE_RECORDS}).root, in_memory=True)
    project.results = project.run_everything()
    if failed := failures(*project.results):
        pytest.fail("\n".join(failed))
    return project


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project that a test may change."""
    return finished.copy(tmp_path / "project")

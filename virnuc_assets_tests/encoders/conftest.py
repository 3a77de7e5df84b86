"""Miniature checkpoints, written once a session."""

from pathlib import Path

import pytest

from virnuc_assets.encoders.checkpoints import fetch_checkpoint
from virnuc_assets_tests.encoders.drawn import MINIATURES


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every miniature."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for spec in MINIATURES:
        fetch_checkpoint(spec, folder)
    return folder

"""Fixtures that several test packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Folder of the checkout, with its bundled data."""
    return PROJECT

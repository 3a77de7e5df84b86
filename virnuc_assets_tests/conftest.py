"""Fixtures that several test packages share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes tells more of the machine, and of what else is first imported in it, than of the code.
settings.register_profile("virnuc", deadline=None)
settings.load_profile("virnuc")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Folder of the checkout, with its bundled data."""
    return PROJECT


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the finished project share a process, so that it is made once where tests run in several."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("finished"))

"""Fixtures that several test packages share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes shows more of the machine, and of what else is first imported in it, than of the code.
settings.register_profile("virnuc", deadline=None)
settings.load_profile("virnuc")

PROJECT = Path(__file__).resolve().parent.parent
_REPORTED = "reported"


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Folder of the checkout, with its bundled data."""
    return PROJECT


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every miniature."""
    from virnuc_assets.encoders.miniature import write_miniature
    from virnuc_assets.encoders.registry import ENCODERS, MINIATURE

    folder = tmp_path_factory.mktemp("checkpoints")
    for spec in ENCODERS.values():
        if spec.checkpoint == MINIATURE:
            write_miniature(spec, folder)
    return folder


@pytest.fixture
def report_line(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have something lines at the end of the tests, whether they pass or not, and in whichever process they run."""
    return functools.partial(record_property, _REPORTED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        lines = [value for name, value in getattr(report, "user_properties", ()) if name == _REPORTED]
        if lines and report.when == "call":
            terminalreporter.section(report.nodeid.rpartition("::")[-1], sep="-")
            terminalreporter.write("\n".join(lines) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the finished project share a process, so that it is made once where tests run in several."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("finished"))

"""`make screenshots`: the pictures of the README and of these pages, from the real servers, by a headless Chromium.

Runs in a project that `make demo` finished. The browser is the system's; playwright only drives it.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import FloatRect, Page, ViewportSize, sync_playwright

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.reports.sample_results import PAGE_FILE
from virnuc_assets.settings import load_settings
from virnuc_assets.workstation.setup import DEMO_SAMPLE, mlflow_page

PICTURES = Path(__file__).parent / "pictures"
SIZE: ViewportSize = {"width": 1200, "height": 760}
LINEAGE = 'asset-groups~%2Bkey%3A"migration_decision"'  # the decision and everything upstream of it
SETTLED_MS = 4000  # the pages load by many requests after their frame is there


def main() -> None:
    """Take every picture."""
    settings = load_settings(Path())
    dagster, mlflow = settings.servers.dagster_url, settings.servers.mlflow_url
    layout = Workspace(settings).layout
    report = layout.whole("migration_decision", ".html")
    sample = layout.sample_report(Path(DEMO_SAMPLE).stem) / PAGE_FILE
    for path in (report, sample):
        if not path.is_file():
            sys.exit(f"{path}: not found; run `make demo` first")
    PICTURES.mkdir(exist_ok=True)
    with _servers(dagster, mlflow), _page() as page:
        _lineage(page, f"{dagster}/{LINEAGE}")
        _take(page, "embeddings", f"{dagster}/assets/reference/fastesm2_650_embeddings")
        _metadata(page, "decision", f"{dagster}/assets/migration_decision", "summary")
        _take(page, "automation", f"{dagster}/automation")
        _materialize(page, "materialize", f"{dagster}/assets/samples/predictions")
        _materialize(page, "first_run", f"{dagster}/locations/virnuc_assets/jobs/embed_reference")
        _materialize(page, "one_encoder", f"{dagster}/locations/virnuc_assets/jobs/embed_reference_by_fastesm2_650")
        _metadata(page, "new_genome", f"{dagster}/assets/reference/shard_plan", "sources")
        _curves(page, f"{dagster}/assets/fastesm2_evaluation")
        _trainings(page, mlflow_page(settings))
        _take(page, "report", report.as_uri())
        _take(page, "sample_report", sample.as_uri())
        _take(page, "sample_track", f"{sample.as_uri()}#tracks")


@contextmanager
def _servers(*addresses: str) -> Iterator[None]:
    """`virnuc up`, from the moment that all addresses answer; what answers before is another server, of other code."""
    if taken := [address for address in addresses if _answers(address)]:
        sys.exit(f"{', '.join(taken)}: a server is running there; stop it first, its pages would be in the pictures")
    command = [str(Path(sys.executable).parent / "virnuc"), "up"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as up:  # noqa: S603
        try:
            waiting = [*addresses]
            while waiting:
                if up.poll() is not None:
                    sys.exit(f"virnuc up ended with status {up.returncode}")
                if _answers(waiting[0]):
                    waiting.pop(0)
                else:
                    time.sleep(1)
            yield
        finally:
            up.terminate()


def _answers(address: str) -> bool:
    try:
        requests.get(address, timeout=5)
    except requests.ConnectionError:
        return False
    return True


@contextmanager
def _page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        browser.close()


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)


def _take(page: Page, name: str, address: str) -> None:
    _open(page, address)
    _save(page, name)


def _save(page: Page, name: str, clip: FloatRect | None = None) -> None:
    """In 256 colors: a third of the bytes."""
    Image.open(io.BytesIO(page.screenshot(clip=clip))).quantize().save(PICTURES / f"{name}.png", optimize=True)


def _lineage(page: Page, address: str) -> None:
    """The graph alone: expanded, opened again so that it is centred, zoomed out, without what is around it."""
    page.set_viewport_size({"width": 2300, "height": 2100})
    _open(page, address)
    page.keyboard.press("Alt+e")
    page.wait_for_timeout(SETTLED_MS)
    page.reload()
    page.wait_for_timeout(SETTLED_MS)
    for _ in range(3):
        page.get_by_label("zoom_out").first.click()
        page.wait_for_timeout(1000)
    _save(page, "lineage", {"x": 870, "y": 435, "width": 1105, "height": 1205})
    page.set_viewport_size(SIZE)


def _materialize(page: Page, name: str, address: str) -> None:
    """The dialog that asks for partitions; nothing is launched."""
    _open(page, address)
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="All", exact=True).click()
    page.wait_for_timeout(SETTLED_MS)
    _save(page, name)


def _metadata(page: Page, name: str, address: str, key: str) -> None:
    """The page of an asset from one entry of its metadata on."""
    page.set_viewport_size({"width": 1600, "height": 900})
    _open(page, address)
    page.get_by_text(key, exact=True).first.evaluate("entry => entry.scrollIntoView()")
    page.wait_for_timeout(SETTLED_MS)
    _save(page, name)
    page.set_viewport_size(SIZE)


def _curves(page: Page, address: str) -> None:
    """The pictures in an asset's metadata."""
    _open(page, address)
    page.get_by_text("[Show Markdown]").first.click()
    page.wait_for_timeout(SETTLED_MS)
    _save(page, "curves")


def _trainings(page: Page, address: str) -> None:
    """The table of trainings, and the page of one, without MLflow's assistant."""
    _open(page, address.partition("#")[0])
    page.get_by_text("Model training").first.click()  # which the browser remembers
    _open(page, address)
    page.get_by_role("button", name="Close").first.click()
    page.wait_for_timeout(SETTLED_MS)
    _save(page, "mlflow")
    page.get_by_role("link", name="fastesm2 classifier").first.click()
    page.wait_for_timeout(SETTLED_MS)
    _save(page, "mlflow_run")


if __name__ == "__main__":
    main()

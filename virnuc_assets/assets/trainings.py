"""Where trainings run: on a device and beside a scratch folder, both of which they have to themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from virnuc_assets.resources import Workspace


@contextmanager
def training_place(workspace: Workspace, name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """The scratch folder for the training of a classifier; waits for other trainings of it, and for its device.

    The device comes first, for all: two that took the locks in different orders would wait for each other.

    Args:
        workspace: the project.
        name: of the classifier's folder.
        say: told for whom the device is waited.
    """
    from virnuc_assets.classifier.datasets import scratch_beside
    from virnuc_assets.workstation.device_lock import DeviceLock

    device = DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, say)
    with device.computing(), scratch_beside(workspace.layout.training(name)) as scratch:
        yield scratch

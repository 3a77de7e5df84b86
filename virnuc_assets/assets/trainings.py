"""Where trainings run: on a device and beside a scratch folder, both of which they have to themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from virnuc_assets.resources import Workspace


@contextmanager
def training_place(workspace: Workspace, name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """The scratch folder for the training of a classifier; waits for other trainings of it, and for its device.

    The device comes first: whoever embedded in this run holds it already, and waits for the folder next.

    Args:
        workspace: the project.
        name: of the classifier's folder.
        say: told for whom the device is waited; it is held until this process ends.
    """
    from virnuc_assets.classifier.row_store import scratch_beside
    from virnuc_assets.workstation.device_lock import hold_device

    hold_device(workspace.layout.locks, workspace.settings.encoding.device, say)
    with scratch_beside(workspace.layout.training(name)) as scratch:
        yield scratch

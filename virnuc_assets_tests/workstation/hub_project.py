"""A project in the full profile, whose checkpoints are set up in this process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants
from typer.testing import CliRunner

from virnuc_assets.cli.main import app
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.settings import SETTINGS_FILE, load_settings
from virnuc_assets.storage.layout import Layout
from virnuc_assets.workstation.lock import LOCK_FILE, Locked, read_lock
from virnuc_assets.workstation.setup import set_up_encoders


class Project:
    """A project on a machine.

    Attributes:
        root: Its folder, `project` in the machine's.
        cache: The machine's cache of the hub.
    """

    def __init__(self, machine: Path, settings: str = "", lock: Path | None = None) -> None:
        self.root, self.cache = machine / "project", machine / "home" / "hub"
        self.root.mkdir(parents=True)
        self.config, self.lock = self.root / SETTINGS_FILE, self.root / LOCK_FILE
        self.config.write_text(f'profile = "full"\n{settings}')
        if lock:
            shutil.copy(lock, self.lock)

    @property
    def workspace(self) -> Workspace:
        return Workspace(load_settings(self.root))

    @property
    def layout(self) -> Layout:
        return self.workspace.layout

    def locked(self, name: str) -> Locked:
        return read_lock(self.root).entries[name]

    def set_up(self, *names: str, update: Sequence[str] = ()) -> list[str]:
        """The lines that set-up of these encoders prints."""
        constants.HF_HUB_CACHE = str(self.cache)
        lines: list[str] = []
        set_up_encoders(self.workspace.settings, lines.append, names, update)
        return lines

    def refusal(self, *arguments: str) -> str:
        """The one message of `virnuc`, which fails."""
        constants.HF_HUB_CACHE = str(self.cache)
        result = CliRunner().invoke(app, [*arguments, "--project", str(self.root)])
        assert (result.exit_code, result.stderr.count("error: ")) == (1, 1), result.output
        assert isinstance(result.exception, SystemExit)  # no traceback
        return result.stderr.partition("error: ")[2]

    def find(self, name: str) -> Path | None:
        """What a run would load."""
        return find_checkpoint(self.workspace.encoder_named(name), self.layout.checkpoints)

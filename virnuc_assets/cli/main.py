"""`virnuc`: all commands, registered by being imported."""

from __future__ import annotations

from virnuc_assets.cli import catalogue, files, virnucpro, workstation
from virnuc_assets.cli.terminal import app, command

__all__ = ["app", "catalogue", "files", "workstation"]

command(virnucpro.import_, "import")
command(virnucpro.export)

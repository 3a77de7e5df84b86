"""`virnuc`: all commands, registered by being imported."""

from __future__ import annotations

from virnuc_assets import catalogue_cli
from virnuc_assets.cli import files, virnucpro, workstation
from virnuc_assets.cli.terminal import app, command

__all__ = ["app", "files", "workstation"]

command(catalogue_cli.catalogue)
command(virnucpro.import_, "import")
command(virnucpro.export)

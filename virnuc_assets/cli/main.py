"""`virnuc`: all commands, registered by being imported."""

from __future__ import annotations

from virnuc_assets import catalogue_cli, exchange_cli
from virnuc_assets.cli import files, workstation
from virnuc_assets.cli.terminal import app, command

__all__ = ["app", "files", "workstation"]

command(catalogue_cli.catalogue)
command(exchange_cli.import_, "import")
command(exchange_cli.export)

"""`virnuc`: all commands, registered by being imported."""

from __future__ import annotations

from virnuc_assets import exchange_cli
from virnuc_assets.cli import catalogue, files, workstation
from virnuc_assets.cli.terminal import app, command

__all__ = ["app", "catalogue", "files", "workstation"]

command(exchange_cli.import_, "import")
command(exchange_cli.export)

"""The command line as tests call it, in this process or by its script."""

import subprocess
import sys
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from virnuc_assets.cli.main import app


def virnuc(*arguments: str | Path) -> Result:
    """A command in this process; stdout and stderr apart, an error that is no message raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def console(*arguments: str | Path, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The installed console script, in a process of its own."""
    script = Path(sys.executable).with_name("virnuc")
    command = [script, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


def message(result: Result) -> str:
    """The one message of a command that failed."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stderr.count("error:") == 1
    return " ".join(result.stderr.partition("error:")[2].split())

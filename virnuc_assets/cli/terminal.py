"""What all commands share: the app, how a command ends, progress bars, and pairs that are printed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from virnuc_assets.errors import VirnucError
from virnuc_assets.text import printable

app = typer.Typer(
    help="Viral or not: frames, embeddings and predictions for short nucleotide sequences.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _pipe_closed() -> NoReturn:
    """End as a shell expects of a program whose reader went away; nothing more is written, also not at the exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    raise SystemExit(_SIGNALLED + signal.SIGPIPE)


class _Console(Console):
    """A console that ends the program as `_pipe_closed` does."""

    def on_broken_pipe(self) -> None:
        _pipe_closed()


out = _Console()
err = _Console(stderr=True)

HERE = Path()
Project = Annotated[
    Path,
    typer.Option(
        "--project", metavar="FOLDER", help="Folder of a project, with virnuc.toml.", show_default="the current folder"
    ),
]
_SIGNALLED = 128  # what a shell adds to a signal's number
BAR = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())


def command(function: Callable[..., Any], name: str | None = None) -> Callable[..., None]:
    """Register a command; an error that a person can fix is one message on stderr and exit status 1.

    What the function returns, if anything, is printed as pairs. A signal or a closed pipe ends it with the status that
    shells expect, after what was not finished is removed.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        try:
            with _ended_by_signals():
                print_pairs(function(*args, **kwargs) or {})
        except BrokenPipeError:
            _pipe_closed()
        except (VirnucError, OSError) as error:  # an --out that cannot be written is a person's to fix, too
            message = printable(f"error: {error}", keep="\n")
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return app.command(name)(run)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have the signals that end a program unwind it as Ctrl-C does, so that it removes what it has not finished.

    Dagster puts handlers of its own in place for a run, whose step then fails; which signal came is read from Python.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(_SIGNALLED + number)

    # Who started this with nohup wants it to live on.
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    received, written = socket.socketpair()
    received.setblocking(False)
    written.setblocking(False)
    with received, written:
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except (VirnucError, KeyboardInterrupt):
            with contextlib.suppress(BlockingIOError):  # none came
                raise SystemExit(_SIGNALLED + received.recv(1)[0]) from None
            raise
        finally:
            signal.set_wakeup_fd(-1)
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def no_progress(_: str) -> Iterator[Callable[[int, int], None]]:
    """As `progress`, without the bar."""
    yield lambda done, total: None


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for the block; gives what moves it: (done now, total)."""
    with Progress(*BAR, console=err) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, advance=done, total=total)


def log(text: str) -> None:
    """A line on stderr."""
    err.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def echo(text: str) -> None:
    """A line on stdout, as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def print_pairs(pairs: dict[str, Any]) -> None:
    """One line per pair, values in a column."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        out.print(Text(f"{name:<{width}}  {printable(str(value))}"), soft_wrap=True)

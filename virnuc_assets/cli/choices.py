"""What a call of `virnuc predict` may choose, and how a command takes that as options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from virnuc_assets.settings import Device, Precision

_SET = "as in virnuc.toml"


@dataclass(frozen=True)
class Choices:
    """Options of `virnuc predict`; None is what the project's settings say."""

    min_length: Annotated[int, typer.Option(min=0, help="Shorter records are not scored, in nt.")] = 0
    chunk_length: Annotated[int | None, typer.Option(help="300 or 500 nt, as the classifier's.", show_default=_SET)] = (
        None
    )
    device: Annotated[Device | None, typer.Option(help="Of the encoders.", show_default=_SET)] = None
    precision: Annotated[
        Precision | None, typer.Option(help="Of the encoders, as in the classifier's training.", show_default=_SET)
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.", show_default="all usable cores")] = None
    force: Annotated[bool, typer.Option("--force", help="Replace results that are in the folder.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False


def with_choices(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a command take the fields of `Choices`, which are its parameter `choices`, as options of their own."""

    @functools.wraps(function)
    def run(**given: Any) -> Any:  # noqa: ANN401
        chosen = {field.name: given.pop(field.name) for field in dataclasses.fields(Choices)}
        return function(**given, choices=Choices(**chosen))

    own, options = (inspect.signature(each, eval_str=True).parameters for each in (function, Choices))
    shown = [each.replace(kind=each.KEYWORD_ONLY) for each in {**own, **options}.values() if each.name != "choices"]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in shown}
    return run

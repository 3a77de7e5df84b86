"""The job `check_environment`: what `virnuc doctor` shows, where the run launcher puts a step, and the results store.

Its one step asks for the device as an embedding step does.
"""

import os
import time
from pathlib import Path

import dagster as dg

from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.aside import written_aside


def check_environment_job(workspace: Workspace) -> dg.JobDefinition:
    """A job whose output metadata shows the facts of `virnuc doctor`, and the answer of the results store."""

    @dg.op(out=dg.Out(dg.Nothing), pool=GPU_POOL, tags=gpu_op_tags(workspace.settings))
    def report_environment(context: dg.OpExecutionContext) -> None:
        """Fails where `virnuc doctor` does, or where the results store cannot be used."""
        from virnuc_assets.workstation.doctor import examine

        path = workspace.layout.results / f".check_environment.{context.run_id}"
        answer = _store_answer(path)
        found, problems = examine(workspace)
        facts = {name: str(value) for name, value in found.items()}
        if problems:
            raise dg.Failure("\n".join(problems), metadata=facts)
        context.add_output_metadata({**facts, "results": str(path.parent), "results store": answer})

    @dg.job(description="Shows host, device, versions and the results store's answer, as an embedding step finds them.")
    def check_environment() -> None:
        report_environment()

    return check_environment


def _store_answer(path: Path) -> str:
    """Write a small file, read it back and delete it."""
    text, start = path.name, time.monotonic()
    try:
        with written_aside(path) as partial:
            partial.write_text(text, encoding="utf-8")
        if (found := path.read_text(encoding="utf-8")) != text:
            raise OSError(f"expected {text!r}, found {found!r}")
        path.unlink()
    except OSError as error:  # what the client of an object store raises says enough
        raise VirnucError(
            f"the results store {path.parent} cannot be written and read: {error}. Make that folder writable for user "
            f"{os.getuid()}, or correct [paths] results."
        ) from error
    return f"written and read back in {time.monotonic() - start:.3f} s"

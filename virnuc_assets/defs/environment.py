"""The job `check_environment`: shows what a step finds where the run launcher puts it.

Its one step asks for the device as an embedding step does. Whether this machine is set up is `doctor`'s subject.
"""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import dagster as dg

from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.storage.atomic import atomic_write

# Other versions of these compute other numbers, or cannot read what was written.
LIBRARIES = ("virnuc_assets", "dagster", "mlflow", "torch", "transformers", "tokenizers", "pyarrow", "numpy")


def check_environment_job(workspace: Workspace) -> dg.JobDefinition:
    """A job whose output metadata shows host, device, versions, and the answer of the results store."""

    @dg.op(out=dg.Out(dg.Nothing), pool=GPU_POOL, tags=gpu_op_tags(workspace.settings))
    def report_environment(context: dg.OpExecutionContext) -> None:
        """Fails where the results store cannot be used, or where the settings require a GPU and there is none."""
        facts = _environment(workspace.settings.encoding.device)
        if workspace.settings.encoding.device == "cuda" and not facts["GPUs"]:
            raise dg.Failure(
                f"{facts['host']}: the step asks for a GPU ([encoding] device = 'cuda'), but torch finds none. Check "
                "the cluster's GPU request (gres, device plugin), or set device to 'auto' or 'cpu'.",
                metadata=facts,
            )
        path = workspace.layout.results / f".check_environment.{context.run_id}"
        context.add_output_metadata({**facts, "results": str(path.parent), "results store": _store_answer(path, facts)})

    @dg.job(description="Shows host, device, versions and the results store's answer, as an embedding step finds them.")
    def check_environment() -> None:
        report_environment()

    return check_environment


def _environment(device: str) -> dict[str, str | int]:
    """Facts of this process; `device` as in the settings."""
    import torch

    from virnuc_assets.encoders.machine import cpu_name

    gpus = torch.cuda.device_count()
    on_gpu = gpus and device != "cpu"
    return {
        "host": platform.node(),
        "user": str(os.getuid()),
        "device": f"cuda ({torch.cuda.get_device_name()})" if on_gpu else f"cpu ({cpu_name()})",
        "GPUs": gpus,
        "Python": f"{platform.python_version()} ({sys.executable})",
        **{library: version(library) for library in LIBRARIES},
    }


def _store_answer(path: Path, facts: dict[str, str | int]) -> str:
    """Write a small file, read it back and delete it; what goes wrong fails the step."""
    text, start = path.name, time.monotonic()
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
        if (found := path.read_text(encoding="utf-8")) != text:
            raise OSError(f"expected {text!r}, found {found!r}")
        path.unlink()
    except OSError as error:  # what the client of an object store raises says enough
        raise dg.Failure(
            f"{facts['host']}: the results store {path.parent} cannot be written and read: {error}. "
            f"Make that folder writable for user {facts['user']}, or correct [paths] results.",
            metadata=facts,
        ) from error
    return f"written and read back in {time.monotonic() - start:.3f} s"

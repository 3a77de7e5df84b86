"""What the machine offers."""

import os
import subprocess
import sys

import joblib
import pytest
import torch

from virnuc_assets.encoders.machine import prepare_cpu, resolve_device
from virnuc_assets.errors import VirnucError

linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity and glibc")


def printed(code: str, **environment: str) -> list[str]:
    command, given = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.split()


@linux
def test_torch_gets_the_cores_of_the_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}})\n"
        "import joblib, torch\n"
        "from virnuc_assets.encoders.machine import prepare_cpu\n"
        "print(joblib.cpu_count(), prepare_cpu(), torch.get_num_threads())"
    )
    assert printed(code) == ["1", "1", "1"]
    assert 1 <= prepare_cpu() == torch.get_num_threads() == joblib.cpu_count() <= (os.cpu_count() or 1)


@linux
def test_memory_that_was_freed_is_kept() -> None:
    """Blocks of many pages are asked for again with few page faults; in a process of its own, before and after."""
    code = (
        "import resource, torch\n"
        "from virnuc_assets.encoders.machine import prepare_cpu\n"
        "def layers(count):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(count): torch.relu(torch.ones(1 << 16, 256)) + 1\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "layers(3)\n"
        "plain = layers(4)\n"
        "prepare_cpu()\n"
        "layers(3)\n"
        "print(plain, layers(4))"
    )
    plain, prepared = map(int, printed(code))
    assert prepared <= plain / 4  # blocks of 64 MiB: more than glibc keeps by itself


def test_the_requested_device_is_used_or_refused() -> None:
    present = torch.cuda.is_available()
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if present else "cpu")
    if not present:
        with pytest.raises(VirnucError, match="device = 'cuda' is set, but torch finds no GPU"):
            resolve_device("cuda")

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from virnuc_assets import cores as cores_module
from virnuc_assets.cores import quota_cores, usable_cores
from virnuc_assets.encoders.machine import cpu_name, has_units, prepare_cpu, resolve_device


def test_no_more_cores_are_used_than_there_are() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_follow_the_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}})\n"
        "import torch; from virnuc_assets.cores import usable_cores\n"
        "from virnuc_assets.encoders.machine import prepare_cpu\n"
        "print(usable_cores(), prepare_cpu(), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("line", "cores"),
    [
        ("max 100000\n", math.inf),
        ("200000 100000\n", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("400000 50000", 8),
    ],
)
def test_the_quota_of_a_control_group(line: str, cores: float) -> None:
    assert quota_cores(line) == cores


def test_cores_follow_the_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for line, cores in (("100000 100000\n", 1), ("max 100000\n", len(os.sched_getaffinity(0)))):
        file = tmp_path / "cpu.max"
        file.write_text(line)
        monkeypatch.setattr(cores_module, "QUOTA_FILE", file)
        assert usable_cores() == cores


def test_torch_gets_the_usable_cores() -> None:
    torch.set_num_threads(1)
    assert prepare_cpu() == torch.get_num_threads() == usable_cores()


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    plain, prepared = map(int, done.stdout.split())
    assert prepared <= plain / 4  # blocks of 64 MiB: more than glibc keeps by itself


def test_units_are_told_for_every_precision() -> None:
    assert [type(has_units(precision)) for precision in ("fp32", "bf16", "fp16")] == [bool] * 3
    assert has_units("fp32")


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip() == cpu_name() != ""


def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
